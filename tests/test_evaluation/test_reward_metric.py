# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdpad.evaluation import metrics
from mmdpad.prompts import format_response, parse_response


def sample(text):
    data = DetDataSample()
    data.prompt_targets = InstanceData(bboxes=torch.tensor([[10., 10., 29., 29.]]),
                                       points=torch.tensor([[[12., 12.], [20., 20.]]]))
    return data, dict(reasoning=dict(response=text, parsed=parse_response(text),
                                think_tokens=3 if text else None))


def test_means_over_batches():
    metric = metrics.RewardMetric(dict(form=dict(type='ThinkingFormatReward', weight=2),
                                       box=dict(type='BoxIoUReward', threshold=None),
                                       chain=dict(type='ChainLengthReward', soft=1, hard=5,
                                                  weight=0)))
    good = format_response('t', (10, 10, 29, 29), ((12, 12), (20, 20)), 'c')
    for texts in ([good, ''], [good]):
        data, predicted = zip(*map(sample, texts), strict=True)
        metric.process(dict(data_samples=list(data), inputs=dict(prompt_image=[None] * len(data))),
                       predicted)
    result = metric.evaluate(3)
    assert result == pytest.approx({'reward/total': 2.0, 'reward/form': 2 / 3,
                                    'reward/box': 2 / 3, 'reward/chain': 0.5 * 2 / 3})
