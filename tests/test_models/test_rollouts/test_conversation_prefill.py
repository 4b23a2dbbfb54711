# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Later turns of conversations, where a group shares the pass over its first prompt."""
from dataclasses import replace

import pytest
import torch
from same_responses import assert_same

from mmdpad.models import HFRollout, SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.heads import shared_prefix
from mmdpad.models.heads.replies import ReplyEncoder
from mmdpad.models.rollouts import shared_prefix_rollout

SHAPES = {8: [(112, 112)] * 2, 16: [(64, 96), (96, 128)]}
SETTINGS = dict(max_new_tokens=8, seed=3)


def picture(shape, seed):
    return torch.randint(256, (3, *shape), generator=torch.Generator().manual_seed(seed),
                         dtype=torch.uint8)


def conversations(head):
    """Of four questions: three conversations with other replies, the last one in text only; one
    conversation; two, of which the second is at its third turn; and one that has not started."""
    shapes = SHAPES[head.processor.image_processor.patch_size]
    prompts = head.encode_prompts([picture(shapes[n % 2], n) for n in range(4)],
                                  ['the star', 'something you could roll', 'the cup', 'a dog'])
    encode = ReplyEncoder(head.encoder)
    small, large = (encode(text, picture(shape, 9)) for text, shape in
                    zip(['That part.', 'That part of the image. Now answer.'], shapes, strict=True))
    told = encode('Nothing is shown.')
    response = torch.tensor([*range(5, 9), head.end_tokens[0]])
    return [prompts[0].followed_by(response, small), prompts[0].followed_by(response[2:], large),
            prompts[0].followed_by(response[3:], told), prompts[1].followed_by(response, large),
            prompts[2].followed_by(response, small),
            prompts[2].followed_by(response[1:], large).followed_by(response, small), prompts[3]]


def apart(prompts):
    """The same prompts, of which none is known to start as another."""
    return [replace(prompt, first=prompt.first and replace(prompt.first)) for prompt in prompts]


@pytest.fixture
def rows(monkeypatch):
    """The number of tokens in each pass over prompts."""
    found, row_states = [], shared_prefix_rollout.row_states

    def spy(model, prompts, tokens, *args):
        found.append(len(tokens))
        return row_states(model, prompts, tokens, *args)

    monkeypatch.setattr(shared_prefix_rollout, 'row_states', spy)
    return found


@torch.no_grad()
@pytest.mark.parametrize('family', ['qwen2_5_vl', 'qwen3_vl'])
@pytest.mark.parametrize('device', ['cpu', 'gpu'])
def test_the_cache_is_that_of_whole_conversations(family, device, policy_config, request, lift,
                                                  rows, monkeypatch):
    """Keys, values, logits and positions in float64, by the attention of either device."""
    config = dict(policy_config, dtype='float64')
    if family == 'qwen3_vl':
        config['pretrained'] = request.getfixturevalue('qwen3_folder')
    head = VLMReasoningHead(**config).eval()
    lift(head)
    monkeypatch.setattr(shared_prefix, 'joins_parts', lambda _: device == 'cpu')
    talks = conversations(head)
    expected, *after = SharedPrefixRollout()._prefill(head, apart(talks))
    found, *others = SharedPrefixRollout()._prefill(head, talks)
    for tensor, wanted in zip((*found.keys, *found.values, *others),
                              (*expected.keys, *expected.values, *after), strict=True):
        torch.testing.assert_close(tensor, wanted, rtol=0, atol=1e-11)
    assert found.lengths == expected.lengths == [len(talk) for talk in talks]
    saved = 2 * len(talks[0].first) + len(talks[4].first)
    assert rows == [sum(found.lengths), sum(found.lengths) - saved]


@torch.no_grad()
def test_a_first_prompt_runs_once_in_each_pass(exact_head, rows):
    """Passes are as large as the conversations would be by themselves, since attention on a GPU
    copies the first prompt for each."""
    talks = conversations(exact_head)[:3]
    lengths = [len(talk) for talk in talks]
    expected, *after = SharedPrefixRollout()._prefill(exact_head, apart(talks))
    found, *others = SharedPrefixRollout(sum(lengths[:2]))._prefill(exact_head, talks)
    assert rows[1:] == [sum(lengths[:2]) - len(talks[0].first), lengths[2]]
    torch.testing.assert_close(others, after, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.keys, expected.keys, rtol=0, atol=1e-11)


@torch.no_grad()
def test_a_trained_tower_encodes_the_image_of_a_group_once(exact_head, monkeypatch):
    images, encode = [], type(exact_head.family).encode_images

    def spy(self, model, prompts):
        images.extend(prompts)
        return encode(self, model, prompts)

    monkeypatch.setattr(type(exact_head.family), 'encode_images', spy)
    talks = conversations(exact_head)[:3]
    SharedPrefixRollout()._prefill(exact_head, talks)
    assert [len(image.grid) for image in images] == [1, 1, 1]  # of the group, and two replies


@pytest.fixture(scope='module')
def expected(exact_head):
    talks = conversations(exact_head)
    return talks, HFRollout()(exact_head, talks, **SETTINGS)


@pytest.mark.parametrize('options, captured', [
    (dict(max_samples=3, max_guess=0), True),
    *(pytest.param(options, False, marks=pytest.mark.slow) for options in (
        dict(), dict(max_samples=2), dict(max_guess=4, pass_cost=1000.)))])
def test_tokens_are_those_of_whole_conversations(exact_head, expected, options, captured, capture):
    """Also if some enter while others are decoded."""
    talks, expected = expected
    made = capture() if captured else []
    assert_same(SharedPrefixRollout(**options)(exact_head, talks, **SETTINGS), expected)
    assert len(made) == captured


@pytest.mark.slow
def test_recorded_log_probs_with_an_adapter(policy_config):
    pytest.importorskip('peft')
    head = VLMReasoningHead(**policy_config, dtype='float64', lora=dict(r=4))
    for name, parameter in head.named_parameters():
        if name in head.adapter_keys:
            parameter.data.normal_(std=0.1)
    talks = conversations(head)
    found = SharedPrefixRollout(records_log_probs=True)(head, talks, **SETTINGS)
    assert_same(found, HFRollout()(head, talks, **SETTINGS))
    with torch.no_grad():
        expected, _ = head.log_probs(talks, found.ids, found.mask)
    torch.testing.assert_close(found.logp, expected.float(), rtol=0, atol=5e-6)
