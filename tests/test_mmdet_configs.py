# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Configs of mmdet that take parts of ours train, resume and test on synthetic data."""
import json
import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image

from mmdpad.toy import CLIP_WEIGHTS
from mmdpad.toy.shapes_world import COLORS, make_scene

ROOT = Path(__file__).parents[1]
DISCRIMINATION = ROOT / 'configs/mmdet/mask-rcnn_r50_fpn_1x_coco_discrimination.py'


@pytest.fixture(scope='module')
def coco_data(tmp_path_factory) -> Path:
    """Four scenes of the shapes world in COCO's format; the classes are colors."""
    folder = tmp_path_factory.mktemp('coco')
    images, annotations = [], []
    for number in range(4):
        scene = make_scene('train', number)
        Image.fromarray(scene.image).save(folder / f'{number}.jpg')
        height, width = scene.image.shape[:2]
        images.append(dict(id=number, file_name=f'{number}.jpg', height=height, width=width))
        for shape in scene.objects:
            x1, y1, x2, y2 = shape.box
            annotations.append(dict(
                id=len(annotations) + 1, image_id=number, iscrowd=0,
                category_id=list(COLORS).index(shape.color), bbox=[x1, y1, x2 - x1, y2 - y1],
                area=(x2 - x1) * (y2 - y1), segmentation=[shape.polygon.flatten().tolist()]))
    (folder / 'shapes.json').write_text(json.dumps(dict(
        images=images, annotations=annotations,
        categories=[dict(id=i, name=color) for i, color in enumerate(COLORS)])))
    return folder


@pytest.fixture
def config(coco_data, tiny_mask_rcnn, tmp_path) -> Config:
    """The config with a small detector, the toy CLIP and that data, for two epochs."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        config = Config.fromfile(DISCRIMINATION)
        config.merge_from_dict(tiny_mask_rcnn | {
            'model.roi_head.bbox_head.num_classes': len(COLORS),
            'model.roi_head.mask_head.num_classes': len(COLORS),
            'train_cfg.max_epochs': 2, 'default_hooks.logger.interval': 1,
            'work_dir': str(tmp_path / 'run'), 'log_level': 'WARNING',
            'experiment_name': f'test_{tmp_path.name}'})
        for split in ('train', 'val', 'test'):
            loader = config[f'{split}_dataloader']
            loader.update(num_workers=0, persistent_workers=False)
            loader.dataset.update(
                data_root=str(coco_data), ann_file='shapes.json', data_prefix=dict(img=''),
                metainfo=dict(classes=tuple(COLORS), source=dict(world='shapes')))
            for step in loader.dataset.pipeline:
                if step.type == 'Resize':
                    step.scale = (128, 128)
        for evaluators in (config.val_evaluator, config.test_evaluator):
            coco, discrimination = evaluators
            coco.ann_file = str(coco_data / 'shapes.json')
            discrimination.discriminator.update(model_name=CLIP_WEIGHTS, pretrained=None)
            discrimination.score_thr = 0.0
        yield config


def test_the_config_adds_a_metric_and_a_hook_and_changes_nothing(tmp_path):
    path = tmp_path / 'theirs.py'
    path.write_text(re.search('^_base_ = .*$', DISCRIMINATION.read_text(), re.M).group())
    theirs, ours = Config.fromfile(path), Config.fromfile(DISCRIMINATION)
    assert ours.default_scope == 'mmdet'
    for name, value in theirs.items():
        evaluates = name.endswith('_evaluator')
        assert (ours[name][0] if evaluates else ours[name]) == value
        assert not evaluates or ours[name][1].type == 'mmdpad.DiscriminationMetric'


def test_the_detector_that_draws_in_place_of_sam_is_one_of_mmdets():
    decoder = Config.fromfile(ROOT / 'configs/dpad/qwen7b_mask2former.py').model.decoder
    assert decoder.type == 'DetectorDecoder' and 'model' not in decoder
    assert get_config(decoder.config).model.type == 'Mask2Former'


def test_trains_with_our_metric_and_resumes_from_a_checkpoint_of_plain_data(config):
    config.custom_hooks.append(dict(type='mmdpad.AlarmHook'))
    runner = Runner.from_cfg(config)
    runner.train()
    folder = Path(config.work_dir)
    checkpoint = torch.load(folder / 'epoch_2.pth', weights_only=True)
    assert checkpoint['meta']['iter'] == 4  # 4 images by 2, twice
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    config.merge_from_dict({'train_cfg.max_epochs': 3, 'resume': True,
                            'experiment_name': config.experiment_name + '_resumed'})
    resumed = Runner.from_cfg(config)
    resumed.train()
    assert resumed.iter == 6 and (folder / 'epoch_3.pth').exists()
    history = resumed.message_hub.get_scalar('train/loss').data[0]
    assert len(history) == 6 and history[:4].tolist() == losses.tolist()
    scalars = resumed.message_hub.log_scalars
    assert math.isfinite(scalars['val/discrimination/s_margin'].current())
    assert 'val/coco/bbox_mAP' in scalars
    assert [row['iter'] for row in resumed.message_hub.get_info('alarms')['recent']] == [
        1, 2, 3, 4, 5, 6]


def test_tests_by_both_metrics(config):
    metrics = Runner.from_cfg(config).test()
    boxes = metrics['discrimination/num_boxes']
    assert 0 < boxes <= 4 * 10 and metrics['discrimination/num_unusable'] == 0
    assert metrics['discrimination/s_margin'] == pytest.approx(
        metrics['discrimination/s_roi'] - metrics['discrimination/s_image'])
    assert 0 <= metrics['discrimination/discriminated'] <= 1
    assert metrics['coco/bbox_mAP'] >= 0
