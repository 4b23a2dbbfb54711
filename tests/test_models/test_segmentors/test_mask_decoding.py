# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import itertools

import numpy as np
import pytest
import torch

from mmdpad.models import BoxDecoder, SAMDecoder
from mmdpad.models.segmentors.mask_decoding import decode_group, decode_masks
from mmdpad.structures import AnsweredObject
from mmdpad.toy import SAM_WEIGHTS
from mmdpad.toy.shapes_world import COLORS
from tests.test_models.test_decoders.toy_concepts import ToyConceptDecoder

IMAGE = torch.arange(3 * 40 * 64).reshape(3, 40, 64).byte()
MODEL_SHAPE = (20, 16)  # of an original image of (40, 64)


def answered(box, *points):
    """An object given in pixels of the original image."""
    points = points or ((box[0], box[1]), (box[2], box[3]))
    return AnsweredObject((box[0] / 4, box[1] / 2, box[2] / 4, box[3] / 2),
                          tuple((x / 4, y / 2) for x, y in points))


class Recorder(torch.nn.Module):
    """A mask holds the pixel of the first point."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, image, boxes, points):
        self.calls.append((image, boxes.tolist(), points.tolist()))
        masks = torch.zeros(len(boxes), *image.shape[:2], dtype=torch.bool)
        for mask, (x, y) in zip(masks, points[:, 0].long(), strict=True):
            mask[y, x] = True
        return masks, torch.arange(len(boxes)).float()


def test_a_decoder_sees_a_window_and_the_rest_returns_in_the_original_frame():
    decoder = Recorder()
    found = decode_masks(decoder, [answered((12, 6, 20, 15), (13, 9), (18, 7))], IMAGE,
                         MODEL_SHAPE, window=(10, 4, 24, 18))
    (image, boxes, points), = decoder.calls
    assert np.array_equal(image, IMAGE[:, 4:18, 10:24].permute(1, 2, 0))
    assert boxes == [[2, 2, 10, 11]] and points == [[[3, 5], [8, 3]]]
    assert found.bboxes.tolist() == [[12, 6, 20, 15]]
    assert found.points.tolist() == [[[13, 9], [18, 7]]]
    assert found.masks.shape == (1, 40, 64) and found.masks.nonzero().tolist() == [[0, 9, 13]]


@pytest.mark.parametrize('window, seen', [
    ((-5, -5, 24, 18), (0, 0, 24, 18)),
    ((10, 4, 99, 99), (10, 4, 64, 40)),
    ((-5, -5, 99, 99), (0, 0, 64, 40)),
    ((13, 4, 24, 18), (12, 4, 24, 18)),  # the box from (12, 6) to the pixel (20, 15)
    ((0, 0, 20, 15), (0, 0, 21, 16)),
    ((40, 30, 64, 40), (12, 6, 64, 40)),
    ((14, 8, 15, 9), (12, 6, 21, 16))])
def test_a_window_is_cut_off_at_the_image_and_holds_the_boxes(window, seen):
    decoder = Recorder()
    decode_masks(decoder, [answered((12, 6, 20, 15))], IMAGE, MODEL_SHAPE, window=window)
    (image, boxes, _), = decoder.calls
    left, top, right, bottom = seen
    assert np.array_equal(image, IMAGE[:, top:bottom, left:right].permute(1, 2, 0))
    assert boxes == [[12 - left, 6 - top, 20 - left, 15 - top]]


def test_boxes_beyond_the_image_extend_a_window_to_its_border():
    decoder = Recorder()
    decode_masks(decoder, [answered((-9, 6, 1e9, 15), (3, 3))], IMAGE, MODEL_SHAPE,
                 window=(10, 4, 24, 18))
    assert decoder.calls[0][0].shape == (14, 64, 3)


def test_boxes_as_masks_are_the_same_through_every_window():
    objects = [answered(box) for box in ((12, 6, 20, 15), (13.4, 6.6, 20.4, 15.5),
                                         (-4, -3, 5.5, 2.5), (60, 38, 64, 40), (70, 50, 80, 60))]
    whole = decode_masks(BoxDecoder(), objects, IMAGE, MODEL_SHAPE)
    assert whole.masks.flatten(1).sum(1).tolist() == [90, 80, 28, 8, 0]
    for item, window in itertools.product(range(5), ((10, 4, 24, 18), (63, 39, 64, 40),
                                                     (14, 8, 15, 9), (-3, -3, 3, 3))):
        found = decode_masks(BoxDecoder(), objects[item:item + 1], IMAGE, MODEL_SHAPE,
                             window=window)
        for name in ('masks', 'bboxes', 'points', 'scores', 'labels'):
            assert torch.equal(found[name], whole[name][item:item + 1])


@pytest.mark.parametrize('window', [
    (5, 5, 5, 9), (9, 5, 5, 9), (64, 0, 70, 9), (-4, 0, 0, 9), (0, 0, 9.5, 9), (0, 0, 9), ()])
def test_windows_that_are_refused(window):
    with pytest.raises(ValueError, match='`window` should be .* of 64 x 40 pixels, but got'):
        decode_masks(BoxDecoder(), [answered((1, 1, 5, 5))], IMAGE, MODEL_SHAPE, window=window)


def test_a_group_encodes_each_window_once_and_keeps_the_order():
    decoder = Recorder()
    first, second = (answered((12, 6, 20, 15), (13, y)) for y in (9, 10))
    window, same = (10, 4, 24, 18), (12, 4, 24, 18)
    found = decode_group(decoder, [([first, second], 'a'), ((), None), ([second], None),
                                   ([first], 'b'), ((), 'c')],
                         IMAGE, MODEL_SHAPE, [window, window, None, same, same])
    assert [image.shape for image, *_ in decoder.calls] == [(14, 14, 3), (40, 64, 3), (14, 12, 3)]
    assert [own.masks.nonzero().tolist() for own in found] == [
        [[0, 9, 13], [1, 10, 13]], [], [[0, 10, 13]], [[0, 9, 13]], []]
    assert all(own.masks.shape[1:] == (40, 64) for own in found)
    assert decode_group(decoder, [], IMAGE, MODEL_SHAPE) == []


def test_sam_sees_a_window_as_an_image_of_its_own():
    decoder = SAMDecoder('vit_shapes', SAM_WEIGHTS)
    item = answered((12, 6, 20, 15))
    found = decode_masks(decoder, [item], IMAGE, MODEL_SHAPE, window=(10, 4, 24, 18))
    part = AnsweredObject((2., 2., 10., 11.), ((2., 2.), (10., 11.)))
    alone = decode_masks(decoder, [part], IMAGE[:, 4:18, 10:24], (14, 14))
    assert torch.equal(found.masks[:, 4:18, 10:24], alone.masks)
    assert found.masks.sum() == alone.masks.sum() and torch.equal(found.scores, alone.scores)


def test_a_concept_is_found_in_the_window():
    """And not outside, where there is a square of the same color."""
    image = torch.full((3, 112, 112), 128, dtype=torch.uint8)
    red = torch.tensor(COLORS['red']).byte()[:, None, None]
    image[:, 10:40, 10:40] = image[:, 60:90, 60:90] = red
    decoder = ToyConceptDecoder()
    wrong = AnsweredObject((62., 62., 100., 100.), ((70., 70.), (80., 80.)))
    found = decode_masks(decoder, [wrong], image, (112, 112), 'red', (50, 50, 112, 112))
    assert found.masks[0].nonzero().amin(0).tolist() == [60, 60]
    assert found.masks.sum() == 900 and not found.fallback.any()
