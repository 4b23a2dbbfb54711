# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Steps whose tokens the host looks at together, as on a GPU: the same tokens."""
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from same_responses import assert_same
from torch.utils._python_dispatch import TorchDispatchMode

from mmdpad.models import SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.models.rollouts import (
    continuous_batching,
    decoding,
    prefix_cache,
    shared_prefix_rollout,
)

GREEDY, DRAWN = dict(temperature=0), dict(group_size=3, seed=1)
READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default,
         torch.ops.aten.masked_select.default, torch.ops.aten._unique2.default)


class Checked(continuous_batching.ContinuousBatch):
    """The cache has all tokens of each sample but its newest, also of one that ended earlier than
    the host noticed."""

    def _step(self):
        super()._step()
        lengths = self.guesser.lengths[self.samples]
        assert self.cache.places.tolist() == (lengths - 1).tolist()


@pytest.fixture
def check_every(monkeypatch):
    """Sets after how many steps rollouts look at their tokens."""
    def check_every(number):
        monkeypatch.setattr(shared_prefix_rollout, 'ContinuousBatch',
                            partial(Checked, check_every=number))
    return check_every


@pytest.fixture(params=['holes', 'full', 'captured'])
def way(request, monkeypatch):
    """How steps treat samples that have ended; to be called after what is expected was computed."""
    def use():
        if request.param == 'captured':
            request.getfixturevalue('capture')()
        elif request.param == 'full':
            monkeypatch.setattr(decoding.Decoding, 'full_grids', True)
    return use


def make_engine(**options):
    engine = SharedPrefixRollout(**dict(max_guess=0, records_log_probs=True) | options)
    engine.decoding.compared = True
    return engine


@pytest.mark.parametrize('options', [
    GREEDY, DRAWN, dict(group_size=4, temperature=1.6, top_p=0.9, top_k=50)],
    ids=['greedy', 'drawn', 'warped'])
def test_the_same_responses(exact_head, prompts, check_every, way, options):
    """Of samples that end within the steps, up to the exact limit."""
    how = dict(max_new_tokens=45, **options)
    expected = make_engine()(exact_head, prompts, **how)
    assert len(set(expected.mask.sum(dim=1).tolist())) > 1 and expected.truncated.any()
    way()
    for number in (3, 8):
        check_every(number)
        assert_same(make_engine()(exact_head, prompts, **how), expected)


@pytest.mark.parametrize('options', [GREEDY, DRAWN], ids=['greedy', 'drawn'])
def test_the_same_bits_as_long_as_all_samples_stay(head, prompts, check_every, capture, options,
                                                   monkeypatch):
    """In float32: what an ended sample does meanwhile changes nothing in the others."""
    capture()
    monkeypatch.setattr(decoding, 'SHRINK_GRAPHS_AT', 0)
    found = []
    for number in (1, 8):
        check_every(number)
        found.append(make_engine()(head, prompts, max_new_tokens=70, **options))
    assert all(x.equal(y) for x, y in zip(*found, strict=True) if x is not None)
    assert not found[0].mask.all()


def test_other_prompts_enter(exact_head, prompts, check_every, way):
    numbers = range(12)

    def answer():
        batches = [([prompts[n % 3] for n in numbers[i:i + 3]], numbers[i:i + 3])
                   for i in range(0, 12, 3)]
        return list(make_engine(max_samples=4).stream(
            exact_head, batches, group_size=2, max_new_tokens=40, seed=3))

    expected = answer()
    way()
    check_every(8)
    for responses, others in zip(answer(), expected, strict=True):
        assert_same(responses, others)


class Logged(decoding.Decoding):
    """Logs its steps."""

    log: list

    def __call__(self, *args):
        self.log.append('step')
        return super().__call__(*args)


class Waits(TorchDispatchMode):
    """Logs what makes the host wait for a device: reads, and copies to it, which are not from
    pinned memory. The device is a CPU here, so each one counts."""

    def __init__(self, log, monkeypatch):
        super().__init__()
        self.log = log
        for name in ('cpu', 'tolist', 'item', 'numpy', '__array__', '__bool__', '__int__'):
            monkeypatch.setattr(torch.Tensor, name, self.spy(getattr(torch.Tensor, name)))
        for name in ('from_numpy', 'tensor'):
            monkeypatch.setattr(torch, name, self.spy(getattr(torch, name)))

    def spy(self, function):
        def wait(*args, **options):
            self.log.append('wait')
            return function(*args, **options)
        return wait

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        selects = func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default,
                           torch.ops.aten.index_put_.default) and any(
            index is not None and index.dtype == torch.bool for index in args[1])
        if func in READS or selects:
            self.log.append('wait')
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('records', [False, True])
@pytest.mark.parametrize('options', [GREEDY, DRAWN | dict(top_p=0.9, top_k=9)],
                         ids=['greedy', 'drawn'])
def test_nothing_waits_for_the_device_between_looks(exact_head, prompts, check_every, way, options,
                                                records, monkeypatch):
    """Also where the cache grows. 20 steps after the prompts' own pass: 8, 8 and 4."""
    monkeypatch.setattr(prefix_cache, 'CPU_BLOCK', 3)
    monkeypatch.setattr(exact_head, 'end_tokens', exact_head.vision_token_ids)
    monkeypatch.setattr(shared_prefix_rollout, 'Decoding', Logged)
    log = Logged.log = []
    way()
    check_every(8)
    engine = make_engine(records_log_probs=records)
    with Waits(log, monkeypatch):
        responses = engine(exact_head, prompts, max_new_tokens=21, **options)
    assert responses.mask.all() and responses.mask.shape[1] == 21
    runs = [len(part) for part in ''.join('s' if x == 'step' else ' ' for x in log).split()]
    assert runs == [8, 8, 4]


@pytest.mark.parametrize('steps', [1, 8])
@pytest.mark.parametrize('spoiled', [[(2, 13)], [(0, 14), (2, 12)], [(1, 12), (2, 12)]])
def test_logits_that_are_not_finite(exact_head, prompts, check_every, way, steps, spoiled,
                                    monkeypatch):
    """The first of them is named, although later steps of the sample have run."""
    choose = continuous_batching.TokenChoice.__call__

    def spoil(self, logits, samples, places):
        bad = sum(((samples == row) & (places >= place) for row, place in spoiled))
        return choose(self, logits.where((bad == 0)[:, None], torch.nan), samples, places)

    monkeypatch.setattr(continuous_batching.TokenChoice, '__call__', spoil)
    monkeypatch.setattr(exact_head, 'end_tokens', exact_head.vision_token_ids)
    way()
    check_every(steps)
    row, place = min(spoiled, key=lambda one: one[1])
    with pytest.raises(NonFiniteError, match=f'token {place + 1} of the response to prompt {row}'):
        make_engine()(exact_head, prompts, max_new_tokens=30, seed=1)


def test_a_streamer_gets_each_token_before_the_next_step(exact_head, prompts, check_every,
                                                         monkeypatch):
    check_every(8)
    monkeypatch.setattr(shared_prefix_rollout, 'Decoding', Logged)
    engine, log = make_engine(), []
    Logged.log = log
    with engine.streaming(lambda tokens: log.append(tokens.tolist())):
        responses = engine(exact_head, prompts[:1], max_new_tokens=20, **GREEDY)
    tokens = [[token] for token in responses.ids[0].tolist()]
    assert log[::2] == tokens and log[1::2] == ['step'] * (len(tokens) - 1)


@pytest.mark.parametrize('cost', [1e-9, 300], ids=['too many samples', 'guessed'])
def test_what_is_guessed_from_stays_the_same(exact_head, prompts, check_every, cost):
    """Guesses are looked at one step after the other; where none are made, they are remembered."""
    found, memories = [], []
    for number in (1, 8):
        check_every(number)
        engine = make_engine(max_guess=15, pass_cost=cost)
        for seed in range(2):
            found.append(engine(exact_head, prompts, group_size=2, max_new_tokens=40, seed=seed))
        memories.append(engine.memory)
    for responses, expected in zip(found[2:], found[:2], strict=True):
        assert_same(responses, expected)
    for one, other in zip(*(memory.recent for memory in memories), strict=True):
        assert all(one[name].equal(other[name]) for name in one)
    for greedy in (False, True):
        assert np.array_equal(*(memory.observations(greedy) for memory in memories))


@pytest.mark.gpu
def test_a_gpu_is_waited_for_once_in_several_steps(policy_config, check_every, monkeypatch):
    """By what torch reports; the same bits, since all samples stay."""
    head = VLMReasoningHead(**policy_config).eval().cuda()
    monkeypatch.setattr(head, 'end_tokens', head.vision_token_ids)
    prompts = head.encode_prompts([torch.full((3, 112, 112), 90, dtype=torch.uint8)],
                                  ['the red circle'])
    found, waits = [], []
    for number in (1, 8):
        check_every(number)
        engine = make_engine()
        engine(head, prompts, max_new_tokens=2)
        torch.cuda.set_sync_debug_mode('warn')
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            found.append(engine(head, prompts, group_size=4, max_new_tokens=61, seed=1))
        torch.cuda.set_sync_debug_mode('default')
        waits.append(sum('synchronizing' in str(one.message) for one in caught))
    assert all(x.equal(y) for x, y in zip(*found, strict=True))
    assert waits[0] > 60 > 40 > waits[1]
