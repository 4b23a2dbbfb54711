# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import math

import pytest

from mmdpad.analysis.reward_by_length import format_stages, length_gaps
from mmdpad.prompts import format_response


def lines(iteration, *responses, group=0):
    """(words of reasoning, box, form) for each response; total is box + 2 form."""
    return [dict(iter=iteration, group=group, total=box + 2 * form,
                 rewards=dict(box=box, form=form), response=respond(words))
            for words, box, form in responses]


def respond(words):
    if not words:
        return 'nothing'
    return format_response(' '.join(['so'] * words), (1, 2, 3, 4), ((1, 2), (3, 4)), 'c')


def test_by_hand():
    rows = lines(1, (9, 0, 1), (7, 1, 1), (2, 1, 1), (2, 1, 0))  # the mean is 5 words
    rows += lines(1, (4, 0, 1), (0, 0, 0), group=1)
    stage, = length_gaps(rows, 1)
    assert (stage.first, stage.last, stage.groups) == (1, 1, 2)
    assert stage.words == [(8 + 4) / 2, (2 + 0) / 2]
    # box: 1/2 - 1 and 0 - 0; form: 1 - 1/2 and 1 - 0; the error of two is half their distance
    assert stage.gaps == dict(box=(-0.25, pytest.approx(0.25)), form=(0.75, pytest.approx(0.25)),
                              total=(1.25, pytest.approx(0.75)))


def test_all_turns_of_a_conversation_count():
    row, = lines(1, (5, 0, 0))
    talk = dict(row, conversation=dict(turns=[respond(40), respond(5)]))
    stage, = length_gaps([talk, *lines(1, (20, 1, 0))], 1)
    assert stage.words == [45, 20] and stage.gaps['box'][0] == -1


def test_responses_of_mean_length_and_equal_groups_say_nothing():
    rows = lines(3, (1, 1, 0), (2, 9, 9), (3, 0, 0)) + lines(3, (5, 1, 1), (5, 0, 0), group=1)
    stage, = length_gaps(rows, 1)
    assert stage.groups == 1 and stage.gaps['box'] == (-1, pytest.approx(math.nan, nan_ok=True))
    assert length_gaps(lines(1, (5, 1, 1), (5, 0, 0))) == []


def test_stages_are_of_iterations_and_logs_are_pooled():
    log = [row for i in range(11, 21) for row in lines(i, (1, 0, 0), (3, i > 15, 0))]
    early, late = length_gaps(log + log, 2)
    assert (early.first, early.last, early.groups) == (11, 15, 10)
    assert (late.first, late.last, late.groups) == (16, 20, 10)
    assert early.gaps['box'] == (0, 0) and late.gaps['box'] == (1, 0)
    assert len(length_gaps(log, 100)) == 10  # more stages than iterations
    table = format_stages([early, late]).splitlines()
    assert table[0].split() == ['iterations', 'groups', 'words', 'total', 'box', 'form']
    assert table[2].split()[:6] == ['16-20', '10', '3.0,', '1.0', '+1.000', '±']
    assert len({*map(len, table)}) == 1


@pytest.mark.parametrize('rows, stages, message', [
    ([], 5, 'there are none'), ([dict(iter=1)], 0, 'at least 1, but got 0')])
def test_what_is_refused(rows, stages, message):
    with pytest.raises(ValueError, match=message):
        length_gaps(rows, stages)
