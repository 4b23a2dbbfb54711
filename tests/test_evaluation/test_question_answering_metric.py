# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The metric of answers in words: is it right, and is it looking?"""
import json

import numpy as np
import pytest
import torch

from mmdpad.analysis.comparison import compare_results, format_comparison
from mmdpad.analysis.pages.answer_html import answer_as_html
from mmdpad.analysis.pages.run_numbers import Evaluation, evaluations_as_html
from mmdpad.analysis.pages.run_page import run_as_html
from mmdpad.evaluation import QuestionAnsweringMetric
from mmdpad.evaluation.results import read_result
from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput
from mmdpad.visualization import draw_row

# The annotation's outer edges, and a prediction of the same covered pixels.
A, B = (0., 0., 10., 10.), (20., 0., 30., 10.)
FOUND_A, FOUND_B, HALF_A = (0., 0., 9., 9.), (20., 0., 29., 9.), (0., 0., 9., 4.)


def sample(number, text, boxes, evidence, answers=('red', ), kind=None, failure=None, **meta):
    parsed = failure or ReasoningOutput('t', 'c', tuple(AnsweredObject(b, None) for b in boxes),
                                        text)
    return dict(
        sample_idx=number, img_id=f'q{number}', img_path='a.png', question='q', answers=answers,
        evidence=evidence, ori_shape=(40, 40), question_type=kind,
        pred_instances=dict(bboxes=torch.tensor(boxes).reshape(-1, 4)),
        reasoning=dict(parsed=parsed, response='r', truncated=False, reasoning_tokens=4,
                       caption_tokens=2), **meta)


SAMPLES = [
    sample(0, 'red', [FOUND_A], (A, ), kind='color'),  # right, and looking
    sample(1, 'Red', [FOUND_B], (A, ), kind='color'),  # right with the wrong evidence
    sample(2, 'blue', [FOUND_A, FOUND_B], (A, B), kind='thing'),  # wrong with the right evidence
    sample(3, 'red', [], (A, )),  # right without evidence
    sample(4, 'red', [FOUND_A], ()),  # the data know no evidence
    sample(5, None, [], (A, B), failure=ParseFailure('missing_key', 'x'))]


def evaluate(samples, **options):
    metric = QuestionAnsweringMetric(measure='exact', **options)
    metric.process(None, samples)
    return metric.evaluate(len(samples)), metric


def test_numbers_by_hand():
    found, _ = evaluate(SAMPLES)
    wanted = dict(
        accuracy=100 * 4 / 6, accuracy_of_color=100, accuracy_of_thing=0,
        evidence_iou=100 * 2 / 5, evidence_recall=100 * 3 / 7, evidence_accuracy=100 * 2 / 5,
        accuracy_given_right_evidence=50, accuracy_given_wrong_evidence=100 * 2 / 3,
        grounded_accuracy=20, no_evidence_rate=1 / 4, parse_failure_rate=1 / 6, truncated_rate=0,
        reasoning_tokens=4, caption_tokens=2, repetition=0, n=6, n_evidence=5, failed_missing_key=1)
    numbers = {name.removeprefix('vqa/'): value for name, value in found.items()}
    low, high = numbers.pop('accuracy_low'), numbers.pop('accuracy_high')
    assert numbers == pytest.approx(wanted) and low < numbers['accuracy'] < high


def test_no_type_of_question_hides_another_metric():
    kinds = ('low', 'high', 'given_right_evidence')
    found, _ = evaluate([sample(0, 'red', [FOUND_A], (A, )),
                         *(sample(i, 'x', [], (), kind=kind) for i, kind in enumerate(kinds, 1))])
    assert found['vqa/accuracy_given_right_evidence'] == 100 and found['vqa/accuracy_high'] > 0
    assert [found[f'vqa/accuracy_of_{kind}'] for kind in kinds] == [0, 0, 0]


def test_evidence_is_right_above_the_threshold():
    half = [sample(0, 'red', [HALF_A], (A, ))]
    assert [evaluate(half, threshold=t)[0]['vqa/evidence_accuracy'] for t in (.5, .4)] == [0, 100]


def test_thin_evidence():
    """One pixel wide: found exactly; and found in a model image of 1.68 times the size, where it
    covers the pixels 8 to 10 and 0 to 16. Its outer edges (8, 0, 11, 17) are (4.76, 0, 6.55, 10.12)
    in the image: IoU 10 / (1.786 * 10.119)."""
    exact = sample(0, 'red', [(5., 0., 5., 9.)], ((5., 0., 6., 10.), ))
    assert evaluate([exact])[0]['vqa/evidence_iou'] == 100
    box = tuple(value / 1.68 for value in (8, 0, 10, 16))
    scaled = sample(0, 'red', [box], ((5., 0., 6., 10.), ), model_shape=(67.2, 67.2))
    found = evaluate([scaled])[0]
    assert found['vqa/evidence_iou'] == pytest.approx(100 * 10 / (3 * 17 / 1.68**2), abs=1e-3)
    assert found['vqa/evidence_accuracy'] == 100


def test_choices_and_measures():
    choice = [sample(0, '(b)', [], (), choices=('blue', 'red'))]
    assert evaluate(choice)[0]['vqa/accuracy'] == 100
    ten = [sample(0, 'red', [], (), answers=('red', ) * 3 + ('blue', ) * 7)]
    metric = QuestionAnsweringMetric()
    metric.process(None, ten)
    assert metric.evaluate(1)['vqa/accuracy'] == pytest.approx(90)
    assert 'vqa/evidence_iou' not in evaluate(choice)[0]


def test_results_are_written_read_compared_and_drawn(tmp_path):
    _, metric = evaluate(SAMPLES, out_file=str(tmp_path / 'first.jsonl'))
    better = [*SAMPLES[:2], sample(2, 'red', [FOUND_A, FOUND_B], (A, B), kind='thing'),
              *SAMPLES[3:]]
    evaluate(better, out_file=str(tmp_path / 'second.jsonl'))
    results = [read_result(str(tmp_path / f'{name}.json')) for name in ('first', 'second')]
    found = compare_results(results)
    change = found['differences'][0]['metrics']
    assert change['accuracy']['difference'] == pytest.approx(100 / 6)
    assert change['accuracy_given_right_evidence']['difference'] == pytest.approx(50)
    assert 'evidence recall' in format_comparison(found)
    assert json.loads((tmp_path / 'first.json').read_text())['protocol']['measure'] == 'exact'

    row, image = results[0].rows[1], np.zeros((40, 40, 3), np.uint8)
    page = answer_as_html('q', row, image)
    assert '<b>Answer:</b> Red' in page and 'accuracy 1.00 (right: red), evidence IoU 0.00' in page
    assert draw_row(image, row).shape[2] == 3
    shown = Evaluation('first', results[0].summary, results[0].rows)
    assert 'evidence IoU' in evaluations_as_html([shown])
    assert 'the same accuracy' in run_as_html(tmp_path, [shown], [shown], lambda path: image)


def test_results_of_two_kinds_cannot_be_compared(tmp_path):
    evaluate(SAMPLES, out_file=str(tmp_path / 'a.jsonl'))
    result = read_result(str(tmp_path / 'a.jsonl'))
    other = type(result)('b', [dict(id=0, question='q', intersection=0)], {})
    with pytest.raises(ValueError, match='one metric'):
        compare_results([result, other])


@pytest.mark.parametrize('arguments, problem', [
    (dict(measure='x'), "one of .* 'x'"), (dict(threshold=1), 'IoU'), (dict(out_file='a.json'),
                                                                    'end in .jsonl')])
def test_bad_arguments(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        QuestionAnsweringMetric(**arguments)
    with pytest.raises(ValueError, match='`answers`'):
        evaluate([sample(0, 'x', [], (), answers=())])
