# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Which characters of a text a token stands for."""
import random

import pytest
from mostly_slow import mostly_slow
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mmdpad.models.heads.prompt_encoder import PromptEncoder
from mmdpad.models.heads.token_places import check_places, place_tokens
from mmdpad.toy import POLICY_WEIGHTS
from mmdpad.toy.policy_folder import make_policy_folder


@pytest.fixture(scope='module')
def tokenizer():
    return AutoTokenizer.from_pretrained(POLICY_WEIGHTS)


def tokens_of(tokenizer, data):
    """A token for each byte, in the alphabet of byte-level BPE."""
    names = {byte: name for name, byte in _alphabet().items()}
    return tokenizer.convert_tokens_to_ids([names[byte] for byte in data])


def _alphabet():
    from transformers.convert_slow_tokenizer import bytes_to_unicode
    return {name: byte for byte, name in bytes_to_unicode().items()}


def test_a_character_of_several_tokens(tokenizer):
    """Each of its bytes stands for it; a byte that is no text is a character by itself."""
    for data, text, places in [
            ('a狗b'.encode(), 'a狗b', [0, 1, 1, 1, 2]),
            ('\U0001F415é'.encode(), '\U0001F415é', [0, 0, 0, 0, 1, 1]),
            (b'a\xe7\x8bb', 'a\ufffdb', [0, 1, 1, 2]),
            (b'\xe7\xe7\x8b\x97', '\ufffd狗', [0, 1, 1, 1]),
            (b'\xff\x80', '\ufffd\ufffd', [0, 1]), (b'a\xe7', 'a\ufffd', [0, 1])]:
        found = place_tokens(tokenizer, tokens_of(tokenizer, data))
        assert found == (text, [(place, place + 1) for place in places])


def test_an_added_token_outside_the_alphabet_is_its_own_text():
    tokenizer = AutoTokenizer.from_pretrained(POLICY_WEIGHTS)
    tokenizer.add_tokens(['two words', '狗'])
    ids = [*tokens_of(tokenizer, b'a'),
           *tokenizer.convert_tokens_to_ids(['two words', '狗']), *tokens_of(tokenizer, b'b')]
    assert place_tokens(tokenizer, ids) == (
        tokenizer.decode(ids), [(0, 1), (1, 10), (10, 11), (11, 12)])


@pytest.mark.parametrize('family', mostly_slow(
    ['toy', 'qwen2_5_vl', 'qwen3_vl', 'glm4v', 'lfm2_vl', 'internvl'], fast=['toy']))
def test_the_text_is_what_the_tokenizer_decodes(family, tmp_path):
    """Of any tokens, also of numbers without one."""
    folder = POLICY_WEIGHTS if family == 'toy' else make_policy_folder(tmp_path / 'p', family)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    check_places(tokenizer, folder)
    rng = random.Random(0)
    for _ in range(500):
        ids = [rng.randrange(len(tokenizer) + 3) for _ in range(rng.randint(0, 12))]
        text, places = place_tokens(tokenizer, ids)
        assert text == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        for (start, end), (begin, _) in zip(places, places[1:], strict=False):
            assert start <= end <= begin + 1 and end <= len(text)
        codec = PromptEncoder(folder, 'default', 1300).responses if not places else None
        assert codec is None or codec.locate([]) == ('', [])


def test_the_codec_leaves_out_what_it_does_not_decode(tokenizer):
    codec = PromptEncoder(POLICY_WEIGHTS, 'default', 1300).responses
    text = '<think>a 狗</think>\n<answer>[]</answer>'
    ids = codec.encode_again(text)
    end = codec.end_tokens[0]
    row = [ids[0], end, *ids[1:], codec.pad_token]
    found, places = codec.locate(row)
    assert [found] == codec.decode([row]) == [text]
    assert places[1] is places[-1] is None
    assert places[0][0] == 0 and places[-2][1] == len(text)
    spelled = tokenizer.decode([end])
    assert codec.encode_again(text + spelled) == ids == codec.encode_again(text, [end])
    assert codec.encode_again('\ud800')


def test_a_tag_that_the_prompt_opens_has_no_tokens(tmp_path):
    from chat_templates import chat, policy_folder
    codec = PromptEncoder(policy_folder(tmp_path / 'policy', chat('<think>\n')), 'default',
                          1300).responses
    ids = codec.encode_again('<think>\nit is</think>')
    text, places = codec.locate(ids)
    assert text == '<think>\nit is</think>' and places[0][0] == len('<think>\n')


def test_another_kind_of_tokenizer_is_refused():
    backend = Tokenizer(models.WordLevel({'a': 0, '?': 1}, unk_token='?'))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.Metaspace()
    with pytest.raises(ValueError, match="tokenizer of 'some' should be a byte-level BPE"):
        check_places(PreTrainedTokenizerFast(tokenizer_object=backend), 'some')
