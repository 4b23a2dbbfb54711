# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdpad.evaluation import metrics
from mmdpad.prompts import format_response, parse_response
from mmdpad.registry import REWARDS


def sample(text, iou_rows=2):
    """A mask of some of four rows; the target has all."""
    data = DetDataSample()
    data.model_targets = InstanceData(bboxes=torch.tensor([[10., 10., 29., 29.]]),
                                       points=torch.tensor([[[12., 12.], [20., 20.]]]))
    masks = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    masks[:, :, :iou_rows] = True
    masks[1] |= True
    return data, dict(reasoning=dict(response=text, parsed=parse_response(text),
                                     reasoning_tokens=3 if text else None),
                      pred_instances=dict(masks=masks[0]), gt_instances=dict(masks=masks[1]))


def test_means_over_batches():
    metric = metrics.RewardMetric(dict(form=dict(type='ThinkingFormatReward', weight=2),
                                       box=dict(type='BoxIoUReward', threshold=None),
                                       reasoning=dict(type='ReasoningLengthReward', soft=1, hard=5,
                                                      weight=0)))
    good = format_response('t', (10, 10, 29, 29), ((12, 12), (20, 20)), 'c')
    for texts in ([good, ''], [good]):
        data, predicted = zip(*map(sample, texts), strict=True)
        metric.process(dict(data_samples=list(data), inputs=dict(model_image=[None] * len(data))),
                       predicted)
    result = metric.evaluate(3)
    assert result == pytest.approx({'reward/total': 2.0, 'reward/form': 2 / 3,
                                    'reward/box': 2 / 3, 'reward/reasoning': 0.5 * 2 / 3,
                                    # IoU and each term are 0 for the empty response, equal else
                                    'reward/iou_correlation_total': 1.0,
                                    'reward/iou_correlation_form': 1.0,
                                    'reward/iou_correlation_box': 1.0,
                                    'reward/iou_correlation_reasoning': 1.0})


def test_a_signal_of_some_batches_is_averaged_over_them():
    @REWARDS.register_module(force=True)
    def notes_long_texts(rollout):
        if len(rollout.texts[0]) > 4:
            rollout.signals['long'] = rollout.per_response([float(len(rollout.texts[0]))])
        return rollout.per_response([0.0])

    metric = metrics.RewardMetric(dict(notes=dict(type='notes_long_texts')))
    for text in ('one', 'three', 'twelve'):
        data, predicted = sample(text)
        metric.process(dict(data_samples=[data], inputs=dict(model_image=[None])), [predicted])
    assert metric.evaluate(3)['reward/signal_long'] == 5.5


def test_a_term_that_is_earned_without_being_right_shows():
    metric = metrics.RewardMetric(dict(reasoning=dict(type='ReasoningLengthReward', soft=1, hard=5),
                                       form=dict(type='ThinkingFormatReward')))
    good = format_response('t', (10, 10, 29, 29), ((12, 12), (20, 20)), 'c')
    data, predicted = zip(*[sample(good, rows) for rows in (4, 2, 0)], strict=True)
    for row, tokens in zip(predicted, (4, 3, 2), strict=True):
        row['reasoning']['reasoning_tokens'] = tokens
    metric.process(dict(data_samples=list(data), inputs=dict(model_image=[None] * 3)), predicted)
    result = metric.evaluate(3)
    # 1/4, 1/2, 3/4 against 1, 1/2, 0; the form is 1 throughout and correlates with nothing
    assert result['reward/iou_correlation_reasoning'] == pytest.approx(-1.0)
    assert 'reward/iou_correlation_form' not in result


@pytest.mark.filterwarnings('error')
def test_one_sample_correlates_with_nothing():
    metric = metrics.RewardMetric(dict(form=dict(type='ThinkingFormatReward')))
    data, predicted = sample(format_response('t', (10, 10, 29, 29), ((12, 12), (20, 20)), 'c'))
    metric.process(dict(data_samples=[data], inputs=dict(model_image=[None])), [predicted])
    assert metric.evaluate(1) == {'reward/total': 1.0, 'reward/form': 1.0}


def test_lines_of_samples(tmp_path):
    """In the order of the data set, whatever order a sampler had; what is not finite is null."""
    out = tmp_path / 'rewards.jsonl'
    metric = metrics.RewardMetric(dict(form=dict(type='ThinkingFormatReward', weight=2)),
                                  out_file=str(out))
    good = format_response('t', (10, 10, 29, 29), ((12, 12), (20, 20)), 'c')
    data, predicted = zip(*map(sample, ('', good)), strict=True)
    for row, number in zip(predicted, (1, 0), strict=True):
        row.update(sample_idx=number, img_id=f'id {number}', img_path='a.jpg', question='what?')
    metric.process(dict(data_samples=list(data), inputs=dict(model_image=[None] * 2)), predicted)
    metric.evaluate(2)
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        dict(index=number, id=f'id {number}', image='a.jpg', question='what?', iou=iou, total=total,
             form=total / 2) for number, iou, total in ((0, 0.5, 2.0), (1, 0.0, 0.0))]


def test_without_a_term_there_is_nothing_to_measure():
    with pytest.raises(ValueError, match='`rewards` should have at least one term, but got {}'):
        metrics.RewardMetric({})


@pytest.mark.parametrize('name', ['iou', 'index', 'question', 'total'])
def test_a_term_cannot_have_the_name_of_another_column(name):
    with pytest.raises(ValueError, match=f'other than .*{name}'):
        metrics.RewardMetric({name: dict(type='ThinkingFormatReward')})


def test_terms_of_other_tasks_are_left_out_of_a_sample():
    """The samples' tasks are those that the model named."""
    metric = metrics.RewardMetric(dict(
        form=dict(type='ThinkingFormatReward', tasks=['a']),
        box=dict(type='BoxIoUReward', threshold=None, tasks=['b']),
        none=dict(type='BoxIoUReward', tasks=['c'])))
    good = format_response('t', (10, 10, 29, 29), ((12, 12), (20, 20)), 'c')
    for task, text, masks in (('a', good, True), ('a', '', True), ('b', good, False)):
        data, predicted = sample(text)
        if not masks:
            del predicted['pred_instances']['masks']
        metric.process(dict(data_samples=[data], inputs=dict(model_image=[None])),
                       [dict(predicted, task=task)])
    assert metric.evaluate(3) == pytest.approx({
        'reward/total': 2 / 3, 'reward/form': 1 / 2, 'reward/box': 1.0,
        'reward/iou_correlation_total': 1.0, 'reward/iou_correlation_form': 1.0})
