# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The numbers of the study of detection and question answering, against hand-made answers."""
import contextlib
import io

import numpy as np
import pytest
from mmdet.datasets.api_wrappers import COCO

from mmdpad.analysis.task_scores import ScoredRun
from mmdpad.analysis.task_study import (
    Answers,
    Draws,
    Estimate,
    describe_caption,
    describe_detections,
    differences,
    estimates,
    measure_seeds,
)
from mmdpad.analysis.task_tables import format_table
from mmdpad.evaluation.calibration import brier_score, expected_calibration_error
from mmdpad.toy.shapes_tasks import outer_box
from mmdpad.toy.shapes_world import SHAPES, make_scene

SCENE = next(scene for scene in map(lambda i: make_scene('test', i), range(20))
             if len(scene.objects) == 4)
BOXES = [list(outer_box(item)) for item in SCENE.objects]
LABELS = [SHAPES.index(item.shape) for item in SCENE.objects]


def detections(descriptions, boxes=BOXES, **more) -> dict:
    return dict(question=', '.join(SHAPES), boxes=boxes, labels=LABELS, descriptions=descriptions,
                classes={}) | more


def test_descriptions_of_right_boxes_are_told_apart():
    first = SCENE.objects[0]
    other = next(item for item in SCENE.objects
                 if (item.color, item.shape) != (first.color, first.shape))
    texts = [f'a {first.color} {first.shape}', 'an object in the picture', 'a pink elephant']
    texts.append(f'a {SCENE.objects[3].name}')
    found = describe_detections(detections(texts), SCENE)
    number = len(BOXES)
    assert found['generic'] == (100, number) and found['other'] == (0, number)
    assert found['specific'] == (100 * (number - 2), number)
    texts[0] = f'a {other.name}'
    assert describe_detections(detections(texts), SCENE)['other'] == (100, number)
    # A box that matches nothing has no kind.
    moved = [[box[0] + 60, *box[1:2], box[2] + 60, box[3]] for box in BOXES[:1]] + BOXES[1:]
    assert describe_detections(detections(texts, moved), SCENE)['other'] == (0, number - 1)


def test_f1_of_a_class_is_twice_its_right_boxes_over_all():
    found = describe_detections(detections(
        [None] * len(BOXES), classes=dict(circle=[1, 1, 0], star=[2, 0, 2])), SCENE)
    assert found['f1_circle'] == (200, 3) and found['f1_star'] == (400, 6)
    assert found['f1_square'] == (0, 0)


def test_captions_count_where_the_evidence_is_one_object():
    row = dict(evidence=BOXES[:1], caption=f'a {SCENE.objects[0].name}')
    found = describe_caption(row, SCENE)
    assert [found[kind] for kind in ('specific', 'generic', 'other')] == [(100, 1), (0, 1), (0, 1)]
    assert describe_caption(dict(row, evidence=BOXES[:2]), SCENE)['specific'] is None


def answers_of(*values) -> Answers:
    return Answers([], dict(x=np.array(values, float)), dict(x=np.ones(len(values))))


def test_differences_are_paired_by_seed_and_scene():
    draws = Draws(3, resamples=50)
    before = measure_seeds([answers_of(0, 10, 20)], draws)
    after = measure_seeds([answers_of(1, 11, 21), answers_of(3, 13, 23)], draws)
    assert estimates(after)['x'].mean == 12
    found = differences(after, before)['x']
    # One start for both seeds, and the same scenes in each draw: nothing varies but the seed.
    assert (found.mean, found.seeds) == (2, [1, 3])
    assert found.low == pytest.approx(2) and found.high == pytest.approx(2)
    assert estimates(before)['x'].low < 10 < estimates(before)['x'].high


def test_a_table_has_arms_and_their_differences():
    draws = Draws(2, resamples=20)
    arms = dict(start=measure_seeds([answers_of(10, 10)], draws),
                rules=measure_seeds([answers_of(12, 12), answers_of(14, 14)], draws))
    assert format_table(arms, dict(x='F1')).splitlines() == [
        '|  | start | rules | rules - start |', '| --- | --- | --- | --- |',
        '| F1 | 10.0 | 13.0 (12.0 to 14.0) | +3.0 [+3.0, +3.0] (+2.0 to +4.0) |']
    assert Estimate.of([1.0], [np.array([np.nan, 1.0])]).low == 1


def score_run(discrimination, crowd=False):
    """Boxes of four images, half of them right; the likelihood tells which, and discrimination
    nothing. The last box is on a crowd or wrong."""
    rng = np.random.default_rng(0)
    rows, annotations = [], []
    for image in range(4):
        boxes = [[10.0 + 20 * i, 10, 25 + 20 * i, 30] for i in range(4)]
        right = [True, False, True, None if crowd else False]
        annotations += [dict(id=len(annotations) + 1 + i, image_id=image, category_id=1,
                             bbox=[boxes[j][0], 10, 15, 20], area=300, iscrowd=0)
                        for i, j in enumerate((0, 2))]
        if crowd:
            annotations.append(dict(annotations[-1], id=len(annotations) + 1, iscrowd=1,
                                    bbox=[boxes[3][0], 10, 15, 20]))
        likelihood = [float(rng.uniform(0.6, 0.9) if hit else rng.uniform(0.1, 0.4))
                      for hit in right]
        rows.append(dict(image=f'test/test_{image:05d}.jpg', boxes=boxes, labels=[0] * 4,
                         box_right=right, scores=likelihood, features=dict(
                             likelihood=likelihood, discrimination=discrimination,
                             score=likelihood)))
    file = COCO()
    file.dataset = dict(images=[dict(id=i, width=100, height=100) for i in range(4)],
                        categories=[dict(id=1, name='circle')], annotations=annotations)
    with contextlib.redirect_stdout(io.StringIO()):
        file.createIndex()
        return ScoredRun(rows, rows, file, Draws(4, resamples=10))


def test_scores_are_measured_as_the_metric_does():
    scored = score_run(discrimination=[0.5] * 4)
    value = {name: number for name, (number, _) in scored.measured.items()}
    assert value['likelihood AP'] == pytest.approx(100) and value['none AP'] < 70
    assert value['none ECE'] == value['none Brier'] == 0.5
    raw = scored.scores['likelihood', False]
    assert value['likelihood ECE'] == pytest.approx(expected_calibration_error(raw, scored.right))
    assert value['likelihood Brier'] == pytest.approx(brier_score(raw, scored.right))
    assert value['likelihood, calibrated Brier'] < value['likelihood Brier']
    assert value['fitted, calibrated AP'] == pytest.approx(100)
    # What tells nothing is calibrated to the share of right boxes.
    assert scored.scores['discrimination', True] == pytest.approx(0.5)
    assert 'likelihood, calibrated AP' not in value  # its order is that of the likelihood


def test_boxes_on_crowds_are_neither_right_nor_wrong():
    crowds, without = (score_run([0.5] * 4, crowd) for crowd in (True, False))
    assert len(crowds.right) == 12 == len(crowds.scores['fitted', True])
    assert crowds.scores['none', False].tolist() == [1] * 12
    value = {name: number for name, (number, _) in crowds.measured.items()}
    assert value['none ECE'] == pytest.approx(1 / 3) == value['none Brier']
    assert value['likelihood AP'] == pytest.approx(100)
    assert without.measured['none AP'][0] < value['none AP'] < 100


def test_unknown_scores_count_as_0():
    """As of a description that CLIP cannot use."""
    found, expected = (score_run([0.9, unknown, 0.6, 0.4]) for unknown in (None, 0.0))
    assert found.scores['discrimination', False][1] == 0
    assert {name: number for name, (number, _) in found.measured.items()} == {
        name: number for name, (number, _) in expected.measured.items()}
