# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import random

import pytest
import torch

from mmdpad.models import SharedPrefixRollout
from mmdpad.models.heads.shared_prefix import response_states
from mmdpad.models.rollouts.decoding import FusedLayers, decode_step, rotary_table

GROUP, LENGTH = 3, 70


@pytest.fixture(scope='module')
def ids(exact_head):
    """Three responses to each of three prompts."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(5, 60, (3 * GROUP, LENGTH), generator=generator)


@pytest.fixture(scope='module')
def expected(exact_head, prompts, ids):
    """The logits after each token of each response, by a pass over whole responses."""
    with torch.no_grad():
        encoded = exact_head.encode_images(prompts)
        states = response_states(exact_head.model, encoded, ids, torch.ones_like(ids).bool())
        return exact_head.model.lm_head(states).view(*ids.shape, -1)[:, 1:]


class Player:
    """Feeds responses to a cache, and compares the logits with the expected ones."""

    def __init__(self, head, layers, prompts, ids, expected):
        self.layers, self.ids, self.expected = layers, ids, expected
        self.head, self.prompts = head, prompts
        self.cache, _, starts = SharedPrefixRollout()._prefill(head, prompts)
        self.cache.start_samples(GROUP)
        self.starts = starts.repeat_interleave(GROUP)
        self.rotary = rotary_table(head.model, int(starts.max()) + LENGTH + 9)
        self.samples = list(range(len(ids)))
        self.done = [0] * len(ids)

    def play(self, right, wrong=None):
        """Feed ``right`` tokens of each sample, and then ``wrong`` ones that are not its own."""
        wrong = wrong or [0] * len(self.samples)
        tokens = []
        for sample, done, count, guesses in zip(self.samples, self.done, right, wrong, strict=True):
            tokens += [*self.ids[sample, done:done + count].tolist(), *[3] * guesses]
        counts = [count + guesses for count, guesses in zip(right, wrong, strict=True)]
        self.cache.make_room(max(self.done) + max(counts))
        equal = len(set(counts)) == 1
        feed = self.cache.feed(torch.tensor(tokens), None if equal else counts)
        logits = decode_step(self.layers, self.cache, feed, self.starts, self.rotary)
        for row, part in enumerate(logits.split(counts)):
            done, count = self.done[row], right[row]
            torch.testing.assert_close(
                part[:count], self.expected[self.samples[row], done:done + count],
                rtol=0, atol=1e-12)
            self.done[row] += count
        self.cache.advance(torch.tensor(right))

    def keep(self, rows):
        self.cache.keep(torch.tensor(rows))
        self.samples, self.done = ([x[row] for row in rows] for x in (self.samples, self.done))
        self.starts = self.starts[rows]

    def replace(self, rows, numbers, group_size=GROUP):
        """Samples of prompts ``numbers`` take the place of those in ``rows``."""
        new, _, starts = SharedPrefixRollout()._prefill(
            self.head, [self.prompts[number] for number in numbers])
        found = self.cache.replace(rows, new, group_size)
        more = len(self.cache.owners) - len(self.samples)
        self.samples, self.done = self.samples + [0] * more, self.done + [0] * more
        self.starts = torch.cat([self.starts, self.starts.new_zeros(more)])
        samples = [number * GROUP + g for number in numbers for g in range(group_size)]
        for row, sample, start in zip(found, samples, starts.repeat_interleave(group_size),
                                      strict=True):
            self.samples[row], self.done[row], self.starts[row] = sample, 0, start
        return found


@pytest.fixture(params=['fused', 'model'])
def player(exact_head, prompts, ids, expected, request):
    model = exact_head.model
    with torch.no_grad():
        layers = FusedLayers(model) if request.param == 'fused' else model
        yield Player(exact_head, layers, prompts, ids, expected)


@pytest.mark.parametrize('width', [1, 2, 5])
def test_as_many_tokens_of_each_sample(player, width):
    for _ in range(65 // width):
        player.play([width] * 9)


def test_other_numbers_of_tokens(player):
    player.play([1, 4, 2, 3, 3, 3, 1, 1, 5])
    player.play([1] * 9)  # at different places
    player.play([2] * 9)
    player.play([1, 0, 2, 0, 0, 0, 3, 1, 1])  # samples and a prompt without any


def test_wrong_guesses_leave_no_trace(player):
    player.play([1] * 9, [4] * 9)
    player.play([2] * 9, [1] * 9)
    player.play([1, 2, 1, 3, 1, 2, 1, 1, 1], [0, 3, 4, 0, 0, 1, 2, 3, 8])
    player.play([1] * 9)


def test_samples_and_prompts_leave(player):
    player.play([1, 2, 3, 1, 1, 1, 4, 1, 1], [1, 0, 0, 0, 3, 0, 0, 0, 0])
    player.keep([0, 2, 3, 4, 5])  # none of the third prompt
    player.play([1] * 5)
    player.play([3] * 5)
    player.play([1, 3, 1, 2, 1])
    player.keep([1, 2])  # one of each
    player.play([1, 1])
    player.play([2, 1], [0, 4])
    player.keep([1])
    player.play([60])


def test_other_prompts_take_the_place_of_ended_samples(player):
    player.play([1, 2, 1, 3, 1, 1, 1, 5, 1])
    keys, version = player.cache.keys[0], player.cache.version
    assert player.replace([3, 4, 5], [0]) == [3, 4, 5]  # all of the second prompt
    assert player.cache.keys[0] is keys and player.cache.version == version
    player.play([1] * 9)
    player.play([1, 2, 3, 3, 2, 1, 0, 0, 1], [0, 0, 0, 4, 4, 4, 0, 0, 0])
    player.play([4] * 9)
    assert player.replace([0, 4, 7], [2]) == [0, 4, 7]  # of several: a fourth prompt
    player.play([1, 2, 1, 3, 1, 1, 1, 5, 1])
    player.play([1] * 9)
    assert player.replace([1], [1, 2], 2) == [1, 9, 10, 11]  # more samples than before
    player.play([2] * 12)
    player.keep([1, 3, 5, 9, 10])
    player.play([3, 1, 2, 2, 1])


def test_longer_prompts_take_the_place_of_others(player):
    shortest = min(range(3), key=player.cache.lengths.__getitem__)
    player.play([1] * 9)
    player.keep([row for row in range(9) if row // GROUP == shortest])
    others = [number for number in range(3) if number != shortest]
    player.play([2] * 3)
    assert player.replace([1], others, 1) == [1, 3]
    player.play([1] * 4)
    player.play([3] * 4)


def test_room_for_what_the_samples_keep(player):
    for _ in range(20):  # 160 tokens, of which 20 stay
        player.play([1] * 9, [7] * 9)
    assert player.cache.own_keys[0].shape[2] == 32
    assert not player.cache.make_room(32)


@pytest.mark.parametrize('seed', range(3))
def test_any_passes(player, seed):
    rng = random.Random(seed)
    while any(done < LENGTH - 1 for done in player.done):
        most = rng.choice([1, 1, 3, 5])
        right = [min(rng.randint(rng.choice([0, 1]), most), LENGTH - 1 - done)
                 for done in player.done]
        wrong = [rng.randint(0, most) if rng.random() < 0.5 else 0 for _ in right]
        if any(right):
            player.play(right, wrong)
        if rng.random() < 0.1 and len(player.samples) > 1:
            left = rng.randrange(len(player.samples))
            player.keep([row for row in range(len(player.samples)) if row != left])
