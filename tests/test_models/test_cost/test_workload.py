# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
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
