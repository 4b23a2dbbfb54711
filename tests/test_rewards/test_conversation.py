# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdpad.geometry.crops import Crop
from mmdpad.prompts import format_response, parse_response
from mmdpad.rewards import BoxIoUReward, BoxL1Reward, CropContainsTargetReward, TurnCostReward
from mmdpad.structures import ConversationRecord, RolloutBatch


def crop(*box):
    return Crop(box, (112, 112))


def rollout_of(*records, boxes=((2.0, 3.0, 2.75, 3.75), ), **metainfo):
    """Model images of 16 x 16 pixels of originals that are four times as wide and high, so that the
    target has 4 x 4 pixels there, from (8, 12) to (11, 15)."""
    sample = DetDataSample(metainfo=dict(ori_shape=(64, 64)))
    sample.model_targets = InstanceData(
        metainfo=metainfo, bboxes=torch.tensor(boxes).reshape(-1, 4),
        points=torch.zeros(len(boxes), 2, 2))
    texts = ['t'] * len(records)
    return RolloutBatch([sample], [torch.zeros(3, 16, 16)], len(records), texts,
                        [parse_response(text) for text in texts],
                        conversations=[ConversationRecord(('t', ) * turns, crops, (), 'answer')
                                       for turns, crops in records])


def test_each_turn_after_the_first_costs():
    found = TurnCostReward()(rollout_of((1, ()), (2, (crop(0, 0, 9, 9), )), (3, ())))
    assert found.tolist() == [[0, -1, -2]]


def test_the_share_of_the_target_in_a_crop():
    rollout = rollout_of((1, ()), (2, (crop(8, 12, 12, 16), )), (2, (crop(0, 0, 10, 20), )),
                         (3, (crop(0, 0, 64, 64), crop(11, 15, 20, 20))),
                         (2, (crop(0, 0, 8, 64), )))
    values = {(which, threshold): CropContainsTargetReward(which, threshold)(rollout)[0].tolist()
              for which in ('last', 'any') for threshold in (None, 0.5, 1)}
    assert values == {('last', None): [0, 1, 0.5, 1 / 16, 0], ('last', 0.5): [0, 1, 1, 0, 0],
                      ('last', 1): [0, 1, 0, 0, 0], ('any', None): [0, 1, 0.5, 1, 0],
                      ('any', 0.5): [0, 1, 1, 1, 0], ('any', 1): [0, 1, 0, 1, 0]}


def test_several_targets_count_alike_and_none_give_nothing():
    record = (2, (crop(8, 12, 12, 16), ))
    two = ((2.0, 3.0, 2.75, 3.75), (10.0, 10.0, 12.0, 12.0))
    assert CropContainsTargetReward()(rollout_of(record, boxes=two)).tolist() == [[0.5]]
    assert CropContainsTargetReward()(rollout_of(record, boxes=())).tolist() == [[0]]


def test_x2_and_y2_of_a_target_may_be_outer_edges_already():
    """As of a question about classes, whose target from (2, 3) to (3, 4) has the same pixels from
    (8, 12) to (11, 15), and whose target at the border has those up to (63, 63)."""
    def found(box, shown, **metainfo):
        rollout = rollout_of((2, (crop(*shown), )), boxes=(box, ), **metainfo)
        return [CropContainsTargetReward(threshold=threshold)(rollout).item()
                for threshold in (None, 1)]

    around = 8, 12, 12, 16
    assert found((2.0, 3.0, 3.0, 4.0), around, outer_edges=True) == [1, 1]
    assert found((2.0, 3.0, 2.75, 3.75), around, outer_edges=False) == [1, 1]
    assert found((2.0, 3.0, 3.0, 4.0), (8, 12, 11, 16), outer_edges=True) == [0.75, 0]
    assert found((15.0, 15.0, 16.0, 16.0), (0, 0, 64, 64), outer_edges=True) == [1, 1]


@pytest.mark.parametrize('term', [TurnCostReward(), CropContainsTargetReward()])
def test_a_model_without_conversations_is_refused(term):
    with pytest.raises(ValueError, match=f'`{type(term).__name__}` needs `model.conversation`'):
        term.prepare(SimpleNamespace(conversations=None), None)
    term.prepare(SimpleNamespace(conversations=object()), None)
    rollout = rollout_of((1, ()))
    rollout.conversations = None
    with pytest.raises(ValueError, match='should be conversations'):
        term(rollout)


@pytest.mark.parametrize('arguments, named', [
    (dict(crop='first'), '`crop`'), (dict(threshold=0), '`threshold`'),
    (dict(threshold=1.5), '`threshold`')])
def test_options_out_of_range_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        CropContainsTargetReward(**arguments)


def test_small_boxes_differ_in_the_original_frame():
    """The target has the pixels from (8, 12) to (11, 15) there; an answer is two to the right."""
    rollout = rollout_of((1, ()))
    text = format_response('t', (2, 3, 3, 4), ((2, 3), (2, 3)), 'c').replace(
        '[2, 3, 3, 4]', '[2.5, 3, 3.25, 3.75]')
    rollout.parsed = [parse_response(text)]
    found = {frame: BoxIoUReward(None, frame)(rollout).item() for frame in ('model', 'original')}
    inclusive = 1.25 * 1.75 / (2 * 1.75**2 - 1.25 * 1.75)  # with a whole pixel of the model image
    assert found == {'model': pytest.approx(inclusive), 'original': pytest.approx(8 / 24)}
    assert BoxL1Reward(1.1, 'original')(rollout).item() == 1  # (2 + 0 + 2 + 0) / 4
    assert BoxL1Reward(1, 'original')(rollout).item() == 0
    with pytest.raises(ValueError, match="`frame` should be 'model' or 'original'"):
        BoxIoUReward(frame='crop')
