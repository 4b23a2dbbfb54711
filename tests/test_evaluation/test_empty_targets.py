# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Annotations that mark no target, from a config to a result: every item counts, by the protocol.

And what else metrics ask of the data that they get.
"""
import json

import numpy as np
import pytest
import torch
from mmdet.evaluation import DumpDetResults
from mmengine.evaluator import DumpResults, Evaluator
from mmengine.fileio import load
from mmengine.runner import Runner, TestLoop
from PIL import Image

from mmdpad.analysis.comparison import compare_results, format_comparison
from mmdpad.analysis.stored_masks import score_predictions
from mmdpad.datasets import DatasetError
from mmdpad.datasets.reasoning_dataset import for_evaluation
from mmdpad.datasets.transforms import without_pixels
from mmdpad.engine.build import build_runner
from mmdpad.evaluation.metrics import ReasonSegMetric, RefSegMetric, RewardMetric
from mmdpad.evaluation.results import read_result
from mmdpad.evaluation.scoring import score_sample
from mmdpad.geometry.mask_iou import score_mask
from mmdpad.geometry.masks import encode_mask
from mmdpad.registry import DATASETS
from mmdpad.structures import ParseFailure, ReasoningOutput

REWARDS = dict(box=dict(type='BoxIoUReward'))
EMPTY, SQUARE = torch.zeros(1, 2, 4, dtype=torch.bool), torch.zeros(1, 2, 4, dtype=torch.bool)
SQUARE[0, :, 1:3] = True


def sample(predicted, ignored=EMPTY, parsed=None, **more):
    return dict(gt_instances=dict(masks=EMPTY[:0]), ignored_instances=dict(masks=ignored),
                pred_instances=dict(masks=predicted, bboxes=torch.tensor([[1., 0, 2, 1]]),
                                    points=torch.tensor([[[1.5, 0.5]]])),
                reasoning=dict(parsed=parsed or ReasoningOutput('so', None, ())),
                **dict(dict(empty_target=True), **more))


@pytest.mark.parametrize('predicted, ignored, as_target, excluded', [
    (EMPTY, EMPTY, (0, 0.0, 0), (0, 1.0, 0)),  # an empty union: as VisionReasoner's script, as LISA
    (SQUARE, EMPTY, (0, 0.0, 4), (0, 0.0, 4)),
    (SQUARE, SQUARE, (1, 1.0, 4), (0, 1.0, 0)),  # the ignored region is the target, or is not there
    (EMPTY, SQUARE, (1, 0.0, 4), (0, 1.0, 0)),
])
def test_an_annotation_without_a_target_counts_by_the_protocol(predicted, ignored, as_target,
                                                               excluded):
    for protocol, expected in (('target', as_target), ('exclude', excluded)):
        row = score_sample(sample(predicted, ignored), protocol)
        assert (row['num_targets'], row['iou'], row['union']) == expected
        assert row.get('empty_target', False) == (not row['num_targets'])
        # A prepared copy has the ignored region as its target.
        assert row['pointing'] == row['boxes_right'] == row['num_targets']
        assert score_mask(sample(predicted, ignored), protocol)[2]['iou'] == row['iou']
        failed = sample(EMPTY[:0], ignored, ParseFailure('no_json', 'none'))
        assert score_sample(failed, protocol)['iou'] == 0


def test_a_question_that_means_nothing_is_answered_by_nothing_under_both():
    for protocol in ('target', 'exclude'):
        row = score_sample(sample(EMPTY, empty_target=None), protocol)
        assert (row['iou'], row['num_targets']) == (1, 0) and 'empty_target' not in row


@pytest.fixture
def config(tiny_config, shapes_data, tmp_path):
    """The toy model on a test split of three, the second without a target, and four to train on,
    the first without; nothing says `test_mode`, as in a config of before."""
    for split, names in (('test', '000 003 001'), ('train', '000 001 002 003')):
        (tmp_path / 'data' / split).mkdir(parents=True)
        for number, name in enumerate(names.split()):
            for suffix in ('.jpg', '.json'):
                path = next((shapes_data / split).glob(f'*{name}{suffix}'))
                target = tmp_path / 'data' / split / f'{number}{suffix}'
                target.write_bytes(path.read_bytes())
            if number == (split == 'test'):
                content = json.loads(target.read_text())
                content['shapes'] = []
                target.write_text(json.dumps(content))
    for name in ('train', 'test'):
        dataset = tiny_config[f'{name}_dataloader'].dataset
        dataset.pop('test_mode', None)
        dataset.data_root = str(tmp_path / 'data')
    tiny_config.test_evaluator[0].out_file = str(tmp_path / 'result.jsonl')
    return tiny_config


def test_a_test_counts_every_item_and_says_how_many_have_no_target(config, tmp_path):
    metrics = Runner.from_cfg(config).test()
    assert (metrics['reasonseg/n'], metrics['reasonseg/n_no_target']) == (3, 1)
    assert not {'reasonseg/no_target_accuracy', 'reasonseg/target_accuracy'} & metrics.keys()
    result = read_result(str(tmp_path / 'result.json'))
    assert result.summary['metrics']['n_no_target'] == 1
    assert [row['num_targets'] for row in result.rows] == [1, 0, 1]
    assert result.rows[1]['iou'] == 0
    assert np.isfinite([metrics['reward/total'], metrics['reward/signal_s_roi']]).all()

    # The same masks without a model, and the other protocol: an empty mask is right there.
    dataset = DATASETS.build(for_evaluation(without_pixels(config.test_dataloader.dataset)))
    assert score_predictions(dataset, result.rows, ReasonSegMetric())['reasonseg/giou'] == (
        metrics['reasonseg/giou'])
    empty = [dict(row, failure=None, mask=encode_mask(np.zeros(item['ori_shape'], bool)))
             for row, item in zip(result.rows, dataset, strict=True)]
    excluded = score_predictions(dataset, empty, ReasonSegMetric('exclude'))
    assert excluded['reasonseg/giou'] == pytest.approx(100 / 3)
    assert (excluded['reasonseg/n'], excluded['reasonseg/n_no_target']) == (3, 1)
    assert '| 3 (1 without a target) |' in format_comparison(compare_results([result, result]))


def test_training_skips_and_refuses_data_to_evaluate_on(config):
    runner = Runner.from_cfg(config)
    runner.train()
    config.train_dataloader.dataset.test_mode = True
    with pytest.raises(ValueError, match=r'leave out the 1 annotation\(s\) that mark no target '
                       r'\(.*0.json\), but `test_mode=True` keeps them'):
        Runner.from_cfg(config).train()


@pytest.mark.parametrize('build', [build_runner, Runner.from_cfg])
def test_no_item_is_left_out_in_silence(config, build):
    """mmengine's own loop builds the data set as training would, unless the tools set it up."""
    config.test_cfg = dict(type='TestLoop')
    runner = build(config)
    assert type(runner.test_loop) is TestLoop
    if build is build_runner:
        assert runner.test()['reasonseg/n'] == 3
        assert 'test_mode' not in config.test_dataloader.dataset
    else:
        with pytest.raises(ValueError, match='left out 1 that mark no target, as in training; '
                           'set `test_mode=True`'):
            runner.test()


def test_dumped_results_are_taken_with_their_truth_and_refused_without(config, tmp_path):
    config.test_evaluator = [dict(type='ReasonSegMetric'), dict(type='RefSegMetric'), *(
        dict(type=kind, out_file_path=str(tmp_path / f'{kind}.pkl'))
        for kind in ('mmengine.DumpResults', 'DumpDetResults'))]
    assert issubclass(DumpDetResults, DumpResults)
    metrics = Runner.from_cfg(config).test()
    offline = Evaluator([ReasonSegMetric(), RefSegMetric()]).offline_evaluate(
        load(tmp_path / 'mmengine.DumpResults.pkl'))
    assert offline == {name: pytest.approx(metrics[name]) for name in offline}
    packed = load(tmp_path / 'DumpDetResults.pkl')
    for metric in (ReasonSegMetric(), RewardMetric(REWARDS)):
        with pytest.raises(ValueError, match='its ground truth, `gt_instances`, and masks as '
                           'arrays, but its masks are RLEs.*drops the ground truth'):
            Evaluator([metric]).offline_evaluate(packed)
    offline = Evaluator([RefSegMetric()]).offline_evaluate(packed)
    assert offline == {name: metrics[name] for name in ('mIoU', 'cIoU')}
    with pytest.raises(ValueError, match='`data_batch` should be the answered batch'):
        Evaluator([RewardMetric(REWARDS)]).offline_evaluate(
            load(tmp_path / 'mmengine.DumpResults.pkl'))


def test_data_with_ignored_regions_beside_data_that_have_them_as_target(tmp_path):
    Image.new('RGB', (20, 10)).save(tmp_path / 'a.png')
    (tmp_path / 'a.jsonl').write_text(json.dumps(dict(
        id='a', image='a.png', texts=['x'], objects=[encode_mask(np.ones((10, 20), bool))])))
    steps = [dict(type=name) for name in ('LoadReasoningImage', 'LoadInstanceMasks')]
    own = dict(type='JsonLinesDataset', ann_file=str(tmp_path / 'a.jsonl'), pipeline=steps)
    copy = dict(type='SegZeroEvalDataset', pipeline=steps,
                data_root='tests/data/seg_zero/ReasonSeg_test')
    for number, parts in ((2, [own, copy]), (1, [copy, own])):
        both = DATASETS.build(dict(type='ConcatDataset', datasets=parts))
        for metric in (ReasonSegMetric, lambda protocol: RewardMetric(REWARDS, protocol)):
            metric('target').dataset_meta = both.metainfo
            refusing = metric('exclude')
            refusing.dataset_meta = both.metainfo  # its own part's may follow
            with pytest.raises(ValueError, match=f"should be 'target' for part {number} of 2 of "
                               'this data set'):
                refusing.check_samples([])


def test_a_pipeline_without_masks_is_named():
    with pytest.raises(ValueError, match='`gt_instances`, and masks as arrays, but has img_id, '
                       'pred_instances. A pipeline should load masks'):
        ReasonSegMetric().process(None, [dict(img_id=1, pred_instances=dict(masks=EMPTY))])


def test_polygons_outside_are_still_refused(config, tmp_path):
    path = tmp_path / 'data/test/1.json'
    content = json.loads(path.read_text())
    content['shapes'] = [dict(label='target', points=[[900, 900], [950, 900], [950, 950]])]
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match='its shapes lie outside'):
        Runner.from_cfg(config).test()
