# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer
from PIL import Image

from mmdpad.engine.hooks import ReasonSegVisualizationHook
from mmdpad.engine.hooks import reason_seg_visualization_hook as module
from mmdpad.engine.hooks.exact_resume_hook import random_state
from mmdpad.evaluation.metrics import DetectionMetric
from mmdpad.models.segmentors import ReasoningSegmentor
from mmdpad.structures import ReasoningOutput
from mmdpad.utils import answer_pictures
from mmdpad.visualization import draw_row
from mmdpad.visualization.regions import BOX, TRUTH, WRONG


@pytest.fixture
def config(tiny_config):
    tiny_config.merge_from_dict({
        'model.test_cfg.max_new_tokens': 60, 'test_dataloader.batch_size': 4,
        'test_evaluator': [tiny_config.test_evaluator[0]],
        'default_hooks.answer_pictures.number': 3})
    return tiny_config


def pictures(runner):
    return sorted(path.name for path in Path(runner.log_dir).glob('vis_data/vis_image/*.png'))


def test_the_same_samples_at_each_validation(config):
    config.val_cfg = dict(type='ReasonSegValLoop')
    config.val_dataloader, config.val_evaluator = config.test_dataloader, config.test_evaluator
    config.train_cfg.update(max_iters=2, val_interval=1)
    runner = Runner.from_cfg(config)
    runner.train()
    # Of 6 samples, in batches of 4 and 2.
    assert pictures(runner) == [f'val_answer_{sample:04}_{step}.png' for sample in (0, 2, 5)
                                for step in (1, 2)]
    found = answer_pictures(runner.work_dir)
    assert {sample: list(files) for sample, files in found.items()} == dict.fromkeys((0, 2, 5),
                                                                                    [1, 2])
    first, second = (np.asarray(Image.open(path)) for path in found[0].values())
    assert first.dtype == np.uint8 and first.shape[0] >= 512 and len(first.shape) == 3
    for picture in (first, second):
        assert (picture == np.array(TRUTH, np.uint8)).all(axis=2).any(), 'the true mask, in RGB'


def test_a_test_is_drawn_without_a_random_number(config, monkeypatch):
    drawn, draw = [], ReasonSegVisualizationHook._draw

    def watch(hook, *args):
        before = random_state()
        draw(hook, *args)
        after = random_state()
        drawn.append(torch.equal(before['torch'], after['torch'])
                     and torch.equal(before['numpy'][1], after['numpy'][1])
                     and torch.equal(before['python'][1], after['python'][1]))
    monkeypatch.setattr(ReasonSegVisualizationHook, '_draw', watch)
    shown = []
    monkeypatch.setattr(Visualizer, 'show', lambda self, picture, name, wait: shown.append(
        (picture.shape[2], name, wait)))
    config.default_hooks.answer_pictures.update(test_out_dir='seen', show=True, wait_time=0.5)
    config.train_dataloader.dataset.data_root = 'not/there'  # a test needs no training data
    runner = Runner.from_cfg(config)
    runner.test()
    assert pictures(runner) == [f'test_answer_{sample:04}_0.png' for sample in (0, 2, 5)]
    assert drawn == [True, True]
    seen = sorted(path.name for path in Path(runner.log_dir, 'seen').iterdir())
    assert seen == [f'answer_{sample:04}.png' for sample in range(6)], 'every one, of both batches'
    assert shown == [(3, f'answer_{sample:04}', 0.5) for sample in range(6)]


@pytest.mark.parametrize('main, number', [(False, 3), (True, 0)])
def test_of_several_processes_the_first_draws_if_asked_to(config, monkeypatch, main, number):
    config.default_hooks.answer_pictures.number = number
    monkeypatch.setattr(module, 'is_main_process', lambda: main)
    monkeypatch.setattr(module, 'draw_row', None)
    runner = Runner.from_cfg(config)
    runner.test()
    assert pictures(runner) == []


class Metric(DetectionMetric):
    """Counts which samples it is asked about."""

    seen = 0

    def row_to_draw(self, sample):
        self.seen += 1
        return super().row_to_draw(sample)


def test_answers_without_masks_are_drawn_as_their_metric_judges_them(monkeypatch):
    """A detection, an answer in words, and a count, which no metric knows."""
    found = dict(bboxes=torch.tensor([[2., 2, 20, 20]]), labels=torch.tensor([0]),
                 scores=torch.ones(1), label_names=['cup'], descriptions=['blue'])
    meta = dict(img_id=5, ori_shape=(32, 32), question='q')
    metas = [dict(meta, classes=('cup', ), class_labels=(0, ), instances=[
        dict(bbox=[4, 2, 20, 20], bbox_label=0, ignore_flag=0)]),
        dict(meta, answers=('red', ), evidence=[[2, 2, 20, 20]]), meta]
    samples = []
    for one in metas:
        sample = DetDataSample(metainfo=one)
        sample.pred_instances = InstanceData(**found)
        sample.reasoning = dict(parsed=ReasoningOutput('t', 'c', (), 'red'), response='r')
        samples.append(sample)
    monkeypatch.setattr(module, 'unwrap', lambda model: object.__new__(ReasoningSegmentor))
    metric = Metric(threshold=0.95)
    loop = SimpleNamespace(evaluator=SimpleNamespace(metrics=[metric]), dataloader=SimpleNamespace(
        sampler=range(3)))
    drawn, rows = [], []
    monkeypatch.setattr(module, 'draw_row', lambda image, row, note: rows.append((row, note)) or (
        draw_row(image, row, note)))
    runner = SimpleNamespace(model=None, val_loop=loop, visualizer=SimpleNamespace(
        add_image=lambda name, picture, step: drawn.append(picture)))
    hook = ReasonSegVisualizationHook(3)
    hook.before_val(runner)
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    hook.after_val_iter(runner, 0, dict(inputs=dict(image=[image] * 3)), samples)
    assert [note.partition('(5')[0].strip() for _, note in rows] == [
        '0 right, 1 wrong, 1 missed', 'accuracy 1.00 (right: red), evidence IoU 0.90', '']
    assert metric.seen == 1 and rows[2][0]['answer'] == 'red'

    def has(picture, color):
        return (picture == np.array(color, np.uint8)).all(axis=2).any()
    assert [has(picture, TRUTH) for picture in drawn] == [True, True, False]
    assert has(drawn[0], WRONG) and has(drawn[2], BOX)


def test_a_number_that_makes_no_sense():
    with pytest.raises(ValueError, match='`number` should be 0 .* or more, but got -1'):
        ReasonSegVisualizationHook(-1)
    with pytest.raises(ValueError, match='`wait_time` should be 0 .* but got -2'):
        ReasonSegVisualizationHook(wait_time=-2)
