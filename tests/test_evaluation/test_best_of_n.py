# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What selectors choose among n of N answers: by hand, and against all parts of n."""
from itertools import combinations
from math import comb, inf, nan

import numpy as np
import pytest

from mmdpad.evaluation.best_of_n import (
    SampledAnswers,
    chances_of_ranks,
    numbers_of_answers,
    parts_of,
    preference,
)
from mmdpad.structures.candidates import agreement

IOUS = [0.2, 0.9, 0.6, 0.0]
OVERLAPS = np.array([[1, .1, .2, 0], [.1, 1, .7, 0], [.2, .7, 1, 0], [0, 0, 0, 0]])


def answers(ious=IOUS, values=(3., 1., nan, 9.), usable=(True, True, True, False),
            overlaps=OVERLAPS, vote=None, sums=None):
    scores = np.array([ious, ious, np.ones(len(ious)), np.array(ious) > 0.5])
    return SampledAnswers(scores, np.array(usable), dict(clip=np.array(values)),
                          np.array(overlaps), vote or {}, sums or {})


def test_numbers_and_parts():
    assert numbers_of_answers(1) == [1] and numbers_of_answers(8) == [1, 2, 4, 8]
    assert numbers_of_answers(6) == [1, 2, 4, 6]
    assert parts_of(6, 4) == [slice(0, 4)] and len(parts_of(6, 2)) == 3


def test_preference():
    """Usable before unusable, a value before none, the higher before the lower, the earlier draw
    before the later."""
    values, usable = np.array([nan, 9, -1, 2, 2]), np.array([True, False, True, True, True])
    assert preference(values, usable).tolist() == [3, 4, 2, 0, 1]
    assert preference(np.zeros(40), np.ones(40, bool)).tolist() == [*range(40)]


def test_the_best_of_n_by_hand():
    """Ranks are 0, 1, 2, 3, the unusable one last. Of the six pairs, the first wins three, the
    second two, the third one."""
    assert chances_of_ranks(4, 2).tolist() == [3 / 6, 2 / 6, 1 / 6, 0]
    assert chances_of_ranks(32, 32)[0] == 1
    one = answers()
    assert one.outcome('clip', 4)[0] == 0.2 and one.outcome('oracle', 4)[0] == 0.9
    assert one.outcome('clip', 2)[0] == pytest.approx((3 * .2 + 2 * .9 + .6) / 6)
    assert one.outcome('mean', 2)[0] == pytest.approx(1.7 / 4)
    for way in ('clip', 'oracle', 'consensus'):
        assert one.outcome(way, 1) == pytest.approx(one.outcome('mean', 4)), way
    assert one.confidence('clip') == 3 and answers(values=[nan] * 4).confidence('clip') == -inf
    assert answers(usable=[False] * 4).confidence('clip') == -inf


def test_it_is_the_mean_over_all_parts():
    rng = np.random.default_rng(0)
    ious, values = rng.random(7), rng.integers(3, size=7).astype(float)
    usable = rng.random(7) < 0.7
    one = answers(ious, values, usable, np.eye(7))
    for n in (2, 3, 7):
        best = [part[int(preference(values[list(part)], usable[list(part)])[0])]
                for part in combinations(range(7), n)]
        assert one.outcome('clip', n)[0] == pytest.approx(ious[best].mean())


def test_the_oracle_is_the_estimator_of_pass_at_k():
    """1 - C(N - c, k) / C(N, k) for c right answers among N, arXiv 2107.03374, equation 1."""
    ious = [.9, .7, .6, .1, .2, 0, 0, .5]
    one = answers(ious, [0] * 8, [True] * 8, np.eye(8))
    for k in (1, 2, 4, 8):
        assert one.outcome('oracle', k)[3] == pytest.approx(1 - comb(5, k) / comb(8, k))


def test_consensus():
    """Of all four, answer 2 agrees most with the others: (0.2 + 0.7 + 0) / 3."""
    usable = np.array([True, True, False])
    assert agreement(OVERLAPS[:3, :3], usable) == pytest.approx([.15, .4, nan], nan_ok=True)
    assert np.isnan(agreement(np.ones((1, 1)), usable[:1]))
    one = answers()
    assert one.outcome('consensus', 4)[0] == 0.6
    assert one.confidence('consensus') == pytest.approx(.9 / 3)
    # Halves: 0 before 1 (a tie), 2 before the unusable one.
    assert one.outcome('consensus', 2)[0] == pytest.approx((.2 + .6) / 2)


def test_the_vote_is_as_stored():
    one = answers(vote={'4': dict(scores=[.8, 8, 10, 1], value=.7), '2': dict(
        scores=[.5, 5, 10, .5], value=None)})
    assert one.outcome('vote', 2).tolist() == [.5, 5, 10, .5]
    assert one.confidence('vote') == .7


def test_sums():
    """Answer 1 is best by 6 + 8 before 9 + 3, though its value by clip is lower; the weight 0 does
    not count. Without consensus, the closed form holds."""
    one = answers(values=[3., 2, nan, 9], sums=dict(
        both=dict(clip=3, consensus=30), clip_alone=dict(clip=-1., consensus=0)))
    assert one.selectors == ['clip', 'consensus', 'vote', 'both', 'clip_alone']
    assert one.values('both')[:2] == pytest.approx([9 + 30 * .3 / 3, 6 + 30 * .8 / 3])
    assert np.isnan(one.values('both')[2:]).all()
    assert one.outcome('both', 4)[0] == .9 and one.confidence('both') == pytest.approx(14)
    assert one.outcome('clip_alone', 2)[0] == pytest.approx((3 * .9 + 2 * .2 + .6) / 6)
