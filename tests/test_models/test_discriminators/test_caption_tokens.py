# Copyright (c) mmdpad authors. Licensed under Apache-2.0.

import open_clip
import pytest
from open_clip.tokenizer import HFTokenizer
from transformers import CLIPTokenizer

from mmdpad.models.discriminators.caption_tokens import CaptionTokens


@pytest.fixture(scope='module')
def openai():
    return CaptionTokens(open_clip.get_tokenizer('ViT-B-32'), 77)


def test_openai_tokenizer(openai):
    """<start> a red apple <end>; 77 positions hold 75 words of one token."""
    assert openai.count('a red apple') == 5
    assert openai.context_length == 77
    assert openai.fits('red ' * 75) and not openai.fits('red ' * 76)


def test_the_count_is_what_the_tokenizer_writes(openai):
    text = 'Zwölf Äpfel &amp; 3 unbelievably-long words!'
    assert (openai([text]) != 0).sum() == openai.count(text)


def test_hugging_face_tokenizer(tiny):
    tokens = CaptionTokens(open_clip.get_tokenizer(f'local-dir:{tiny.hf_folder}'), 8)
    assert tokens.count('a red apple') == 5
    assert tokens.fits('red apple left of a blue')  # six words, start and end: 8
    assert not tokens.fits('red apple left of a blue apple')
    tokens([' '.join(['red'] * 30)])  # cutting a text must not change later counts
    assert tokens.count(' '.join(['red'] * 30)) == 32


def test_clips_mode_counts_its_class_token(tiny):
    tokenizer = HFTokenizer(tiny.hf_folder, context_length=8, tokenizer_mode='clips')
    tokens = CaptionTokens(tokenizer)
    assert tokens.count('a red apple') == 6
    assert tokens.fits('a red apple left of') and not tokens.fits('a red apple left of a')


@pytest.mark.parametrize('text', [None, '', ' \n\t', '&nbsp;'])
def test_a_text_that_says_nothing(openai, text):
    assert not openai.fits(text)


@pytest.mark.parametrize('text', [
    'a red apple <end_of_text> and more', '<END_OF_TEXT> a', 'a &lt;end_of_text&gt; b',
    'a<end_of_text>', '<start_of_text> a red apple'])
def test_the_text_of_an_end_token_says_nothing(openai, text):
    """Behind it the model reads nothing, so any caption could be made to look like its start."""
    assert openai.count(text) > 2 and not openai.fits(text)


@pytest.mark.parametrize('text', ['<|endoftext|>', 'the end of text', '</s> is a tag', '!!! a !',
                                  'a ><end_of_text>'])
def test_a_text_that_only_looks_like_one(openai, text):
    """Other models' end tokens; '!', whose number 0 is that of the padding; and what CLIP splits
    in another way ('><' is one piece), so that it reads on."""
    assert openai.fits(text)


def test_special_tokens_of_a_hugging_face_tokenizer(tiny):
    tokens = CaptionTokens(open_clip.get_tokenizer(f'local-dir:{tiny.hf_folder}'), 8)
    for text in ('a red </s> apple', '</s>', 'red <pad> apple', 'a <S> red'):
        assert not tokens.fits(text), text
    assert tokens.fits('a unknown word')  # <unk> is an ordinary word's
    assert tokens.fits('<end_of_text>')


def test_special_tokens_of_clips_tokenizer_from_transformers(tmp_path):
    """There the end token stands for unknown words, too; both hide what follows."""
    words = ['<|startoftext|>', '<|endoftext|>', 'a</w>', 'r', 'e', 'd</w>', 're', 'red</w>']
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)},
                  merges=[('r', 'e'), ('re', 'd</w>')]).save_pretrained(tmp_path)
    tokens = CaptionTokens(HFTokenizer(str(tmp_path)), 12)
    assert tokens.count('a red') == 4 and tokens.fits('a red')
    assert not tokens.fits('a <|endoftext|> red')


def test_a_text_of_too_many_characters_is_not_tokenized(openai, monkeypatch):
    text = 'x' * (77 * 64)
    assert not openai.fits(text)
    monkeypatch.setattr(openai, '_encode', lambda *_: pytest.fail('tokenized'))
    assert not openai.fits(f'{text}x')


def test_the_smaller_limit_counts():
    tokenizer = open_clip.get_tokenizer('ViT-B-32')
    assert CaptionTokens(tokenizer, 12).context_length == 12
    assert CaptionTokens(tokenizer, None).context_length == 77


def test_unknown_tokenizer():
    class Other:
        context_length = 5
    with pytest.raises(TypeError, match='three kinds, but got Other'):
        CaptionTokens(Other())
