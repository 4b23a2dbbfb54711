# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from mmdpad.evaluation.metrics import RewardMetric
from mmdpad.prompts import format_objects_response, parse_response
from mmdpad.rewards import MaskReward
from mmdpad.structures import RolloutBatch

ANSWER = '<answer>{{"bbox": {0}, "points_1": [1, 1], "points_2": [2, 2]}}</answer>'


def fill_each(answers, image, model_shape):
    """A decoder that fills the boxes; the frames are one."""
    decoded = []
    for objects, _ in answers:
        masks = torch.zeros(len(objects), *image.shape[-2:], dtype=torch.bool)
        for mask, one in zip(masks, objects, strict=True):
            x1, y1, x2, y2 = map(int, one.box)
            mask[y1:y2, x1:x2] = True
        decoded.append(InstanceData(masks=masks))
    return decoded


def score(reward, boxes, ignored=None):
    texts = ['nothing' if box is None else ANSWER.format(box) for box in boxes]
    target = torch.zeros(1, 10, 10, dtype=torch.bool)
    target[:, :4, :4] = True
    return score_texts(reward, texts, target, ignored)


def score_texts(reward, texts, target, ignored=None, **reading):
    sample = DetDataSample(gt_instances=InstanceData(masks=target))
    if ignored is not None:
        sample.ignored_instances = InstanceData(masks=ignored)
    image = torch.zeros(3, 10, 10, dtype=torch.uint8)
    rollout = RolloutBatch([sample], [image], len(texts), texts,
                           [parse_response(text, **reading) for text in texts], images=[image])
    reward.prepare(SimpleNamespace(decode_group=fill_each, decoder=object()),
                   [dict(data_samples=sample)])
    return reward(rollout).tolist()[0]


def test_by_hand():
    # The target has 16 pixels; half of it; twice it; elsewhere; no answer
    boxes = [[0, 0, 4, 4], [0, 0, 4, 2], None, [0, 0, 4, 8], [5, 5, 9, 9]]
    assert score(MaskReward(), boxes) == [1., .5, 0., .5, 0.]
    assert score(MaskReward(tiers=(.3, .5)), boxes) == [1., .5, 0., .5, 0.]


def test_several_objects_count_together():
    target = torch.zeros(2, 10, 10, dtype=torch.bool)
    target[0, :4, :4] = target[1, 6:, 6:] = True
    first, second = ((0, 0, 4, 4), [(1, 1)]), ((6, 6, 10, 10), [(7, 7)])
    texts = [format_objects_response('t', objects, 'c')
             for objects in ([second, first], [first], [])]
    texts.insert(1, 'no list')
    assert score_texts(MaskReward(), texts, target, several_objects=True) == [1, 0, .5, 0]
    nothing = target[:0]
    assert score_texts(MaskReward(), texts, nothing, several_objects=True) == [0, 0, 0, 1]


def test_ignored_regions_follow_the_protocol():
    ignored = torch.zeros(1, 10, 10, dtype=torch.bool)
    ignored[:, 4:8, :4] = True
    assert score(MaskReward(), [[0, 0, 4, 8]], ignored) == [1.]
    assert score(MaskReward(ignore_regions='exclude'), [[0, 0, 4, 8]], ignored) == [1.]
    assert score(MaskReward(), [[0, 0, 4, 4]], ignored) == [.5]
    assert score(MaskReward(ignore_regions='exclude'), [[0, 0, 4, 4]], ignored) == [1.]


def test_it_trains_with_the_real_decoder(tiny_config):
    tiny_config.custom_hooks = [dict(type='MaskRewardHook', weight=2.0)]
    runner = Runner.from_cfg(tiny_config)
    runner.train()
    assert runner.train_loop.composition.weights['mask_iou'] == 2.0
    mean = runner.message_hub.get_scalar('train/reward/mask_iou').current()
    assert 0 < mean < 1  # some answers of the warmed-up policy are right, not all


def test_without_masks_or_decoder_it_is_refused_before_training():
    reward, data = MaskReward(), [dict(data_samples=DetDataSample())]
    model = SimpleNamespace(decoder=object())
    with pytest.raises(ValueError, match='masks in the training data'):
        reward.prepare(model, data)
    model.decoder = None
    with pytest.raises(ValueError, match='decoder'):
        reward.prepare(model, data)
    with pytest.raises(ValueError, match='none here.*ReasonSegMetric'):
        RewardMetric(dict(mask=dict(type='MaskReward')))
    with pytest.raises(ValueError, match='tiers'):
        MaskReward(tiers=(1.5, ))
    with pytest.raises(ValueError, match="but got 'drop'"):
        MaskReward(ignore_regions='drop')
