# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Results of DetectionMetric: summed up over images, read, compared and reported."""
import json
from pathlib import Path

import numpy as np
import pytest

from mmdpad.analysis.comparison import compare_results, format_comparison, paired_differences
from mmdpad.analysis.pages.answer_html import answer_as_html
from mmdpad.analysis.pages.run_numbers import numbers_as_html
from mmdpad.analysis.pages.run_page import Evaluation, run_as_html
from mmdpad.evaluation.detection_summary import DETECTIONS
from mmdpad.evaluation.results import (
    Result,
    newest_of_each,
    read_result,
    summarize_result,
    write_result,
)
from mmdpad.evaluation.summary import KINDS, find_intervals, kind_of, kind_of_main, summarize


def row(right, wrong, missed, image=0, question='cup', failure=None, **more):
    """A line about one class, all of whose mistakes are wrong places."""
    return dict(
        index=None, id=image, image=None, question=question, failure=failure, truncated=False,
        targets=right + missed, right=right, wrong=wrong, missed=missed, iou=0.75 * right,
        objects=right + wrong, ignored=0, invented=0, duplicates=0, think='t', repetition=0.0,
        boxes=[[0, 0, 9, 9]] * (right + wrong), labels=[0] * (right + wrong),
        label_names=['cup'] * (right + wrong), scores=[1.0] * (right + wrong),
        descriptions=['a <b>cup</b>'] * (right + wrong),
        box_right=[True] * right + [False] * wrong, features={},
        target_boxes=[[0, 0, 9, 9]] * (right + missed), target_names=['cup'] * (right + missed),
        classes={'cup': [right, wrong, missed]}, **more)


def make_result(name, counts):
    rows = [row(*some, image=n // 2, question=f'q{n % 2}') for n, some in enumerate(counts)]
    return Result(name, rows, summarize_result(rows, dict(threshold=0.5), None))


COUNTS = np.random.default_rng(3).integers(0, 4, (16, 3)).tolist()
BETTER = [[right + 1, wrong, max(missed - 1, 0)] for right, wrong, missed in COUNTS]


def drawn_f1(counts, draws=2000):
    """F1 of each draw of 8 images of two questions, counted one by one."""
    rng = np.random.default_rng(0)
    found = []
    for images in rng.integers(8, size=(draws, 8)):
        right, wrong, missed = np.sum([np.add(counts[2 * i], counts[2 * i + 1]) for i in images], 0)
        found.append(200 * right / (2 * right + wrong + missed))
    return np.array(found)


def test_differences_are_those_of_an_independent_bootstrap_over_images():
    found = compare_results([make_result('A', COUNTS), make_result('B', BETTER)])
    assert found['metric'] == 'DetectionMetric' and 'images' in found['bootstrap']['method']
    gain, draws = found['differences'][0]['metrics']['f1'], drawn_f1(BETTER) - drawn_f1(COUNTS)
    totals = [np.sum(counts, 0) for counts in (COUNTS, BETTER)]
    before, after = (200 * right / (2 * right + wrong + missed) for right, wrong, missed in totals)
    assert gain['difference'] == pytest.approx(after - before)
    assert (gain['low'], gain['high']) == pytest.approx(tuple(np.quantile(draws, [.025, .975])))
    assert gain['other_side'] == np.mean(draws * np.sign(after - before) <= 0)
    assert found['results'][0]['intervals']['f1'] == pytest.approx(
        np.quantile(drawn_f1(COUNTS), [.025, .975]).tolist())


def test_two_questions_that_make_up_for_each_other_leave_no_doubt():
    first, second = ([row(*some, image=n // 2, question=f'q{n % 2}')
                      for n, some in enumerate(counts * 5)]
                     for counts in ([[1, 0, 0], [0, 0, 1]], [[0, 0, 1], [1, 0, 0]]))
    gain = paired_differences(first, second)['recall']
    assert (gain['difference'], gain['low'], gain['high']) == (0, 0, 0)
    alone = [dict(one, id=None) for one in first]  # each an image of its own
    low, high = find_intervals(alone)['recall']
    assert low < 50 < high and summarize(alone)['n_images'] == 10
    assert summarize(first)['n_images'] == 5


def test_ids_that_differ_in_type_only_are_one_image():
    assert summarize([row(1, 0, 0, image=7), row(1, 0, 0, image='7')])['n_images'] == 1


def test_the_page_of_a_comparison():
    results = [make_result('A', COUNTS), make_result('B', BETTER)]
    page = format_comparison(compare_results(results))
    head, _, first = page.splitlines()[2:5]
    assert head.startswith('| result | n | F1 | precision | recall | macro F1 | IoU of matches |')
    assert 'intervals over images. F1, precision' in page and 'gIoU' not in page
    cells = first.split(' | ')
    assert '[' in cells[2] and '[' not in cells[5], 'macro F1 has no interval'
    assert cells[1].startswith('16') and cells[6].startswith('75.0')


def test_results_are_read_back_and_told_apart(tmp_path):
    result = make_result('A', COUNTS)
    write_result(str(tmp_path / 'run/detection.jsonl'), result.rows, result.summary)
    for name in ('run', 'run/detection.json', 'run/detection.jsonl'):
        found = read_result(str(tmp_path / name))
        assert kind_of(found.rows) is DETECTIONS and found.summary['classes'].keys() == {'cup'}
    lines = (tmp_path / 'run/detection.jsonl').read_text().splitlines()
    broken = json.loads(lines[1])
    del broken['invented']
    (tmp_path / 'broken.jsonl').write_text(f'{lines[0]}\n{json.dumps(broken)}\n')
    with pytest.raises(ValueError, match='lines of DetectionMetric, but line 2 lacks invented'):
        read_result(str(tmp_path / 'broken.jsonl'))
    (tmp_path / 'log.jsonl').write_text('{"id": 1, "question": "q"}\n')
    with pytest.raises(ValueError, match='log.jsonl: `rows` should be lines of ReasonSegMetric or'):
        read_result(str(tmp_path / 'log.jsonl'))

    masks = [dict(id=0, question='q', is_sentence=None, iou=1, intersection=1, union=1,
                  failure=None, truncated=False)]
    write_result(str(tmp_path / 'run/reasonseg.jsonl'), masks, summarize_result(masks, {}, None))
    with pytest.raises(ValueError, match='are .*detection.json.*; name one of these files'):
        read_result(str(tmp_path / 'run'))
    with pytest.raises(ValueError, match="'A' is of DetectionMetric, and 'b' of ReasonSegMetric"):
        compare_results([result, Result('b', masks, {})])


def test_the_newest_result_of_each_metric_and_data_set():
    summaries = [make_result('A', [[1, 0, 0]]).summary, dict(metrics={}, dataset='x'),
                 make_result('A', [[0, 1, 0]]).summary, dict(metrics={}, dataset='y'),
                 dict(metrics={}, dataset='x')]
    found = {Path(str(number)): summary for number, summary in enumerate(summaries)}
    assert sorted(map(str, newest_of_each(found))) == ['2', '3', '4']


def test_the_report_shows_every_kind_of_result(tmp_path):
    result = make_result('A', [[1, 0, 0], [0, 2, 1], [0, 0, 0], [0, 1, 0]])
    shown = Evaluation('detection.json', result.summary, result.rows)
    page = run_as_html(tmp_path, [shown], [shown], lambda path: np.zeros((20, 20, 3), np.uint8))
    assert '<th>F1</th><th>precision</th>' in page and 'over images' in page
    assert 'the same F1' in page and 'gIoU' not in page and 'masks were not saved' not in page
    ranked = [DETECTIONS.quality(one) for one in result.rows]
    assert ranked == [1, 0, 1, 0], 'right, wrong, rightly nothing, wrongly something'
    assert DETECTIONS.quality(row(0, 0, 0, failure='no_json')) == 0
    html = answer_as_html('q', result.rows[1], np.zeros((20, 20, 3), np.uint8))
    assert 'wrong box' in html and 'true box' in html and '0 right, 2 wrong, 1 missed' in html
    assert '<td>cup</td><td>1.00</td><td>a &lt;b&gt;cup&lt;/b&gt;</td>' in html


def test_validations_of_several_tasks_are_told_apart():
    series = {'val: seg/reasonseg/giou': ([0, 2], [50.0, 60.0]),
              'val: boxes/detection/f1': ([0, 2], [40.0, 30.0]),
              'val: boxes/detection/precision': ([2], [35.0])}
    page = numbers_as_html(series)
    assert 'validation, seg/reasonseg' in page and 'validation, boxes/detection' in page
    assert '<td>best F1</td><td>0</td><td>40.0</td><td>-</td>' in page
    assert 'No validation precedes' not in page


@pytest.mark.parametrize('name, known', [
    ('f1', True), ('macro_f1', True), ('f1_low', True), ('n_images', True), ('n', True),
    ('failed_no_json', True), ('F1', False), ('giou', False), ('f1_lo', False),
    ('macro_f1_low', False)])
def test_names_of_metrics(name, known):
    assert DETECTIONS.has(name) == known


def test_marks_and_main_metrics_belong_to_one_kind():
    assert len({kind.mark for kind in KINDS}) == len(KINDS)
    for kind in KINDS:
        assert kind.mark in kind.needed and set(kind.shown) | set(kind.bounded) <= set(kind.columns)
        assert kind_of_main(f'set/{kind.main}') is kind
    assert kind_of_main('some_detection/f1') is None and kind_of_main('detection/recall') is None
