# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from functools import partial
from itertools import product

import pytest
import torch
from mostly_slow import mostly_slow
from same_responses import assert_same

from mmdpad.models import HFRollout, SharedPrefixRollout
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.models.rollouts import (
    continuous_batching,
    guess_memory,
    guessing,
    prefix_cache,
    shared_prefix_rollout,
)
from mmdpad.models.rollouts.ngrams import CONTEXTS
from mmdpad.models.rollouts.sampling import uniform_draws

COUNT = 12
OPTIONS = dict(max_new_tokens=60, seed=3)


def make_batches(prompts, numbers, size):
    """Batches of so many prompts; the number of a prompt decides its draws."""
    for start in range(0, len(numbers), size):
        part = numbers[start:start + size]
        yield [prompts[number % 3] for number in part], part


def sample(engine, head, prompts, numbers, size, group_size=1, **options):
    """Number -> responses and their log-probabilities, by a stream of batches."""
    found = {}
    sizes = iter(list(make_batches(prompts, numbers, size)))
    for responses in engine.stream(head, make_batches(prompts, numbers, size),
                                   group_size=group_size, **OPTIONS, **options):
        _, part = next(sizes)
        assert len(responses.ids) == len(part) * group_size
        for row in range(len(responses.ids)):
            mask = responses.mask[row]
            logp = None if responses.logp is None else responses.logp[row][mask]
            found.setdefault(part[row // group_size], []).append(
                (responses.ids[row][mask].tolist(), bool(responses.truncated[row]), logp))
    assert next(sizes, None) is None
    return found


def tokens_of(found):
    return {number: [row[:2] for row in rows] for number, rows in found.items()}


@pytest.fixture(scope='module')
def expected(exact_head, prompts):
    """By one prompt after the other."""
    return sample(SharedPrefixRollout(max_guess=0, records_log_probs=True), exact_head, prompts,
                  range(COUNT), 1, group_size=2)


@pytest.mark.parametrize('limit, size', mostly_slow(
    product([None, 4.0, 7], [1, 3, 5, 12]), fast=[(None, 12), (4.0, 3), (7, 5)]))
def test_responses_do_not_depend_on_batches(exact_head, prompts, expected, limit, size):
    engine = SharedPrefixRollout(max_samples=limit, records_log_probs=True, pass_cost=300)
    found = sample(engine, exact_head, prompts, range(COUNT), size, group_size=2)
    assert list(found) == list(range(COUNT))
    assert tokens_of(found) == tokens_of(expected)
    for number, rows in found.items():
        for row, other in zip(rows, expected[number], strict=True):
            torch.testing.assert_close(row[2], other[2], rtol=0, atol=2e-5)


def test_responses_do_not_depend_on_the_order(exact_head, prompts, expected):
    numbers = [7, 2, 11, 0, 5, 9, 1, 3, 10, 4, 8, 6]
    found = sample(SharedPrefixRollout(max_samples=6), exact_head, prompts, numbers, 3,
                   group_size=2)
    assert list(found) == numbers and tokens_of(found) == tokens_of(expected)


def test_greedy_responses_and_those_of_an_engine_without_streams(head, prompts):
    found, others = (sample(engine, head, prompts, range(COUNT), size, temperature=0)
                     for engine, size in ((SharedPrefixRollout(), 4), (HFRollout(), 5)))
    assert tokens_of(found) == tokens_of(others)


def test_a_rollout_of_more_samples_than_fit(exact_head, prompts, monkeypatch):
    """As with memory for fewer; prompts are computed once, in order."""
    options = dict(group_size=5, **OPTIONS)
    whole = SharedPrefixRollout(records_log_probs=True)(exact_head, prompts, **options)
    rows, decoding = [], shared_prefix_rollout.Decoding.__call__

    def spy(self, cache, *given):
        rows.append(len(cache.owners))
        return decoding(self, cache, *given)

    monkeypatch.setattr(shared_prefix_rollout.Decoding, '__call__', spy)
    for limit in (1, 10):
        rows.clear()
        parts = SharedPrefixRollout(max_samples=limit, records_log_probs=True)(
            exact_head, prompts, **options)
        assert max(rows) == max(limit, 5)
        assert_same(parts, whole)


@pytest.mark.parametrize('limit', [0, -3])
def test_impossible_limits(limit):
    with pytest.raises(ValueError, match=f'max_samples` should be at least 1.*got {limit}'):
        SharedPrefixRollout(max_samples=limit)


def test_no_sample_waits_for_the_longest_of_its_batch(exact_head, prompts, monkeypatch):
    passes, decoding = [], shared_prefix_rollout.Decoding.__call__

    def spy(self, cache, feed, *given):
        passes.append(len(feed.tokens))
        return decoding(self, cache, feed, *given)

    monkeypatch.setattr(shared_prefix_rollout.Decoding, '__call__', spy)
    engine = SharedPrefixRollout(max_guess=0)
    numbers = range(24)
    found = sample(engine, exact_head, prompts, numbers, 4)
    lengths = [len(rows[0][0]) for rows in found.values()]
    assert sum(passes) == sum(lengths) - len(lengths)  # the first come from the prompts
    stream = len(passes)
    assert stream <= sum(lengths) / 4 + max(lengths)
    passes.clear()
    for part, some in make_batches(prompts, numbers, 4):
        engine(exact_head, part, prompt_numbers=some, **OPTIONS)
    assert stream < len(passes)


def test_as_many_at_a_time_as_the_largest_batch_has(exact_head, prompts, monkeypatch):
    """Most questions of the first batch may have been answered before."""
    samples, decoding = [], shared_prefix_rollout.Decoding.__call__

    def spy(self, cache, *given):
        samples.append(len(cache.owners))
        return decoding(self, cache, *given)

    monkeypatch.setattr(shared_prefix_rollout.Decoding, '__call__', spy)
    batches = [([prompts[0]], [0]), (prompts, [1, 2, 3]), (prompts, [4, 5, 6])]
    for _ in SharedPrefixRollout(max_guess=0).stream(exact_head, batches, **OPTIONS):
        pass
    assert max(samples) == 3


def test_a_call_during_a_stream(exact_head, prompts, expected):
    engine, found = SharedPrefixRollout(), []
    for part, responses in enumerate(engine.stream(
            exact_head, make_batches(prompts, range(4), 1), group_size=2, **OPTIONS)):
        again = engine(exact_head, [prompts[part % 3]], 2, prompt_numbers=[part], **OPTIONS)
        assert again.ids.equal(responses.ids)
        found += [responses.ids[row][mask].tolist() for row, mask in enumerate(responses.mask)]
    assert found == [row[0] for number in range(4) for row in expected[number]]


def test_few_batches_are_held(exact_head, prompts):
    """A long response delays its batch, and not all data is loaded meanwhile."""
    ahead, taken, given = [], 0, 0

    def batches():
        nonlocal taken
        for batch in make_batches(prompts, range(24), 2):
            taken += 1
            ahead.append(taken - given)
            yield batch

    for _ in SharedPrefixRollout().stream(exact_head, batches(), **OPTIONS):
        given += 1
    assert given == 12
    assert 2 < max(ahead) <= continuous_batching.LOOKAHEAD + 1


@pytest.fixture
def sizes(monkeypatch):
    """Of each pass: samples of the guesser, and what it has sorted."""
    found, guess = [], guessing.Guesser.guess

    def spy(self, samples):
        counts = guess(self, samples)
        found.append((len(self.lengths), 0 if self.seen is None else len(self.seen)))
        return counts

    monkeypatch.setattr(guessing.Guesser, 'guess', spy)
    return found


@pytest.mark.parametrize('options', mostly_slow([{}, dict(temperature=0)], fast=[{}]),
                         ids=['drawn', 'greedy'])
def test_samples_that_were_returned_are_let_go(exact_head, prompts, sizes, options):
    """Their tokens stay in the memory, in order."""
    engine = SharedPrefixRollout(pass_cost=300, records_log_probs=True)
    plain = SharedPrefixRollout(max_guess=0, records_log_probs=True)
    found, others = (sample(one, exact_head, prompts, range(24), 2, group_size=2, **options)
                     for one in (engine, plain))
    assert tokens_of(found) == tokens_of(others)
    assert max(size for size, _ in sizes) <= 2 * 2 * (continuous_batching.LOOKAHEAD + 1) < 24
    one, = engine.memory.recent
    assert one['tokens'].tolist() == [token for rows in found.values() for row in rows
                                      for token in row[0]]
    assert len(one['lengths']) == 48 and len(one['tokens']) == one['lengths'].sum()
    turns, fed, kept = one['counts'].tolist()
    assert kept == len(one['tokens']) - 48 and turns < kept < fed


@pytest.mark.slow
@pytest.mark.parametrize('full_grids', [False, True])
def test_a_long_stream_guesses_from_its_newest_tokens(exact_head, prompts, sizes, monkeypatch,
                                                      full_grids):
    monkeypatch.setattr('mmdpad.models.rollouts.decoding.Decoding.full_grids', full_grids)
    for module in (guess_memory, guessing):
        monkeypatch.setattr(module, 'MOST_TOKENS', 200)
    engine = SharedPrefixRollout(pass_cost=300)
    for _ in range(2):
        found = sample(engine, exact_head, prompts, range(24), 3)
    others = sample(SharedPrefixRollout(max_guess=0), exact_head, prompts, range(24), 3)
    assert tokens_of(found) == tokens_of(others)
    tokens = sum(len(rows[0][0]) for rows in found.values())
    assert tokens > 800
    # The earlier stream, up to two generations of this one, and what was sorted in last.
    assert max(seen for _, seen in sizes) < len(CONTEXTS) * (200 + 2 * 200 + 200)
    assert all(150 < len(one['tokens']) <= 200 for one in engine.memory.recent)


def test_batches_without_prompts(exact_head, prompts, expected):
    """All questions of a batch may have been answered before."""
    batches = [([], None), ([prompts[0]], [0]), ([], []), ([], None), ([prompts[1]], [1]), ([], [])]
    for engine in (SharedPrefixRollout(), HFRollout()):
        found = list(engine.stream(exact_head, batches, group_size=2, **OPTIONS))
        assert [len(responses.ids) for responses in found] == [0, 2, 0, 0, 2, 0]
        assert found[4].ids[1][found[4].mask[1]].tolist() == expected[1][1][0]
        assert not list(engine.stream(exact_head, [], **OPTIONS))
        assert len(list(engine.stream(exact_head, [([], None)], **OPTIONS))) == 1


def test_logits_that_are_not_finite_name_the_prompt(policy_config, exact_head, prompts,
                                                    monkeypatch):
    """Counted from the first prompt whose batch was not returned."""
    choose = continuous_batching.TokenChoice.__call__
    draw = uniform_draws(OPTIONS['seed'], [9], 1, 1).item()

    def spoiled(self, logits, samples, step):
        others = self.draws[samples, 0] != draw
        return choose(self, logits.where(others[:, None], torch.nan), samples, step)

    monkeypatch.setattr(continuous_batching.TokenChoice, '__call__', spoiled)
    returned = 0
    with pytest.raises(NonFiniteError, match='token 1 of the response') as caught:
        for _ in SharedPrefixRollout().stream(
                exact_head, make_batches(prompts, range(COUNT), 2), **OPTIONS):
            returned += 1
    assert returned * 2 + caught.value.prompt == 9


def test_a_stream_that_is_closed_leaves_the_policy_as_it_was(head, prompts):
    engine = SharedPrefixRollout()
    before = engine(head, prompts, **OPTIONS)
    stream = engine.stream(head, make_batches(prompts, range(COUNT), 2), **OPTIONS)
    next(stream)
    stream.close()
    assert engine(head, prompts, **OPTIONS).ids.equal(before.ids)


@pytest.mark.parametrize('full_grids', [False, True])
@pytest.mark.parametrize('check_every', [1, 4])
def test_a_sample_that_ends_at_the_last_slot_of_the_cache(exact_head, prompts, monkeypatch,
                                                          check_every, full_grids):
    """It is the last of its batch, which is returned while as many batches as possible are held.
    It stays in the cache for a while: of the prompts that come next, too few would fit."""
    batches = [[17, *[4] * 14], *[[20] * size for size in (4, 4, 3, 3)], [5] * 15]
    assert len(batches) == continuous_batching.LOOKAHEAD + 2
    lengths = torch.tensor(sum(batches, []))
    assert prefix_cache.CPU_BLOCK == lengths.max() - 4 == lengths[0] - 1

    def choose(self, logits, samples, steps):
        ends = lengths[self.draws[samples, 0].long()] == steps + 1
        return torch.where(ends, exact_head.end_tokens[0], 20), logits.amax(dim=-1)

    monkeypatch.setattr(continuous_batching.TokenChoice, '__call__', choose)
    monkeypatch.setattr(SharedPrefixRollout, 'draw', lambda self, head, how: torch.tensor(
        how.prompt_numbers, dtype=torch.float64)[:, None].expand(-1, 60))
    monkeypatch.setattr(shared_prefix_rollout, 'ContinuousBatch', partial(
        continuous_batching.ContinuousBatch, check_every=check_every))
    monkeypatch.setattr(shared_prefix_rollout.Decoding, 'full_grids', full_grids)
    numbers = iter(range(len(lengths)))
    stream = SharedPrefixRollout(max_samples=15, max_guess=0).stream(
        exact_head, [(prompts[:1] * len(batch), [next(numbers) for _ in batch])
                     for batch in batches], **OPTIONS)
    assert [responses.mask.sum(dim=1).tolist() for responses in stream] == batches
