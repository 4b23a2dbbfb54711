# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The study of looking again: scores of answers, tables and pictures."""
import math

import numpy as np
import pytest
import torch

from mmdpad.analysis.zoom_study import (
    MEASURES,
    draw_conversation,
    format_study,
    read_scores,
    score_answer,
)
from mmdpad.geometry.crops import CropLimits
from mmdpad.geometry.masks import encode_mask
from mmdpad.utils import write_jsonl

LIMITS = CropLimits(min_side=40, size=(112, 112))
IMAGE = torch.zeros(3, 200, 200, dtype=torch.uint8)


class Decoder(torch.nn.Module):
    """Fills the box if it sees a small part of the image, else all that it sees."""

    def forward(self, image, boxes, points):
        masks = torch.ones(len(boxes), *image.shape[:2], dtype=torch.bool)
        if image.shape[0] < 100:
            for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().int().tolist(), strict=True):
                mask[:] = False
                mask[y1:y2 + 1, x1:x2 + 1] = True
        return masks, torch.ones(len(boxes))


def target():
    mask = np.zeros((200, 200), bool)
    mask[100:110, 50:60] = True
    return mask


def row(box=(50, 100, 59, 109), crops=((30, 90, 90, 150), ), **more):
    return dict(id='a', failure=None, boxes=[list(box)], points=[[[52, 102], [57, 107]]],
                reasoning_tokens=7, conversation=dict(crops=[list(crop) for crop in crops]),
                question='the star', think='a star', iou=1.0, **more)


def test_each_view_has_its_own_mask():
    scores = score_answer(row(), IMAGE, target(), Decoder(), LIMITS)
    assert scores['iou_image'] == 100 / 200**2
    assert scores['iou_around'] == scores['iou_crop'] == scores['box_iou'] == 1
    assert scores['zoomed'] and scores['contained'] == 1 and scores['box_is_right']
    without = score_answer(row(crops=()), IMAGE, target(), Decoder(), LIMITS)
    assert not without['zoomed'] and without['contained'] == 0
    assert without['iou_crop'] == without['iou_image'] and without['iou_around'] == 1


def test_half_a_box_in_a_crop_that_holds_half_the_target():
    scores = score_answer(row((50, 100, 54, 109), ((55, 90, 115, 150), )), IMAGE, target(),
                          Decoder(), LIMITS)
    assert scores['box_iou'] == scores['iou_around'] == 0.5 and not scores['box_is_right']
    assert scores['contained'] == 0.5


@pytest.mark.parametrize('change', [dict(failure='no_json'), dict(boxes=[], points=[])])
def test_an_answer_without_a_box_scores_zero(change):
    scores = score_answer(row() | change, IMAGE, target(), Decoder(), LIMITS)
    assert {scores[name] for name in MEASURES if name.startswith(('iou', 'box'))} == {0}
    assert scores['failed'] == ('failure' in change)


def test_tables_are_paired_by_seed_with_students_interval():
    found = {'greedy': {
        arm: {seed: dict.fromkeys(MEASURES, value) for seed, value in values.items()}
        for arm, values in dict(one_look={0: 10.0, 2: 20.0, 1: 20.0, 3: 1.0},
                                zoom={0: 30.0, 1: 40.0, 2: 50.0}).items()}, 'sampled': {}}
    found['greedy']['zoom.start'] = {0: dict.fromkeys(MEASURES, 5.0)}
    text = format_study(found)
    half = 4.302653 * 10 / math.sqrt(3)  # t of two degrees of freedom, deviation 10
    assert f'40.0 [{40 - half:.1f}, {40 + half:.1f}]' in text
    assert '+23.3 [' in text  # 20, 20 and 30
    assert '+35.0 [' in text  # against the only greedy start
    assert f'{(3 + 2 + 2.5) / 3:.2f} [' in text
    assert 'Temperature' not in text


def test_almost_nothing_has_no_sign_and_is_no_reference_of_a_ratio():
    found = {'greedy': {arm: {seed: dict.fromkeys(MEASURES, value) for seed in (0, 1)}
                        for arm, value in dict(one_look=0.02, zoom=0.0).items()}}
    lines = format_study(found).splitlines()
    assert {line.split('|')[2].strip() for line in lines if 'two turns - one' in line} == {
        '+0.0 [+0.0, +0.0]'}
    assert {line.split('|')[3].strip() for line in lines if 'two turns - one' in line} == {'-'}


def test_means_are_in_percent_and_read_from_complete_files(tmp_path):
    folder = tmp_path / 'zoom' / 'seed_0'
    folder.mkdir(parents=True)
    some = [score_answer(row(), IMAGE, target(), Decoder(), LIMITS),
            score_answer(row() | dict(failure='no_json', reasoning_tokens=None), IMAGE, target(),
                         Decoder(), LIMITS)]
    write_jsonl(str(folder / 'greedy.scores.jsonl'), some)
    found = read_scores(tmp_path)
    assert found['sampled'] == {}
    means = found['greedy']['zoom'][0]
    assert means['box_iou'] == means['failed'] == 50 and means['policy_tokens'] == 7


def test_a_conversation_is_drawn_with_and_without_a_crop():
    small = torch.zeros(3, 112, 112, dtype=torch.uint8)
    for one in (row(mask=encode_mask(target())), row(crops=(), mask=None)):
        picture = draw_conversation(one, IMAGE, target(), small)
        assert picture.dtype == np.uint8 and picture.shape[0] >= 448 and picture.shape[1] > 896
