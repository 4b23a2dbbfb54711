# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Folders of InternVL as they were published."""

from pathlib import Path

from policy_folders import case, change_json, read_json


@case("InternVL 3.5, whose head is not tied by the text_config alone", family='internvl',
      refused='config.json ties the output head .*set `tie_word_embeddings` to false')
def _(folder: Path) -> None:
    assert not read_json(folder / 'config.json')['text_config']['tie_word_embeddings']
    change_json(folder / 'config.json', 'tie_word_embeddings')


@case('InternVL in the format of its repository', family='internvl',
      refused="`model_type` in config.json .* is 'internvl_chat'; use such a model")
def _(folder: Path) -> None:
    change_json(folder / 'config.json', model_type='internvl_chat')
