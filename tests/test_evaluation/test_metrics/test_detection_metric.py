# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Metrics of detections: ours at one threshold, and mmdet's with labels."""
import json
import logging
from unittest.mock import patch

import pytest
import torch

from mmdpad.evaluation.metrics import coco_metric
from mmdpad.evaluation.provenance import publish
from mmdpad.evaluation.summary import summarize
from mmdpad.registry import METRICS
from mmdpad.structures import ParseFailure, ReasoningOutput

CUP, PLATE, MUG, CROWD = [0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30], [40, 0, 60, 10]
CLASSES = ('cup', 'plate', 'mug')  # labels 0, 1, 2


def make_sample(objects, targets=((CUP, 0), (PLATE, 1)), asked=(0, 1), ignored=(), image=1,
                invented=0, failure=None, index=None, scores=None, features=None, **meta):
    boxes, labels = [box for box, _ in objects], [label for _, label in objects]
    parsed = ParseFailure(failure, 'why') if failure else ReasoningOutput('t', None, ())
    return dict(
        img_id=image, img_path='a.jpg', ori_shape=(50, 60), question='cup, plate',
        sample_idx=index, classes=tuple(CLASSES[label] for label in asked), class_labels=asked,
        instances=[dict(bbox=box, bbox_label=label, ignore_flag=0) for box, label in targets]
        + [dict(bbox=box, bbox_label=label, ignore_flag=1, crowd=True) for box, label in ignored],
        pred_instances=dict(
            bboxes=torch.tensor(boxes).reshape(-1, 4).float(),
            labels=torch.tensor(labels, dtype=torch.long),
            scores=torch.tensor(scores) if scores else torch.ones(len(boxes)),
            descriptions=['d'] * len(boxes), **(dict(features=features) if features else {})),
        reasoning=dict(parsed=parsed, response='r', truncated=False, invented=invented), **meta)


def evaluate(samples, kind='DetectionMetric', **options):
    metric = METRICS.build(dict(type=kind, **options))
    metric.dataset_meta = dict(classes=CLASSES)
    for sample in samples:
        metric.process(None, [sample])
    return metric.evaluate(len(samples))


def test_counts_by_hand():
    """A right cup, a repeated one, a wrong plate, an invented object, and a cup on a crowd; then an
    answer of nothing that is right, one that is not, and a failure."""
    metrics = evaluate([
        make_sample([(CUP, 0), (CUP, 0), (MUG, 1), ([45, 0, 50, 5], 0)], ignored=[(CROWD, 0)],
                    invented=1),
        make_sample([], targets=(), asked=(2, ), image=2),
        make_sample([], image=3), make_sample([], image=4, failure='no_json')])
    assert {name: value for name, value in metrics.items() if not name.endswith(('low', 'high'))
            } == pytest.approx({
                'detection/f1': 100 * 2 / (2 + 3 + 5), 'detection/precision': 25,
                'detection/recall': 100 / 6, 'detection/mean_iou': 100,
                'detection/macro_f1': (200 / (2 + 1 + 2) + 0) / 2,
                'detection/count_error': (2 + 0 + 2 + 2) / 4,
                'detection/no_target_accuracy': 100, 'detection/target_accuracy': 100 / 3,
                'detection/invented_rate': 1 / 5, 'detection/duplicate_rate': 1 / 5,
                'detection/parse_failure_rate': 1 / 4, 'detection/truncated_rate': 0,
                'detection/repetition': 0,
                'detection/n': 4, 'detection/n_images': 4, 'detection/n_no_target': 1,
                'detection/failed_no_json': 1})
    assert metrics['detection/f1_low'] <= metrics['detection/f1'] <= metrics['detection/f1_high']


def test_a_failure_is_no_rejection():
    samples = [make_sample([], targets=(), image=image, failure=failure)
               for image, failure in enumerate((None, 'no_json', 'no_answer', None))]
    assert evaluate(samples)['detection/no_target_accuracy'] == 50


def test_images_are_resampled_with_all_their_questions():
    """Two questions of opposite result about each image: its sum never varies."""
    samples = [make_sample([(CUP, 0)] if right else [], ((CUP, 0), ), (0, ), image=image)
               for image in range(5) for right in (True, False)]
    metrics = evaluate(samples)
    assert metrics['detection/n_images'] == 5
    assert metrics['detection/recall_low'] == metrics['detection/recall_high'] == 50


def test_result_files(tmp_path):
    samples = [make_sample([(CUP, 0)], index=1), make_sample([(PLATE, 1)], index=0)]
    evaluate(samples, out_file=str(tmp_path / 'd.jsonl'))
    rows = [json.loads(line) for line in (tmp_path / 'd.jsonl').read_text().splitlines()]
    assert [row['index'] for row in rows] == [0, 1]
    assert rows[0]['classes'] == {'cup': [0, 0, 1], 'plate': [1, 0, 0]}
    assert rows[1]['boxes'] == [CUP] and rows[1]['descriptions'] == ['d']
    summary = json.loads((tmp_path / 'd.json').read_text())
    assert summary['classes']['cup'] == dict(targets=2, objects=1, precision=100.0, recall=50.0,
                                             f1=pytest.approx(200 / 3))
    assert summary['protocol']['threshold'] == 0.5 and 'images' in summary['bootstrap']['method']
    assert summary['metrics'] == summarize(rows)


def test_scores_by_hand(tmp_path):
    """Right with 0.95, wrong with 0.8 and 0.3; boxes on a crowd and invented ones do not count."""
    sample = make_sample(
        [(CUP, 0), (CUP, 0), (MUG, 1), ([45, 0, 50, 5], 0)], ignored=[(CROWD, 0)], invented=1,
        scores=[0.95, 0.8, 0.3, 0.7], features=[
            dict(score=value, logp_label=missing) for value, missing in
            ((0.5, -1.0), (0.4, float('nan')), (0.3, -2.0), (0.2, -3.0))])
    other = make_sample([], image=2)
    metrics = evaluate([sample, other], out_file=str(tmp_path / 'd.jsonl'))
    assert metrics['detection/brier'] == pytest.approx((0.0025 + 0.64 + 0.09) / 3)
    assert metrics['detection/ece'] == pytest.approx((0.05 + 0.8 + 0.3) / 3)
    assert metrics['detection/ece_width'] == pytest.approx((0.05 + 0.8 + 0.3) / 3)
    assert metrics['detection/brier_low'] <= metrics['detection/brier_high']
    row, _ = (json.loads(line) for line in (tmp_path / 'd.jsonl').read_text().splitlines())
    assert row['box_right'] == [True, False, False, None]
    assert row['features'] == dict(score=[0.5, 0.4, 0.3, 0.2], logp_label=[-1, None, -2, -3])
    summary = json.loads((tmp_path / 'd.json').read_text())
    assert [(one['n'], round(one['score'], 3), one['right']) for one in summary['reliability']] == [
        (1, 0.3, 0), (1, 0.8, 0), (1, 0.95, 1)]
    assert {'ece', 'ece_width', 'brier'} <= summary['intervals'].keys()
    assert summary['protocol']['box_scorer'].startswith('unknown: nothing reported')


def test_without_a_scorer_there_is_nothing_to_calibrate(tmp_path):
    metrics = evaluate([make_sample([(CUP, 0)])], out_file=str(tmp_path / 'd.jsonl'))
    assert 'detection/ece' not in metrics and 'detection/brier' not in metrics
    summary = json.loads((tmp_path / 'd.json').read_text())
    assert summary['reliability'] == []
    assert summary['protocol']['box_scorer'] == 'none: every box has the score 1'
    assert json.loads((tmp_path / 'd.jsonl').read_text())['features'] == {}


def test_the_protocol_names_the_scorer(tmp_path):
    scorer = dict(type='LikelihoodScorer', calibration=dict(method='platt', sha256='a1'))
    publish(dict(protocol=dict(box_scorer=scorer, split='val'), provenance={}))
    try:
        evaluate([make_sample([(CUP, 0)], scores=[0.5])], out_file=str(tmp_path / 'd.jsonl'))
    finally:
        publish(None)
    protocol = json.loads((tmp_path / 'd.json').read_text())['protocol']
    assert protocol == dict(threshold=0.5, box_scorer=scorer, split='val')


@pytest.mark.parametrize('scores, level, told', [
    ([0.5, 0.25], logging.INFO, 'scores of boxes: unknown'),
    ([0.5, 0.5], logging.WARNING, 'All 2 boxes have the score 0.5, so AP is that of one operating'),
    (None, logging.WARNING, 'scores of boxes: none: every box has the score 1. All 2 boxes')])
def test_ap_says_what_ranks_the_boxes(scores, level, told, coco_file):
    with patch.object(coco_metric, 'print_log') as log:
        evaluate([make_sample([(CUP, 0), (PLATE, 1)], scores=scores)], 'CocoMetric',
                 ann_file=coco_file)
    assert log.call_args.kwargs['level'] == level and told in log.call_args.args[0]


def test_classes_that_are_not_exhaustive(tmp_path):
    sample = make_sample([(CUP, 0), (MUG, 0), (PLATE, 1)], not_exhaustive=(0, ))
    assert evaluate([sample])['detection/f1'] == 100


@pytest.mark.parametrize('missing', ['class_labels', 'instances'])
def test_a_sample_that_asks_for_no_class_is_refused(missing):
    sample = make_sample([])
    del sample[missing]
    with pytest.raises(ValueError, match='ask with `QuestionFromClasses`'):
        evaluate([sample])


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match='IoU in'):
        evaluate([], threshold=1)
    with pytest.raises(ValueError, match='end in .jsonl'):
        evaluate([], out_file='a.json')


@pytest.fixture
def coco_file(tmp_path):
    """Two cups and a plate in one image, another image without a question; ids in no order."""
    def annotation(number, image, category, box):
        x1, y1, x2, y2 = box
        return dict(id=number, image_id=image, category_id=category, iscrowd=0,
                    bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1))

    path = tmp_path / 'coco.json'
    path.write_text(json.dumps(dict(
        images=[dict(id=i, width=60, height=50, file_name='a.jpg', neg_category_ids=[30],
                     not_exhaustive_category_ids=[]) for i in (1, 2)],
        annotations=[annotation(1, 1, 10, CUP), annotation(2, 1, 20, PLATE),
                     annotation(3, 1, 30, MUG), annotation(4, 2, 10, CUP)],
        categories=[dict(id=number, name=name, frequency='f')
                    for number, name in ((20, 'plate'), (10, 'cup'), (30, 'mug'))])))
    return str(path)


def test_coco_counts_labels_and_what_was_asked(coco_file):
    """Labels are those of the data set, whatever the order of the file. Classes that an image was
    not asked for, and images without a question, do not count as missed."""
    both = [make_sample([(CUP, 0)], ((CUP, 0), ), (0, )), make_sample([(PLATE, 1)], asked=(1, ))]
    options = dict(kind='CocoMetric', ann_file=coco_file)
    assert evaluate(both, **options)['coco/bbox_mAP'] == 1
    swapped = [make_sample([(CUP, 1), (PLATE, 0)])]
    assert evaluate(swapped, **options)['coco/bbox_mAP'] == 0
    more = [*both, make_sample([], asked=(2, ))]
    assert evaluate(more, **options)['coco/bbox_mAP'] == pytest.approx(2 / 3, abs=0.001)


def test_coco_without_a_file_takes_the_labels_of_the_targets():
    samples = [make_sample([(CUP, 0), (PLATE, 1)]), make_sample([(CUP, 1)], image=2)]
    for sample in samples:
        sample['instances'] = [dict(item, mask=[[0, 0, 1, 1, 0, 1]]) for item in
                               sample['instances']]
    found = evaluate(samples, 'CocoMetric', classwise=True)
    assert found['coco/bbox_mAP'] == pytest.approx(0.5, abs=0.01)


def test_coco_refuses_a_file_without_a_class(coco_file, tmp_path):
    content = json.loads((tmp_path / 'coco.json').read_text())
    content['categories'] = content['categories'][:2]
    (tmp_path / 'coco.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match="lacks 'mug' .1 of 3."):
        evaluate([make_sample([(CUP, 0)])], 'CocoMetric', ann_file=coco_file)


def test_nms_ap_does_not_pay_for_every_label(coco_file):
    """Each object under all labels, the wrong ones with less confidence: AP is perfect, and so is
    NMS-AP. With more, NMS-AP keeps only the wrong ones."""
    boxes = [(box, label) for box in (CUP, PLATE, MUG) for label in (0, 1, 2)]
    asked = dict(asked=(0, 1, 2))
    for wrong, ap, nms_ap in ((0.5, 1, 1), (1.5, pytest.approx(1 / 3, abs=0.01), 0)):
        scores = [1.0 if i == j else wrong for i in range(3) for j in range(3)]
        sample = make_sample(boxes, scores=scores, **asked)
        assert evaluate([sample], 'CocoMetric', ann_file=coco_file)['coco/bbox_mAP'] == ap
        assert evaluate([sample], 'NMSAPMetric',
                        ann_file=coco_file).get('nms_ap/bbox_mAP') == nms_ap
    with pytest.raises(ValueError, match="should be 'bbox'"):
        evaluate([], 'NMSAPMetric', ann_file=coco_file, metric='segm')


def test_lvis_takes_the_result(coco_file):
    pytest.importorskip('lvis')

    def lvis(*samples):
        metric = METRICS.build(dict(type='LVISMetric', ann_file=coco_file))
        metric.dataset_meta = dict(classes=('plate', 'cup', 'mug'))
        for sample in samples:
            metric.process(None, [sample])
        return metric.evaluate(len(samples))

    right = [make_sample([(CUP, 1)], asked=(1, )), make_sample([(PLATE, 0)], asked=(0, ))]
    assert lvis(*right)['lvis/bbox_AP'] == 1
    # the mug is an annotated class, and the second image has no question
    assert lvis(make_sample([(CUP, 1), (PLATE, 0)], asked=(0, 1, 2)))['lvis/bbox_AP'] == (
        pytest.approx(2 / 3, abs=0.001))
    with pytest.raises(ValueError, match='id 9 of an item'):
        lvis(make_sample([], image=9))
