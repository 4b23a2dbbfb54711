# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""mmdet's data sets in the loops: the shipped configs of three, and the error for a wrong pipeline.
"""
from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdpad.datasets import DatasetError
from mmdpad.datasets.checking import check_dataset
from mmdpad.geometry.coordinates import scale_boxes
from mmdpad.preflight import dry_run
from mmdpad.prompts import format_response

ROOT = Path(__file__).parents[1]
FILES = runpy.run_path(str(ROOT / 'tests/test_datasets/mmdet_files.py'))


def shipped(name: str, part: str = 'train', **source) -> dict:
    """The data set of a shipped config, for the toy model, on other files."""
    config = Config.fromfile(ROOT / f'configs/dpad/{name}.py')
    dataset = config[f'{part}_dataloader'].dataset.to_dict()
    assert dataset['source']['type'] == source.pop('type')
    dataset['source'].update(source)
    for step in dataset['pipeline']:
        if step['type'] == 'ModelImageResize':
            step['size'] = (112, 112)
    return dataset


@pytest.fixture
def datasets(tmp_path):
    folders = [tmp_path / name for name in ('coco', 'refcoco', 'odvg')]
    coco = dict(type='CocoDataset', ann_file=FILES['write_coco'](folders[0]),
                data_root=str(folders[0]), data_prefix=dict(img='images/'))
    return [shipped('qwen7b_coco_labels', **coco),
            shipped('qwen7b_refcoco_mmdet', **FILES['write_refcoco'](folders[1], 'train')),
            shipped('qwen7b_odvg', **FILES['write_odvg'](folders[2], False))]


def test_shipped_configs_of_three_data_sets_train(tiny_config, datasets):
    """Two iterations, each with every question of all three."""
    tiny_config.merge_from_dict({
        'train_dataloader.batch_size': 7, 'model.several_objects': True,
        'model.train_cfg.group_size': 2,
        'model.decoder': dict(_delete_=True, type='BoxDecoder')})
    tiny_config.train_dataloader.dataset = dict(type='ConcatDataset', datasets=datasets)
    runner = Runner.from_cfg(tiny_config)
    seen = set()

    class Look(Hook):
        term = 'seen'

        def after_rollout(self, runner, rollout):
            seen.update((sample.question, len(sample.model_targets), 'gt_instances' in sample)
                        for sample in rollout.data_samples)

    runner.register_hook(Look())
    runner.train()
    assert runner.iter == 2
    assert seen == {('person', 2, True), ('dog', 1, True),
                    ('left person', 1, True), ('who is left', 1, True), ('the dog', 1, True),
                    ('two people', 2, False), ('a dog', 1, False)}
    for name in ('loss', 'reward/box_iou', 'reward/point_l1'):
        assert np.isfinite(runner.message_hub.get_scalar(f'train/{name}').current())


class Answers(Hook):
    """The policy names what is meant."""

    def before_test_iter(self, runner, batch_idx, data_batch=None):
        for sample in data_batch['data_samples']:
            box, = scale_boxes(sample.gt_instances.bboxes, sample.ori_shape,
                               sample.model_shape).tolist()
            points, = sample.model_targets.points.tolist()
            sample.set_metainfo(dict(cached_response=(
                format_response('i look.', box, points, 'it.'), False)))


def test_refcoco_of_mmdet_is_evaluated(tiny_config, tmp_path):
    source = FILES['write_refcoco'](tmp_path / 'files', 'testA')
    shipped_config = Config.fromfile(ROOT / 'configs/dpad/qwen7b_refcoco_mmdet.py')
    tiny_config.model.decoder = dict(type='BoxDecoder')
    tiny_config.test_dataloader.dataset = shipped('qwen7b_refcoco_mmdet', 'test', **source)
    tiny_config.test_evaluator = shipped_config.test_evaluator
    runner = Runner.from_cfg(tiny_config)
    runner.register_hook(Answers())
    metrics = runner.test()
    assert metrics['reasonseg/n'] == 3 and metrics['reasonseg/giou'] > 90
    assert metrics['mIoU'] == pytest.approx(metrics['reasonseg/giou'])
    assert metrics['cIoU'] == pytest.approx(metrics['reasonseg/ciou'])


@pytest.fixture
def bare(tiny_config, tmp_path):
    """mmdet's data set itself in the loader, with the pipeline of ReferringSegDataset."""
    path = tmp_path / FILES['write_coco'](tmp_path)
    content = json.loads(path.read_text())
    del content['annotations'][4]  # without a polygon
    path.write_text(json.dumps(content))
    steps = [dict(type='LoadReasoningImage'), dict(type='LoadInstanceMasks'),
             dict(type='ModelImageResize', size=(112, 112)), dict(type='TargetsFromMask'),
             dict(type='PackReasoningInputs')]
    tiny_config.train_dataloader.dataset = dict(
        type='CocoDataset', data_root=str(tmp_path), ann_file='coco.json',
        data_prefix=dict(img='images/'), return_classes=True, pipeline=steps,
        metainfo=dict(classes=('person', 'dog')))
    tiny_config.model.several_objects = True
    tiny_config.model.decoder = dict(type='BoxDecoder')
    tiny_config.test_dataloader = tiny_config.test_cfg = tiny_config.test_evaluator = None
    return tiny_config


QUESTION = dict(type='QuestionFromLabel')
WRONG = {
    'no question': (lambda steps: steps, 'CocoDataset(?s:.)*`PackReasoningInputs` needs '
                    '`question`(?s:.)*`QuestionFromLabel`'),
    'no masks': (lambda steps: [steps[0], QUESTION, *steps[2:]],
                 'CocoDataset(?s:.)*`TargetsFromMask` needs `gt_masks`(?s:.)*`LoadInstanceMasks`'),
    'pipeline of mmdet': (lambda steps: [dict(type='LoadImageFromFile'), *steps[1:]],
                          'CocoDataset(?s:.)*`LoadImageFromFile`, which gives BGR'),
    'packed by mmdet': (lambda steps: [
        steps[0], dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs', meta_keys=())],
        'CocoDataset(?s:.)*should end with `PackReasoningInputs`'),
    'masks of mmdet': (lambda steps: [
        steps[0], QUESTION, dict(type='LoadAnnotations', with_mask=True), *steps[2:]],
        "CocoDataset(?s:.)*is BitmapMasks; use `LoadInstanceMasks` instead of mmdet's"),
}


@pytest.mark.parametrize('name', WRONG)
def test_a_pipeline_that_does_not_fit_is_reported_alike(bare, name):
    """By check_dataset, the dry run and the run, before a worker starts."""
    change, told = WRONG[name]
    dataset = bare.train_dataloader.dataset
    dataset.pipeline = change(dataset.pipeline)
    with pytest.raises(DatasetError, match=told):
        check_dataset(dataset, asks=True)
    with pytest.raises(DatasetError, match=told):
        Runner.from_cfg(bare).train()
    if name == 'no question':  # the same function; seconds each
        problems, _ = dry_run(bare)
        assert any(re.search(told, problem) for problem in problems), problems


def test_a_pipeline_asks_one_question_of_an_image(bare):
    """Always the same; metrics refuse that others were left out."""
    dataset = bare.train_dataloader.dataset
    dataset.pipeline = [dataset.pipeline[0], QUESTION, *dataset.pipeline[1:]]
    built = Runner.build_dataloader(dict(bare.train_dataloader, batch_size=1), seed=0).dataset
    samples = [built[0]['data_samples'] for _ in range(5)]
    assert len({sample.question for sample in samples}) == 1
    assert samples[0].not_asked == 1
