# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from dataclasses import replace

import pytest

from mmdpad.models.cost.fake_policy import ImageInputs
from mmdpad.models.cost.workload import Workload, groups_in_pass

WORK = Workload(prompts=2, group_size=3, prompt_tokens=5, response_tokens=4,
                image=ImageInputs((60, 1176), ((1, 10, 6), ), 15))


def test_tokens_and_pairs_by_hand():
    assert (WORK.generated, WORK.tokens) == (24, 2 * 5 + 24)
    assert WORK.prefix_pairs == 2 * (1 + 2 + 3 + 4 + 5)
    assert WORK.response_pairs == 6 * (6 + 7 + 8 + 9)
    repeated = WORK.replicated()
    assert (repeated.tokens, repeated.images) == (6 * 9, 6)
    # The same as causal attention over nine tokens, six times.
    assert repeated.prefix_pairs + repeated.response_pairs == 6 * 45


@pytest.mark.parametrize('budget, groups', [(None, 16), (5500, 2), (10, 1), (10**9, 16)])
def test_groups_of_a_micro_batch(budget, groups):
    assert groups_in_pass(budget, prompts=16, group_tokens=2700) == groups


CROP = ImageInputs((8, 1176), ((1, 4, 2), ), 2)
TALKS = replace(WORK, turns=3, response_tokens=6, reply_tokens=8, reply_images=2.0,
                reply_image=CROP)


def test_conversations_by_hand():
    """Three turns of two tokens, and replies of four between them, two of which are an image's."""
    assert (TALKS.length, TALKS.generated, TALKS.tokens) == (14, 6 * 6, 2 * 5 + 6 * 14)
    assert TALKS.response_pairs == 6 * sum(range(6, 20)) and TALKS.prefix_pairs == 2 * 15
    assert TALKS.all_images == {WORK.image: 2, CROP: 12}
    assert replace(TALKS, reply_image=WORK.image).all_images == {WORK.image: 14}
    assert TALKS.replicated().all_images == {WORK.image: 6, CROP: 12}


def test_turns_by_hand():
    first, second, third = (TALKS.turn(number) for number in (1, 2, 3))
    assert (first.prompts, first.group_size, first.tokens) == (2, 3, 2 * 5 + 6 * 2)
    assert second == replace(first, prompts=6, group_size=1, prompt_tokens=5 + 2 + 4,
                             reply_images=1.0)
    assert third == replace(second, prompt_tokens=5 + 2 * (2 + 4), reply_images=2.0)
    assert third.all_images == {WORK.image: 6, CROP: 12}
    assert WORK.turn(1) == WORK
