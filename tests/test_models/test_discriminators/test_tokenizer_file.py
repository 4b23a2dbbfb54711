# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from mmengine.logging import MMLogger
from open_clip.tokenizer import HFTokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from mmdpad.models.discriminators.tokenizer_file import warn_of_other_tokens

WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', 'red', 'Red', 'apple', 'APPLE']


@pytest.fixture
def warnings_of(tmp_path, caplog):
    """Build the tokenizer of a folder with a tokenizer.json that keeps capitals; its warnings."""
    def warnings_of(tokenizer_class: str, clean: str = 'whitespace') -> list[str]:
        stored = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)},
                                            unk_token='[UNK]'))
        stored.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
        stored.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        stored.enable_truncation(2)
        stored.save(str(tmp_path / 'tokenizer.json'))
        (tmp_path / 'tokenizer_config.json').write_text(json.dumps(dict(
            tokenizer_class=tokenizer_class, unk_token='[UNK]', pad_token='[PAD]')))
        logger = MMLogger.get_current_instance()
        with caplog.at_level(logging.WARNING, logger.name):
            logger.addHandler(caplog.handler)
            warn_of_other_tokens(HFTokenizer(str(tmp_path), clean=clean), Path(tmp_path))
            logger.removeHandler(caplog.handler)
        return [record.getMessage() for record in caplog.records if record.name == logger.name]
    return warnings_of


def test_a_named_class_that_drops_the_normalizer_is_warned_of(warnings_of, tmp_path):
    """transformers 5 puts BERT's own in its place, which makes all letters small."""
    (message, ) = warnings_of('BertTokenizer')
    assert message.startswith(
        f"The tokenizer of {str(tmp_path)!r} reads 'A Red APPLE' as ['a', 'red', 'apple'], but its "
        "tokenizer.json as ['[UNK]', 'Red', 'APPLE']")
    assert '"tokenizer_class": "PreTrainedTokenizerFast"' in message


def test_the_remedy_helps(warnings_of):
    assert warnings_of('PreTrainedTokenizerFast') == []


def test_what_makes_no_difference_is_not_warned_of(warnings_of):
    """open_clip's own cleaning leaves neither capitals nor punctuation; accents make [UNK]."""
    assert warnings_of('BertTokenizer', clean='canonicalize') == []


def test_open_clips_own_tokenizer_is_not_looked_at(tmp_path):
    (tmp_path / 'tokenizer.json').write_text('{}')
    warn_of_other_tokens(object(), tmp_path)
