# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import itertools

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdpad.geometry.boxes import box_iou, box_l1, inside, match_boxes, matched_point_distance
from mmdpad.prompts import format_objects_response, format_response, parse_response
from mmdpad.rewards import (
    BoxIoUReward,
    BoxL1Reward,
    PointL1Reward,
    SegmentationFormatReward,
    ThinkingFormatReward,
)
from mmdpad.structures import RolloutBatch


def test_box_iou_counts_inclusive_pixels():
    assert box_iou((0, 0, 9, 9), (0, 0, 9, 9)) == 1.0
    assert box_iou((0, 0, 9, 9), (5, 0, 14, 9)) == 50 / 150
    assert box_iou((0, 0, 9, 9), (9, 0, 19, 9)) == 0.0  # touching: the reference asks for <


@pytest.mark.parametrize('box', [(9, 9, 0, 0), (5, 5, 5, 5), (-9, -9, -1, -1), (0, 9, 9, 0)])
def test_box_iou_of_a_box_inside_out_or_elsewhere_is_zero(box):
    assert box_iou(box, (0, 0, 9, 9)) == 0.0


def test_box_l1_and_points_by_hand():
    assert box_l1((0, 0, 10, 10), (1, 2, 13, 14)) == 2.5
    assert matched_point_distance(((0, 0), (3, 4)), ((3, 4), (0, 0))) == 0.0
    assert matched_point_distance(((0, 0), (0, 0)), ((3, 4), (0, 0))) == 2.5
    assert inside((0, 9), (0, 0, 9, 9)) and not inside((0, 9.5), (0, 0, 9, 9))


def make_rollout(texts, box=(10, 10, 29, 29), points=((12, 12), (20, 20))):
    sample = DetDataSample()
    sample.model_targets = InstanceData(bboxes=torch.tensor([box]).float(),
                                         points=torch.tensor([points]).float())
    return RolloutBatch([sample], [None], len(texts), texts, [parse_response(t) for t in texts])


def test_terms_over_a_group():
    exact = format_response('t', (10, 10, 29, 29), ((20, 20), (12, 12)), 'c')
    shifted = format_response('t', (14, 14, 33, 33), ((12, 12), (20, 20)), 'c')
    no_points = '<answer>{"bbox": [10, 10, 29, 29]}</answer>'
    rollout = make_rollout([exact, shifted, no_points, ''])
    values = {
        term: term(rollout).tolist()
        for term in (BoxIoUReward(0.5), BoxIoUReward(None), BoxL1Reward(4.5), BoxL1Reward(4),
                     PointL1Reward(1), ThinkingFormatReward(), SegmentationFormatReward())
    }
    iou = 256 / 544  # 16 x 16 of two boxes of 20 x 20
    torch.testing.assert_close(torch.tensor([v[0] for v in values.values()]), torch.tensor([
        [1, 0, 1, 0], [1, iou, 1, 0], [1, 1, 1, 0], [1, 0, 1, 0],
        [1, 0, 0, 0],  # the first point of the shifted answer lies outside its box
        [1, 1, 0, 0], [1, 1, 0, 0]]).float())


def test_one_point_is_compared_with_the_first():
    assert matched_point_distance([(0, 0)], [(3, 4), (0, 0)]) == 5.0
    assert matched_point_distance([(0, 0), (9, 9)], [(3, 4)]) == 5.0


def test_boxes_are_matched_by_their_iou_all_together():
    """The first box fits the first target best, but then nothing would be left for the second."""
    targets = [(0, 0, 9, 9), (0, 5, 9, 14)]
    assert match_boxes([(0, 1, 9, 10), (0, 0, 9, 9)], targets) == [(0, 1), (1, 0)]
    assert match_boxes([(0, 0, 9, 9)], targets) == [(0, 0)]
    assert match_boxes([], targets) == match_boxes(targets, []) == []


def test_boxes_that_overlap_nothing_are_matched_with_the_nearest():
    targets = [(100, 0, 109, 9), (200, 0, 209, 9), (0, 0, 9, 9)]
    assert match_boxes([(0, 0, 9, 9), (190, 0, 195, 9), (80, 0, 85, 9)], targets) == [
        (0, 2), (1, 1), (2, 0)]


def test_matching_is_the_best_of_all_permutations():
    rng = np.random.default_rng(0)
    for _ in range(50):
        corners = rng.integers(0, 40, (2, 4, 2))
        found, wanted = (np.concatenate([c, c + 15], axis=1).tolist() for c in corners)
        best = max(sum(box_iou(found[i], wanted[j]) for i, j in enumerate(order))
                   for order in itertools.permutations(range(4)))
        assert sum(box_iou(found[i], wanted[j]) for i, j in match_boxes(found, wanted)) == (
            pytest.approx(best))


TERMS = (BoxIoUReward(), BoxL1Reward(), PointL1Reward(30))


def several(answers, targets):
    """The three terms for answers that are lists of boxes, each with its first corner as point."""
    texts = [format_objects_response('t', [(box, [box[:2]]) for box in boxes], 'c')
             if isinstance(boxes, list) else boxes for boxes in answers]
    boxes = torch.tensor(targets, dtype=torch.float32).reshape(-1, 4)
    sample = DetDataSample(model_targets=InstanceData(bboxes=boxes, points=boxes[:, None, :2]))
    parsed = [parse_response(text, several_objects=True) for text in texts]
    rollout = RolloutBatch([sample], [None], len(texts), texts, parsed)
    return torch.cat([term(rollout) for term in TERMS]).T.tolist()


def test_several_objects_share_a_reward():
    one, two, far = (0, 0, 99, 99), (200, 200, 299, 299), (700, 700, 799, 799)
    moved = (20, 20, 119, 119)  # IoU 6400 / 13600, 20 pixels off, its point 28.3 off
    rows = several([[two, one], [one], [one, two, far], [moved, two], [], ''], [one, two])
    assert rows[0] == [1, 1, 1]
    assert rows[1] == [0.5, 0.5, 0.5]  # one is missed
    assert rows[2] == pytest.approx([2 / 3] * 3)  # one is too much
    assert rows[3] == [0.5, 0.5, 1]
    assert rows[4] == rows[5] == [0, 0, 0]


def test_no_target_is_answered_by_an_empty_list_only():
    nothing = '<think>t</think>\n<answer>{}</answer>\n<caption>c</caption>'
    rows = several([[], [(0, 0, 99, 99)], '', nothing], [])
    assert rows == [[1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_an_unreadable_entry_counts_as_one_too_much():
    text = ('<answer>[{"bbox_2d": [0, 0, 99, 99], "point_2d": [0, 0]}, {"bbox_2d": "?"}]</answer>')
    assert several([text], [(0, 0, 99, 99)]) == [[0.5, 0.5, 0.5]]


def test_equals_the_published_reward_for_several_objects():
    """VisionReasoner's: the best matching by the sum of three thresholded terms, over the larger
    number. Equal where boxes lie apart, so that both matchings agree."""
    rng = np.random.default_rng(1)
    centers = np.array(list(itertools.product((100, 400, 700), repeat=2)))
    for _ in range(40):
        wanted, found = (rng.permutation(centers)[:rng.integers(1, 6)] for _ in range(2))
        wanted, found = (np.concatenate([c - 50, c + 50], axis=1) for c in (wanted, found))
        found = found + rng.integers(-12, 13, found.shape)
        total = sum(several([found.tolist()], wanted.tolist())[0])
        assert total == pytest.approx(published(found, wanted))


def published(found, wanted):
    overlap = (np.minimum(found[:, None, 2:], wanted[None, :, 2:])
               - np.maximum(found[:, None, :2], wanted[None, :, :2]) + 1).clip(0).prod(-1)
    areas = [(b[:, 2] - b[:, 0] + 1) * (b[:, 3] - b[:, 1] + 1) for b in (found, wanted)]
    iou = overlap / (areas[0][:, None] + areas[1] - overlap)
    l1 = np.abs(found[:, None] - wanted[None]).mean(-1)
    distance = np.linalg.norm(found[:, None, :2] - wanted[None, :, :2], axis=-1)
    table = (iou > 0.5) + 1.0 * (l1 < 10) + (distance < 30)
    size = max(table.shape)
    square = np.zeros((size, size))
    square[:len(found), :len(wanted)] = table
    return max(square[range(size), order].sum()
               for order in itertools.permutations(range(size))) / size
