# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest

from mmdpad.models.cost.workload import Workload, groups_in_pass

WORK = Workload(prompts=2, group_size=3, prompt_tokens=5, response_tokens=4, grid=(10, 6))


def test_tokens_and_pairs_by_hand():
    assert (WORK.generated, WORK.tokens, WORK.image_tokens) == (24, 2 * 5 + 24, 15)
    assert WORK.prefix_pairs == 2 * (1 + 2 + 3 + 4 + 5)
    assert WORK.response_pairs == 6 * (6 + 7 + 8 + 9)
    repeated = WORK.replicated()
    assert (repeated.tokens, repeated.images) == (6 * 9, 6)
    # The same as causal attention over nine tokens, six times.
    assert repeated.prefix_pairs + repeated.response_pairs == 6 * 45


def test_windows_at_the_edge_are_smaller():
    # 5 x 3 image tokens in windows of 2 x 2: rows 2, 2, 1 and columns 2, 1; 4 patches a token.
    sizes = [4 * rows * columns for rows in (2, 2, 1) for columns in (2, 1)]
    assert sum(sizes) == WORK.patches
    assert WORK.window_pairs(2) == sum(size**2 for size in sizes)
    assert WORK.window_pairs(0) == 60**2


@pytest.mark.parametrize('budget, groups', [(None, 16), (5500, 2), (10, 1), (10**9, 16)])
def test_groups_of_a_micro_batch(budget, groups):
    assert groups_in_pass(budget, prompts=16, group_tokens=2700) == groups
