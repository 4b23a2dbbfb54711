# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks that a folder's tokenizer splits texts as its tokenizer.json does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import transformers
from mmengine.logging import print_log
from open_clip.tokenizer import HFTokenizer
from tokenizers import Tokenizer

_PROBES = ('a red apple', 'A Red APPLE', 'a café, naïve', "the dog's left-hand side (3 of 10)!",
           'two  blanks')


def warn_of_other_tokens(tokenizer: Any, folder: Path) -> None:
    """Log a warning if a text gets different tokens than by the folder's ``tokenizer.json``.

    transformers 5 builds a named class (``tokenizer_class`` in ``tokenizer_config.json``) from the
    vocabulary alone, and silently uses the class's own normalization and splitting.

    Args:
        tokenizer: A tokenizer from open_clip; only those of Hugging Face are checked.
        folder: The model's folder.
    """
    file = folder / 'tokenizer.json'
    if not isinstance(tokenizer, HFTokenizer) or not file.is_file():
        return
    stored = Tokenizer.from_file(str(file))
    stored.no_truncation()
    for text in map(tokenizer.clean_fn, _PROBES):
        built = tokenizer.tokenizer.tokenize(text)
        expected = stored.encode(text, add_special_tokens=False).tokens
        if built != expected:
            print_log(
                f'The tokenizer of {str(folder)!r} reads {text!r} as {built}, but its '
                f'tokenizer.json as {expected}: transformers {transformers.__version__} builds a '
                f'{type(tokenizer.tokenizer).__name__} from its vocabulary alone. If the model was '
                'trained with the tokens of the file, set "tokenizer_class": '
                '"PreTrainedTokenizerFast" in tokenizer_config.json', logger='current',
                level=logging.WARNING)
            return
