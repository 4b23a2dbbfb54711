# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Every engine begins and ends responses as the folder's files say."""
import fake_vllm
import pytest
import torch
from chat_templates import chat, policy_folder
from transformers import AutoTokenizer

from mmdpad.models import HFRollout, SharedPrefixRollout, VLLMRollout, VLMReasoningHead
from mmdpad.toy import POLICY_WEIGHTS
from mmdpad.toy.shapes_world import SHAPES_PROMPT_TEMPLATE

GREEDY = dict(temperature=0, max_new_tokens=90)
IMAGE = torch.randint(0, 256, (3, 112, 112), generator=torch.Generator().manual_seed(0),
                      dtype=torch.uint8)
QUESTIONS = ['the red circle', 'something you could roll']


@pytest.fixture(params=['HFRollout', 'SharedPrefixRollout', 'VLLMRollout'])
def engine(request, monkeypatch):
    if request.param == 'VLLMRollout':
        fake_vllm.install(monkeypatch)
        return VLLMRollout(dtype='float32')
    return dict(HFRollout=HFRollout, SharedPrefixRollout=SharedPrefixRollout)[request.param]()


@pytest.fixture
def answers(engine, tmp_path):
    """Greedy texts, token ids and cuts of the toy model as a folder of another kind."""
    def answers(*args, **files):
        folder = policy_folder(tmp_path / f'policy{len(list(tmp_path.iterdir()))}', *args, **files)
        head = VLMReasoningHead(folder, prompt_template=SHAPES_PROMPT_TEMPLATE).eval()
        prompts = head.encode_prompts([IMAGE] * 2, QUESTIONS)
        engine.llm = None
        responses = engine(head, prompts, **GREEDY)
        return head.decode(responses.ids), responses
    return answers


def test_a_tag_that_the_template_opens_is_a_part_of_the_text(answers):
    """The toy model writes it first anyway, so that all else is the same."""
    texts, own = answers(chat())
    assert all(text.startswith('<think>') and len(text) > 50 for text in texts)
    opened, rest = answers(chat('<think>'))
    assert opened == texts
    assert rest.ids[:, :own.ids.shape[1] - 1].equal(own.ids[:, 1:])


def test_a_line_break_behind_it_is_too(answers):
    texts, _ = answers(chat('<think>\n'))
    assert all(text.startswith('<think>\n') and '</think>' in text for text in texts)


def test_a_block_that_is_closed_is_the_prompts(answers):
    texts, responses = answers(chat('<think>\n\n</think>\n\n'))
    tokenizer = AutoTokenizer.from_pretrained(POLICY_WEIGHTS)
    assert texts == tokenizer.batch_decode(responses.ids, skip_special_tokens=True)


@pytest.mark.parametrize('files', [
    dict(generation_config=dict(eos_token_id=504)),
    dict(generation_config=dict(eos_token_id=504), config=dict(
        eos_token_id=504, text_config=dict(eos_token_id=504)),
        tokenizer_config=dict(eos_token='<|endoftext|>'))],
    ids=['the tokenizer names the end', 'the chat template alone does'])
def test_responses_end_where_any_file_says_so(files, answers):
    texts, expected = answers(chat())
    assert not expected.truncated.any()
    found, responses = answers(chat(), **files)
    assert found == texts and responses.ids.equal(expected.ids)
    assert not responses.truncated.any()


def test_a_tokenizer_without_padding_pads_with_the_end(answers):
    texts, expected = answers(chat())
    found, responses = answers(chat(), tokenizer_config=dict(pad_token=None))
    assert found == texts and responses.mask.equal(expected.mask)
    assert not responses.mask.all() and responses.ids[~responses.mask].eq(506).all()
