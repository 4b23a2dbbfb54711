# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest

from mmdpad.evaluation.summary import find_intervals, ratios, summarize


def row(iou=0.5, num_targets=1, area=3, failure=None, **more):
    return dict(iou=iou, intersection=1, union=2, num_targets=num_targets, area=area,
                failure=failure, is_sentence=None, truncated=False, **more)


def test_no_target_and_target_accuracy_by_hand():
    rows = [
        row(1.0, 0, 0), row(0.0, 0, 5), row(0.0, 0, 0, 'no_json'),  # 1 of 3 said "nothing"
        row(0.1), row(0.0, area=0), row(0.0, area=0, failure='no_json'), row(0.9)]  # 2 of 4
    metrics = summarize(rows)
    assert metrics['no_target_accuracy'] == pytest.approx(100 / 3)
    assert metrics['target_accuracy'] == 50 and metrics['n_no_target'] == 3
    assert metrics['failed_no_json'] == 2 and metrics['parse_failure_rate'] == 2 / 7
    assert metrics['giou'] == pytest.approx(100 * 2 / 7)
    without = summarize(rows[3:])
    assert not {'n_no_target', 'no_target_accuracy', 'target_accuracy'} & without.keys()


def test_means_are_over_those_that_have_a_value():
    rows = [row(pointing=1.0, boxes_right=True, repetition=None, reasoning_tokens=4),
            row(pointing=0.5, boxes_right=False, repetition=0.25, reasoning_tokens=None)]
    metrics = summarize(rows)
    assert (metrics['pointing_accuracy'], metrics['box_accuracy'], metrics['repetition'],
            metrics['reasoning_tokens']) == (75, 50, 0.25, 4)
    assert 'caption_tokens' not in metrics and 'short_giou' not in metrics
    assert (metrics['n'], metrics['n_short'], metrics['n_long']) == (2, 0, 0)


def test_intervals_hold_the_numbers_and_are_the_same_each_time():
    rows = [row(i / 20) | dict(is_sentence=i % 2 == 0, intersection=i)
            for i in range(20)]
    found, metrics = find_intervals(rows), summarize(rows)
    assert found == find_intervals(rows) and list(found) == ratios(rows)[0]
    for name in ('giou', 'ciou', 'short_giou', 'long_ciou'):
        assert found[name][0] < metrics[name] < found[name][1]
    # a part of ten is less sure than all twenty
    assert (found['short_giou'][1] - found['short_giou'][0]
            > found['giou'][1] - found['giou'][0])
    assert find_intervals(rows[:1])['giou'] == [0, 0]


def test_nothing_to_average():
    with pytest.raises(ValueError, match='at least one sample'):
        summarize([])
