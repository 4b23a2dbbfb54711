# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Several metrics for each data set, and their means, on exports of Roboflow."""
import json

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from roboflow_files import BOATS, CELLS, SIZE, write_export

from mmdpad.datasets.detection_folders import detection_folders
from mmdpad.engine.runner.dataset_order import InDatasetOrder, RecordedBatches
from mmdpad.evaluation import MeanDatasetsEvaluator
from mmdpad.evaluation.mean_datasets_evaluator import mean_values
from mmdpad.evaluation.metrics import result_file
from mmdpad.evaluation.results import describe_results, read_result
from mmdpad.registry import DATASETS, EVALUATOR, METRICS
from mmdpad.structures import ReasoningOutput


def answer(item, labels):
    """A sample whose answer has the true boxes of some labels."""
    found = [instance for instance in item['instances'] if instance['bbox_label'] in labels]
    boxes = torch.tensor([instance['bbox'] for instance in found]).reshape(-1, 4).float()
    return dict(
        item, ori_shape=SIZE[::-1],
        pred_instances=dict(
            bboxes=boxes, scores=torch.ones(len(found)),
            labels=torch.tensor([one['bbox_label'] for one in found], dtype=torch.long)),
        reasoning=dict(parsed=ReasoningOutput('t', None, ()), response='r', truncated=False))


@pytest.fixture
def folders(tmp_path):
    write_export(tmp_path / 'boats', BOATS)
    write_export(tmp_path / 'cells', CELLS)
    dataset, evaluator = detection_folders(str(tmp_path))
    for config in (dataset, evaluator):
        del config['_delete_']
    built = DATASETS.build(dataset)
    evaluator = EVALUATOR.build(evaluator)
    evaluator.dataset_meta = built.metainfo
    return built, evaluator


def evaluate(folders, labels, batches=((0, 2, 3), (1, ))):
    """Evaluate answers that have the true boxes of some labels."""
    dataset, evaluator = folders
    recorded = RecordedBatches(batches)
    ordered = InDatasetOrder(evaluator, recorded)
    for batch in recorded:
        ordered.process([answer(dataset.get_data_info(number), labels) for number in batch])
    return ordered.evaluate(len(dataset))


def test_numbers_by_hand(folders, caplog):
    """Each answer has the objects of label 1 only: of the boats 1 of 2 objects, AP 1 and 0; of the
    cells both CoWs, which have two ids, and not the cell."""
    values = evaluate(folders, (1, ))
    assert values['boats/coco/bbox_mAP'] == values['cells/coco/bbox_mAP'] == 0.5
    assert values['boats/detection/f1'] == pytest.approx(100 * 2 / 3)  # 2 TP / (1 + 2)
    assert values['cells/detection/f1'] == pytest.approx(100 * 4 / 5)  # 2 TP / (2 + 3)
    assert values['mean/coco/bbox_mAP'] == 0.5
    assert values['mean/detection/f1'] == pytest.approx(100 * (2 / 3 + 4 / 5) / 2)
    assert values['mean/coco/bbox_mAP_s'] == 0.5
    # No large objects; only the boats have an image without a target, and counts have no mean.
    assert not {'mean/coco/bbox_mAP_l', 'mean/detection/no_target_accuracy', 'mean/detection/n',
                'mean/detection/f1_low'} & values.keys() and 'boats/detection/f1_low' in values


def test_all_right_and_nothing_found(folders):
    assert evaluate(folders, (0, 1))['mean/coco/bbox_mAP'] == 1
    values = evaluate(folders, ())
    assert [values[f'{part}/coco/bbox_mAP'] for part in ('boats', 'cells', 'mean')] == [0, 0, 0]
    assert values['mean/detection/f1'] == 0


def test_results_name_their_data_set(folders, tmp_path):
    evaluate(folders, (1, ))
    found = describe_results({}, folders[1], str(tmp_path / 'out.json'))
    assert list(found['results']) == ['boats/detection', 'cells/detection']
    assert found['results']['cells/detection']['classes'].keys() == {'cell', 'CoW'}
    assert [one['dataset'] for one in found['results'].values()] == ['boats', 'cells']


def test_files_name_their_data_set(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(result_file, '_default_out_file',
                        lambda name: str(tmp_path / 'run' / f'{name}.jsonl'))
    evaluate(folders, (1, ))
    assert sorted(path.name for path in (tmp_path / 'run').glob('*.json')) == [
        'boats_detection.json', 'cells_detection.json']
    assert read_result(str(tmp_path / 'run/cells_detection.json')).summary['dataset'] == 'cells'
    with pytest.raises(ValueError, match='about one data set, but .*boats_detection.json.*name'):
        read_result(str(tmp_path / 'run'))


def test_an_annotation_without_iscrowd_is_no_crowd(tmp_path):
    path = write_export(tmp_path, CELLS)
    content = json.loads(path.read_text())
    for annotation in content['annotations']:
        del annotation['iscrowd'], annotation['area']
    path.write_text(json.dumps(content))
    metric = METRICS.build(dict(type='CocoMetric', ann_file=str(path)))
    metric.dataset_meta = dict(classes=('cell', 'CoW'))
    metric.process(None, [answer(dict(
        img_id=1, img_path='b.jpg', question='cell', classes=('cell', ), class_labels=(0, ),
        instances=[dict(bbox=[5, 5, 15, 15], bbox_label=0, ignore_flag=0)]), (0, ))])
    assert metric.evaluate(1)['coco/bbox_mAP'] == 1


def test_what_has_a_mean():
    """Hand-computed, with a data set whose name begins with that of another."""
    means, unknown = mean_values({
        'a/m/ap': 0.2, 'a/m/small': -1.0, 'a/m/n': 5, 'a/m/ap_low': 0.1, 'a/b/m/ap': 0.6,
        'a/b/m/small': 0.5, 'a/b/m/n': 7, 'a/b/m/ap_low': 0.1, 'a/b/m/large': 0.3,
        'a/m/no': float('nan'), 'a/b/m/no': 0.1}, ['a', 'a/b'])
    assert means == {'m/ap': pytest.approx(0.4)}
    assert unknown == {'m/small': ['a'], 'm/large': ['a'], 'm/no': ['a']}


class Count(BaseMetric):
    default_prefix = 'count'

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(total=float(sum(results)))


def test_a_further_metric_is_for_all_data_sets():
    evaluator = MeanDatasetsEvaluator([[Count(prefix='x'), Count(prefix='y')],
                                       [Count(prefix='x'), Count(prefix='y')]], ['a', 'b'])
    evaluator.metrics.append(Count())
    evaluator.dataset_meta = dict(cumulative_sizes=[2, 5])
    recorded = RecordedBatches([[4, 0], [2, 3], [1]])
    ordered = InDatasetOrder(evaluator, recorded)
    for batch in recorded:
        ordered.process([10**number for number in batch])
    assert ordered.evaluate(5) == {
        'a/x/total': 11, 'a/y/total': 11, 'b/x/total': 11100, 'b/y/total': 11100,
        'mean/x/total': 11111 / 2, 'mean/y/total': 11111 / 2, 'count/total': 11111}
    assert np.all([len(metric.results) == 0 for metric in evaluator.metrics])


@pytest.mark.parametrize('metrics, names, message', [
    ([[1]], ['a', 'b'], 'each of the 2'), ([[1], [1, 2]], ['a', 'b'], r'lists of \[1, 2\]'),
    ([[], []], ['a', 'b'], r'lists of \[0, 0\]'), ([[1], [1]], ['a', 'a'], 'different names'),
    ([[1], [1]], ['a', 'mean'], "none of them 'mean'")])
def test_wrong_arguments(metrics, names, message):
    with pytest.raises(ValueError, match=message):
        MeanDatasetsEvaluator([[Count() for _ in some] for some in metrics], names)


def test_an_iou_of_exactly_one_half_matches_for_coco_only(tmp_path):
    """(5, 5, 15, 15) in (5, 5, 25, 15): 100 of 200 pixels, see docs/detection.md."""
    item = dict(
        img_id=1, img_path='a.jpg', question='cell', classes=('cell', ), class_labels=(0, ),
        instances=[dict(bbox=[5, 5, 15, 15], bbox_label=0, ignore_flag=0)])
    found = answer(item, (0, ))
    found['pred_instances']['bboxes'] = torch.tensor([[5., 5, 25, 15]])
    values = {}
    for kind in ('DetectionMetric', 'CocoMetric'):
        metric = METRICS.build(dict(type=kind))
        metric.dataset_meta = dict(classes=('cell', ))
        metric.process(None, [found])
        values |= metric.evaluate(1)
    assert (values['detection/f1'], values['coco/bbox_mAP_50'], values['coco/bbox_mAP_75']) == (
        0, 1, 0)
