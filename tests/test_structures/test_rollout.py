# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from types import SimpleNamespace

import pytest
import torch

from mmdpad.prompts import parse_response
from mmdpad.structures import RolloutBatch, response_lengths


def make_rollout(prompts=4, group_size=3):
    rows = prompts * group_size
    texts = [f'<caption>{i}</caption>' for i in range(rows)]
    return RolloutBatch(
        data_samples=list(range(prompts)), model_images=[torch.zeros(3, 2, 2)] * prompts,
        group_size=group_size, texts=texts, parsed=[parse_response(t) for t in texts],
        response_ids=torch.arange(rows)[:, None], response_mask=torch.ones(rows, 1).bool(),
        truncated=torch.zeros(rows).bool(), reasoning_tokens=torch.zeros(rows),
        rewards={'a': torch.arange(rows).float().view(prompts, group_size)},
        advantages=torch.arange(rows).float().view(prompts, group_size))


def test_split_keeps_groups_and_order():
    parts = list(make_rollout().split(2))
    assert [part.data_samples for part in parts] == [[0, 1], [2, 3]]
    assert parts[1].texts[0] == '<caption>6</caption>'
    assert [p.caption for p in parts[1].parsed] == ['6', '7', '8', '9', '10', '11']
    assert parts[1].response_ids.flatten().tolist() == list(range(6, 12))
    assert parts[1].rewards['a'][0].tolist() == [6., 7., 8.]
    assert torch.cat([part.advantages for part in parts]).equal(make_rollout().advantages)


def test_split_refuses_a_remainder():
    with pytest.raises(ValueError, match='divisible'):
        list(make_rollout().split(3))


def uneven():
    """Three groups of two; responses of 1, 3, 2, 2, 1 and 1 tokens."""
    lengths = torch.tensor([1, 3, 2, 2, 1, 1])
    mask = torch.arange(3) < lengths[:, None]
    return RolloutBatch(
        list('abc'), [0, 1, 2], 2, list('012345'), list('012345'),
        response_ids=torch.arange(18).view(6, 3) * mask, response_mask=mask,
        truncated=lengths > 2, reasoning_tokens=lengths.float(),
        signals={'s': torch.arange(6.).view(3, 2)}, total_rewards=torch.arange(6.).view(3, 2),
        old_logp=-torch.arange(18.).view(6, 3), sampling_logp=1 - torch.arange(18.).view(6, 3))


def test_select_takes_groups_in_order_and_cuts_them_to_their_longest_response():
    picked = uneven().select([2, 1])
    assert picked.data_samples == ['c', 'b'] and picked.texts == list('4523')
    assert picked.response_ids.tolist() == [[12, 0], [15, 0], [6, 7], [9, 10]]
    assert picked.old_logp.tolist() == [[-12, -13], [-15, -16], [-6, -7], [-9, -10]]
    assert picked.sampling_logp.equal(picked.old_logp + 1)
    assert picked.total_rewards.tolist() == [[4, 5], [2, 3]]
    assert picked.signals['s'].tolist() == [[4, 5], [2, 3]]
    assert picked.advantages is None and picked.images is None and not picked.truncated.any()


@pytest.mark.parametrize('limit, parts', [
    (None, ['abc']), (1000, ['abc']), (25, ['ab', 'c']), (24, ['a', 'bc']), (13, ['a', 'b', 'c']),
    (1, ['a', 'b', 'c'])])
def test_pack_fills_parts_with_complete_groups(limit, parts):
    """Groups of 10 + 4, 7 + 4 and 11 + 2 tokens: the prompt counts once."""
    rollout = uneven()
    rollout.prompts = [range(10), range(7), range(11)]
    assert rollout.group_tokens == [14, 11, 13]
    packed = list(rollout.pack(limit))
    assert [''.join(part.data_samples) for part in packed] == parts
    assert [text for part in packed for text in part.texts] == rollout.texts


def test_replies_belong_to_their_response():
    """A reply of two tokens between the policy's in the second response."""
    rollout = uneven()
    rollout.response_ids = torch.arange(30).view(6, 5)
    rollout.response_mask = torch.tensor([[1, 0, 0, 0, 0], [1, 0, 0, 1, 0], *[[1, 1, 0, 0, 0]] * 4])
    rollout.response_mask = rollout.response_mask.bool()
    rollout.old_logp = rollout.sampling_logp = None
    rollout.replies, rollout.prompts = [[], ['crop'], [], [], [], []], [range(10)] * 3
    assert response_lengths(rollout.response_mask).tolist() == [1, 4, 2, 2, 2, 2]
    assert response_lengths(torch.zeros(2, 0).bool()).tolist() == [0, 0]
    assert rollout.group_tokens == [15, 14, 14]
    first, second = rollout.select([0]), rollout.select([1])
    assert first.response_ids.tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert first.replies == [[], ['crop']] and second.replies == [[], []]
    assert second.response_ids.shape == (2, 2)
    assert RolloutBatch.concatenate([second, first]).replies == [[], [], [], ['crop']]


def test_concatenate_is_the_reverse_of_split():
    whole = uneven()
    joined = RolloutBatch.concatenate(list(whole.split(1)))
    for name in ('response_ids', 'response_mask', 'truncated', 'reasoning_tokens', 'total_rewards'):
        assert getattr(joined, name).equal(getattr(whole, name)), name
    assert (joined.texts, joined.parsed) == (whole.texts, whole.parsed)
    # Behind the end of a response log-probabilities mean nothing; padding is 0.
    assert (joined.old_logp * whole.response_mask).equal(whole.old_logp * whole.response_mask)
    assert ((joined.sampling_logp - whole.sampling_logp) * whole.response_mask == 0).all()


def test_a_signal_that_some_parts_lack_is_missing_there():
    parts = list(make_rollout(prompts=3, group_size=1).split(1))
    parts[0].signals['early'] = torch.tensor([[1.0]])
    parts[2].signals.update(early=torch.tensor([[3.0]]), late=torch.tensor([[4.0]]))
    signals = RolloutBatch.concatenate(parts).signals
    assert {name: values.flatten().tolist() for name, values in signals.items()} == {
        'early': pytest.approx([1, torch.nan, 3], nan_ok=True),
        'late': pytest.approx([torch.nan, torch.nan, 4], nan_ok=True)}


def test_rollouts_that_do_not_belong_together_are_not_joined():
    with pytest.raises(ValueError, match='the same group size'):
        RolloutBatch.concatenate([uneven(), make_rollout()])
    scored, unscored = uneven(), uneven()
    unscored.total_rewards = None
    with pytest.raises(ValueError, match='`total_rewards`'):
        RolloutBatch.concatenate([scored, unscored])


def test_negative_boxes_are_empty_where_the_data_name_none():
    boxes = torch.tensor([[1., 2., 3., 4.]])
    named = SimpleNamespace(model_negatives=SimpleNamespace(bboxes=boxes))
    rollout = RolloutBatch([named, SimpleNamespace()], [], 1, ['x'] * 2, ['x'] * 2)
    assert [found.tolist() for found in rollout.negative_boxes] == [[[1, 2, 3, 4]], []]
    assert rollout.negative_boxes[1].shape == (0, 4)


def test_number_of_texts_is_checked():
    with pytest.raises(ValueError, match=r'2 \* 3 = 6 entries, but got 1'):
        RolloutBatch([0, 1], [], 3, ['x'], ['x'])


def test_prompts_are_selected_where_tokens_are_unknown():
    """As in a metric, which has only the texts."""
    part = RolloutBatch(['a', 'b'], [0, 1], 2, ['1', '2', '3', '4'], [None] * 4).select([1])
    assert (part.data_samples, part.texts, part.response_ids.shape) == (['b'], ['3', '4'], (0, 0))
    assert part.select([]).texts == [] and part.tasks == [None]
