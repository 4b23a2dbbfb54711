# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Questions that mean several objects, or none: from JSON lines to a loss and to a table."""
import json

import numpy as np
import pytest
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from mmdpad.geometry.coordinates import scale_boxes
from mmdpad.prompts import format_objects_response

SQUARES = [(8, 16, 39, 47), (60, 50, 99, 79)]  # XYXY, both ends inclusive, in 120 x 100 pixels


@pytest.fixture
def lines(tmp_path):
    """Three questions about one image: both squares, the second, none."""
    image = np.full((100, 120, 3), 200, np.uint8)
    polygons = []
    for x1, y1, x2, y2 in SQUARES:
        image[y1:y2 + 1, x1:x2 + 1] = 40, 90, 160
        polygons.append([[x1, y1, x2 + 1, y1, x2 + 1, y2 + 1, x1, y2 + 1]])
    Image.fromarray(image).save(tmp_path / 'squares.png')
    path = tmp_path / 'squares.jsonl'
    path.write_text(''.join(json.dumps(dict(
        id=str(i), image='squares.png', texts=[text], objects=objects, think='i look.',
        caption='squares')) + '\n' for i, (text, objects) in enumerate([
            ('every square', polygons), ('the lower one', polygons[1:]), ('a circle', [])])))
    return path


@pytest.fixture
def config(tiny_config, lines):
    """The toy model on these lines, with boxes as masks."""
    steps = tiny_config.test_dataloader.dataset.pipeline
    steps[1] = dict(type='LoadInstanceMasks')
    for name in ('train', 'test'):
        loader = tiny_config[f'{name}_dataloader']
        loader.batch_size = 3
        loader.dataset = dict(type='JsonLinesDataset', ann_file=str(lines), several_objects=True,
                              pipeline=steps)
    tiny_config.merge_from_dict({'model.several_objects': True, 'model.decoder': dict(
        _delete_=True, type='BoxDecoder')})
    return tiny_config


class Answers(Hook):
    """The policy names each object that is meant, and what ``change`` makes of the list."""

    def __init__(self, change=list):
        self.change = change

    def before_test_iter(self, runner, batch_idx, data_batch=None):
        for sample in data_batch['data_samples']:
            boxes = scale_boxes(sample.gt_instances.bboxes, sample.ori_shape, sample.model_shape)
            points = sample.model_targets.points[:, :1].tolist()
            objects = self.change(list(zip(boxes.tolist(), points, strict=True)))
            text = format_objects_response('i look.', objects, 'squares')
            sample.set_metainfo(dict(cached_response=(text, False)))


def evaluate(config, change=list):
    runner = Runner.from_cfg(config)
    runner.register_hook(Answers(change))
    return runner.test()


def test_what_is_right_scores_fully(config):
    config.test_evaluator[0].out_file = config.work_dir + '/right.jsonl'
    metrics = evaluate(config)
    for name in ('giou', 'box_accuracy', 'pointing_accuracy', 'no_target_accuracy',
                 'target_accuracy'):
        assert metrics[f'reasonseg/{name}'] > 95, name  # boxes are rounded to prompt pixels
    assert (metrics['reasonseg/n'], metrics['reasonseg/n_no_target']) == (3, 1)
    assert metrics['reasonseg/parse_failure_rate'] == 0
    for name in ('segmentation_format', 'thinking_format', 'box_iou', 'box_l1', 'point_l1'):
        assert metrics[f'reward/{name}'] == 1, name


def test_each_object_counts(config):
    """The first object only: one of two, all, and none where none is."""
    metrics = evaluate(config, lambda objects: objects[:1])
    assert metrics['reasonseg/box_accuracy'] == pytest.approx(200 / 3)
    assert metrics['reward/box_iou'] == pytest.approx((0.5 + 1 + 1) / 3)
    # And nothing at all: right only where nothing is meant.
    metrics = evaluate(config, lambda objects: [])
    assert metrics['reward/box_iou'] == pytest.approx(1 / 3)
    assert metrics['reasonseg/giou'] == metrics['reasonseg/box_accuracy'] == pytest.approx(100 / 3)
    assert metrics['reasonseg/no_target_accuracy'] == 100
    assert metrics['reasonseg/target_accuracy'] == 0


def test_it_trains(config):
    """The toy policy never learned lists, so every answer fails and no reward differs."""
    runner = Runner.from_cfg(config)
    runner.train()
    scalars = runner.message_hub
    assert scalars.get_scalar('train/parse_failures').current() > 0.5
    assert np.isfinite(scalars.get_scalar('train/loss').current())


def test_given_responses_are_lists(config):
    config.train_dataloader.dataset.pipeline = [
        *config.train_dataloader.dataset.pipeline[:-1],
        dict(type='ComposeResponse', several_objects=True), dict(type='PackReasoningInputs')]
    batch = next(iter(Runner.build_dataloader(config.train_dataloader, seed=0)))
    said = {s.question: s.response for s in batch['data_samples']}
    assert '<answer>[]</answer>' in said['a circle']
    assert said['every square'].count('bbox_2d') == 2
