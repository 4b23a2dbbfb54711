# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

from mmdpad.datasets.transforms import ModelImageResize, PackReasoningInputs, TargetsFromMask


def inference_results() -> dict:
    image = np.zeros((4, 6, 3), np.uint8)
    image[1, 2] = 10, 20, 30
    return ModelImageResize((8, 5))(dict(img=image, ori_shape=(4, 6), question=' The Dog... '))


def test_without_truth_only_image_and_question_are_packed():
    item = PackReasoningInputs()(inference_results())
    assert set(item) == {'inputs', 'data_samples'}
    image, prompt = item['inputs']['image'], item['inputs']['model_image']
    assert image.dtype == prompt.dtype == torch.uint8
    assert image.shape == (3, 4, 6) and prompt.shape == (3, 5, 8)
    assert image[:, 1, 2].tolist() == [10, 20, 30]
    sample = item['data_samples']
    assert sample.metainfo == dict(ori_shape=(4, 6), model_shape=(5, 8), question='the dog')
    assert sample.keys() == []


def test_truth_is_packed_in_both_frames():
    mask, ignore = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    mask[1:3, 2:5] = ignore[0, 0] = True
    results = inference_results() | dict(
        gt_masks=mask[None], ignore_mask=ignore, img_id='a', texts=['The Dog...'], is_sentence=True)
    sample = PackReasoningInputs()(TargetsFromMask()(results))['data_samples']
    assert sample.img_id == 'a' and sample.texts == ['The Dog...'] and sample.is_sentence is True
    truth = sample.gt_instances
    assert truth.bboxes.dtype == torch.float32 and truth.bboxes.tolist() == [[2, 1, 4, 2]]
    assert truth.masks.dtype == torch.bool and truth.masks.shape == (1, 4, 6)
    assert truth.masks[0].numpy().tolist() == mask.tolist()
    assert truth.labels.tolist() == [0] and truth.labels.dtype == torch.long
    assert sample.ignored_instances.masks.sum() == 1
    # 8 / 6 and 5 / 4: 2 -> 2.67 -> 3, 4 -> 5.33 -> 5, 1 -> 1.25 -> 1, 2 -> 2.5 -> 3.
    assert sample.model_targets.bboxes.tolist() == [[3, 1, 5, 3]]
    assert sample.model_targets.points.shape == (1, 2, 2)


@pytest.mark.parametrize('boxes', [[[1., 2., 3., 4.], [0., 0., 5., 5.]], []])
def test_negatives_are_packed_even_if_there_are_none(boxes):
    negatives = torch.tensor(boxes).reshape(-1, 4)
    results = inference_results() | dict(model_negatives=negatives)
    sample = PackReasoningInputs()(results)['data_samples']
    assert sample.model_negatives.bboxes.dtype == torch.float32
    assert sample.model_negatives.bboxes.tolist() == boxes


def test_a_response_is_packed_where_there_is_one():
    sample = PackReasoningInputs()(inference_results() | dict(response='So.'))['data_samples']
    assert sample.response == 'So.'


def test_items_of_different_sizes_collate_to_lists():
    other = inference_results() | dict(img=np.zeros((9, 3, 3), np.uint8))
    batch = pseudo_collate([PackReasoningInputs()(inference_results()),
                            PackReasoningInputs()(other)])
    assert [tuple(image.shape) for image in batch['inputs']['image']] == [(3, 4, 6), (3, 9, 3)]
    assert [sample.question for sample in batch['data_samples']] == ['the dog'] * 2


@pytest.mark.parametrize('count', [0, 2])
def test_several_objects_and_none(count):
    masks = np.zeros((count, 4, 6), bool)
    for i in range(count):
        masks[i, i, 3] = True
    sample = PackReasoningInputs()(TargetsFromMask()(
        inference_results() | dict(gt_masks=masks)))['data_samples']
    assert sample.gt_instances.bboxes.tolist() == [[3, i, 3, i] for i in range(count)]
    assert sample.gt_instances.masks.shape == (count, 4, 6)
    # 3 * 8 / 6 = 4; 1 * 5 / 4 = 1.25 -> 1.
    assert sample.model_targets.bboxes.tolist() == [[4, i, 4, i] for i in range(count)]
    assert sample.model_targets.points.tolist() == [[[4, i], [4, i]] for i in range(count)]
