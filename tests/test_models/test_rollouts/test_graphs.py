# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Captured steps, with a stand-in for CUDA: a replay runs the captured function again."""
import pytest
import torch
from fake_capture import Rerun
from mostly_slow import mostly_slow

from mmdpad.models import SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.rollouts import prefix_cache
from mmdpad.models.rollouts.graphs import CapturedSteps


@pytest.mark.parametrize('options', [
    dict(group_size=4, seed=1), dict(group_size=1, temperature=0), dict(group_size=3, seed=2)])
@pytest.mark.parametrize('block', mostly_slow([7, 64], fast=[7]))
def test_rollouts_of_captured_steps(exact_head, prompts, capture, options, block, monkeypatch):
    """The same tokens, while samples leave and the cache grows."""
    options = dict(max_new_tokens=70, **options)
    expected = SharedPrefixRollout()(exact_head, prompts, **options)
    captured = capture()
    monkeypatch.setattr(prefix_cache, 'CPU_BLOCK', block)
    found = SharedPrefixRollout()(exact_head, prompts, **options)
    assert found.ids.equal(expected.ids)
    steps = captured[-1]
    assert steps.replays > steps.captures > 0


def step(cache, feed, starts, rotary):
    """A step that reads all its inputs."""
    cache.own_keys[0].add_(1)
    return (feed.tokens + starts.repeat_interleave(feed.width) + rotary[0][0]
            + cache.places.repeat_interleave(feed.width)).float()


@pytest.fixture
def cache():
    cache = prefix_cache.PrefixCache([3, 3], torch.device('cpu'))
    cache.put_prompts(0, 0, [torch.zeros(1, 3, 4)] * 2, [torch.zeros(1, 3, 4)] * 2)
    cache.start_samples(2)
    return cache


def test_a_graph_for_each_width_until_tensors_move(cache):
    capture = Rerun()
    steps, rotary = CapturedSteps(step, capture), (torch.ones(9), torch.ones(9))
    starts = torch.tensor([3, 3, 4, 4])

    def run(width):
        cache.make_room(int(cache.places.max()) + width)
        tokens = torch.randint(9, (len(starts) * width, ))
        feed = cache.feed(tokens)
        expected = step(cache, feed, starts, rotary)
        logits = steps(cache, feed, starts, rotary)
        assert logits.equal(expected)
        cache.advance(1)
        return logits

    first = run(1)
    assert run(1) is first and run(1) is first  # one memory for all results
    assert steps.captures == 1 and steps.replays == 3
    wide = run(4)
    assert run(4) is wide and run(1) is first and steps.captures == 2
    while not cache.make_room(int(cache.places.max()) + 1):
        cache.advance(1)
    assert run(1) is not first and steps.captures == 3  # the cache has grown
    assert run(1) is not first and steps.captures == 3
    cache.keep(torch.tensor([0, 2]))
    starts = starts[[0, 2]]
    run(1)
    assert steps.captures == 4
    rotary = (torch.zeros(20), torch.zeros(20))  # a longer table
    run(1)
    assert steps.captures == 5 and len(capture.captured) == 5


def test_long_responses_need_few_graphs(cache, monkeypatch):
    """Rooms of 64, 128, 256, 512 and 1000 slots, in place of 16 sizes."""
    monkeypatch.setattr(prefix_cache, 'CPU_BLOCK', prefix_cache.BLOCK)
    steps, starts = CapturedSteps(step, Rerun()), torch.tensor([3, 3, 4, 4])
    rooms, rotary = [], (torch.ones(9), torch.ones(9))
    for length in range(1, 1001):
        if cache.make_room(length, 1000):
            rooms.append(cache.own_keys[0].shape[2])
        assert length <= rooms[-1] < max(2 * length, length + prefix_cache.BLOCK)
        steps(cache, cache.feed(torch.arange(4)), starts, rotary)
        cache.advance(1)
    assert rooms == [64, 128, 256, 512, 1024] and steps.captures == 5


def test_a_rollout_needs_few_graphs(exact_head, prompts, capture, monkeypatch):
    """With other sizes: rooms of 4, 8, 16, 32 and 64 slots."""
    monkeypatch.setattr(prefix_cache, 'CPU_BLOCK', 4)
    monkeypatch.setattr(exact_head, 'end_tokens', exact_head.vision_token_ids)
    captured = capture()
    engine = SharedPrefixRollout(max_guess=0)
    assert engine(exact_head, prompts, max_new_tokens=61).mask.all()
    assert captured[-1].captures == 5 and captured[-1].replays == 60


def test_feeds_with_holes_are_not_captured(cache):
    steps, starts = CapturedSteps(step, Rerun()), torch.tensor([3, 3, 4, 4])
    cache.make_room(2)
    feed = cache.feed(torch.arange(5), [2, 1, 1, 1])
    called = []
    steps.step = lambda *args: called.append(args)
    steps(cache, feed, starts, ())
    assert len(called) == 1 and steps.captures == steps.replays == 0


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_cuda_graphs(policy_config, dtype, monkeypatch):
    head = VLMReasoningHead(**policy_config, dtype=dtype).eval().cuda()
    prompts = head.encode_prompts([torch.full((3, 112, 112), 90, dtype=torch.uint8)] * 2,
                                  ['the red circle', 'the small blue star'])
    options = dict(group_size=4, max_new_tokens=70, seed=1)
    expected = SharedPrefixRollout(cuda_graphs=False)(head, prompts, **options)
    run, used = CapturedSteps.__call__, []

    def spy(steps, *args):
        used.append(steps)
        return run(steps, *args)

    monkeypatch.setattr(CapturedSteps, '__call__', spy)
    engine = SharedPrefixRollout()
    for _ in range(2):
        found = engine(head, prompts, **options)
        width = min(found.ids.shape[1], expected.ids.shape[1])
        same = (found.ids[:, :width] == expected.ids[:, :width]).float().mean()
        assert same > (0.99 if dtype == 'float32' else 0.5)
        assert used[-1].replays > used[-1].captures > 0


def test_one_prompt_after_the_other(exact_head, prompts, capture):
    """Each starts a cache of its own, with as many changes as the one before."""
    batches = [([prompt], [number]) for number, prompt in enumerate([*prompts, *prompts])]

    def answer():
        engine = SharedPrefixRollout(max_guess=0, max_samples=1)
        engine.decoding.compared = True
        return [x.ids.tolist() for x in engine.stream(exact_head, batches, max_new_tokens=12)]

    expected = answer()
    made = capture()
    assert answer() == expected
    assert made[0].captures
