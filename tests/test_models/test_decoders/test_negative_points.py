# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What decoders do with points that are not of the object."""
import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from toy_concepts import ToyConceptDecoder

from mmdpad.engine.check_config import check_config
from mmdpad.models import BoxDecoder, SAMDecoder
from mmdpad.models.decoders.instances import Instances, assign_instances, match_instances
from mmdpad.models.decoders.prompted_decoder import PromptedDecoder
from mmdpad.models.segmentors.mask_decoding import decode_group, decode_masks
from mmdpad.registry import MODELS
from mmdpad.structures import AnsweredObject
from mmdpad.toy import SAM_WEIGHTS
from mmdpad.toy.shapes_world import make_scene

BOXES = torch.tensor([[10., 8., 60., 50.], [30., 5., 79., 47.], [40., 40., 90., 99.]])
POINTS = torch.tensor([[[20., 15.], [30., 25.]], [[50., 20.], [60., 30.]], [[50., 50.], [9., 12.]]])
NEGATIVES = [torch.tensor([[55., 45.], [12., 45.]]), torch.zeros(0, 2),
             torch.tensor([[85., 90.]])]


class Recorder(PromptedDecoder):
    """A mask has the objects' negative points; the score is the left side of the box."""

    device = torch.device('cpu')
    takes_negative_points = True

    def segment(self, image, boxes, points, *negatives):
        self.calls.append((len(boxes), negatives[0].shape[1] if negatives else 0))
        masks = torch.zeros(len(boxes), *image.shape[:2], dtype=torch.bool)
        for mask, own in zip(masks, negatives[0] if negatives else (), strict=bool(negatives)):
            for x, y in own.astype(int):
                mask[y, x] = True
        return masks, torch.tensor(boxes[:, 0])

    def __init__(self):
        super().__init__()
        self.calls = []


def pixels(mask):
    return mask.nonzero().flip(1).tolist()


def test_objects_with_equally_many_are_segmented_together_and_keep_their_order():
    decoder, image = Recorder(), np.zeros((6, 8, 3), np.uint8)
    boxes = torch.tensor([[float(n), 0, 8, 6] for n in range(5)])
    negatives = [torch.tensor(own).reshape(-1, 2) for own in (
        [(1., 2.), (3., 4.)], [], [(5., 1.)], [(2., 2.), (0., 0.)], [])]
    masks, scores = decoder(image, boxes, torch.zeros(5, 2, 2), negatives)
    assert decoder.calls == [(2, 0), (1, 1), (2, 2)]
    assert scores.tolist() == [0, 1, 2, 3, 4]
    assert [pixels(mask) for mask in masks] == [
        [[1, 2], [3, 4]], [], [[5, 1]], [[0, 0], [2, 2]], []]
    decoder.calls.clear()
    decoder(image, boxes, torch.zeros(5, 2, 2))
    assert decoder.calls == [(5, 0)]


def test_those_outside_the_image_are_left_out():
    decoder = Recorder()
    masks, _ = decoder(np.zeros((6, 8, 3), np.uint8), torch.tensor([[1., 1, 4, 4]]),
                       torch.zeros(1, 2, 2), [torch.tensor(
                           [(-0.1, 2), (8, 6), (8.1, 3), (0, 0), (3, 1e9), (-torch.inf, 0),
                            (torch.nan, 1)])])
    assert pixels(masks[0]) == [[0, 0], [7, 5]]


@pytest.mark.parametrize('negatives', [
    NEGATIVES[:2], [torch.zeros(2)] * 3, [torch.zeros(1, 3)] * 3])
def test_others_than_points_of_each_object_are_refused(negatives):
    with pytest.raises(ValueError, match=r'`negatives` should .* for each of 3 objects, but got'):
        Recorder()(np.zeros((6, 8, 3), np.uint8), BOXES, POINTS, negatives)


@pytest.fixture(scope='module')
def scene():
    return make_scene('test', 0, world='look_alikes')


@pytest.fixture(scope='module')
def sam():
    return SAMDecoder('vit_shapes', SAM_WEIGHTS)


def test_sam_gets_them_with_label_0(sam, scene):
    predictor = SamPredictor(sam.sam)
    predictor.set_image(scene.image)
    masks, scores = sam(scene.image, BOXES, POINTS, NEGATIVES)
    assert not torch.equal(masks[0], sam(scene.image, BOXES, POINTS)[0][0])
    for row, own in enumerate(NEGATIVES):
        expected, ious, _ = predictor.predict(
            np.concatenate([POINTS[row], own]), np.array([1] * 2 + [0] * len(own)),
            BOXES[row].numpy())
        np.testing.assert_array_equal(masks[row].numpy(), expected[ious.argmax()])
        assert scores[row].item() == pytest.approx(ious.max())


def test_a_box_as_a_mask_is_the_same_with_them():
    image = np.zeros((100, 100, 3), np.uint8)
    assert torch.equal(BoxDecoder()(image, BOXES, POINTS, NEGATIVES)[0],
                       BoxDecoder()(image, BOXES, POINTS)[0])


def instances(*boxes):
    masks = torch.zeros(len(boxes), 10, 20, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2 + 1, x1:x2 + 1] = True
    return Instances.of(masks, torch.full((len(boxes), ), 0.5))


def test_an_instance_that_holds_them_matches_less():
    found = instances((0, 0, 3, 3), (0, 0, 3, 7))
    boxes, points = np.array([[0., 0., 3., 7.]] * 2), np.array([[[1., 1.]]] * 2)
    negatives = [np.array([[1., 6.], [9., 9.]]), np.zeros((0, 2))]
    assert match_instances(found, boxes, points).tolist() == [[1.5, 2.0]] * 2
    assert match_instances(found, boxes, points, negatives).tolist() == [[1.5, 1.5], [1.5, 2.0]]
    assert assign_instances(found, boxes[:1], points[:1], 0.1).tolist() == [1]
    assert assign_instances(found, boxes[:1], points[:1], 0.1,
                            [np.array([[1., 6.]])]).tolist() == [0]
    # One that holds nothing but them is not given, though nothing else is there.
    elsewhere = np.array([[[15., 8.]]])
    assert assign_instances(instances((0, 0, 3, 3)), boxes[:1], elsewhere, 0.1).tolist() == [0]
    assert assign_instances(instances((0, 0, 3, 3)), boxes[:1], elsewhere, 0.1,
                            [np.array([[1., 1.]])]).tolist() == [-1]


def test_a_concept_decoder_uses_them_both_ways(sam, scene):
    decoder = ToyConceptDecoder()
    objects = scene.objects[:2]
    boxes = torch.tensor([item.box for item in objects])
    points = torch.tensor([[item.center] * 2 for item in objects])
    _, _, fallback = decoder(scene.image, boxes, points, 'shapes')
    assert not fallback.any()
    # A negative point on the object itself: its instance is no better than none, and SAM gets the
    # point, too.
    elsewhere, center = torch.zeros(2, 2, 2), points[0, :1]
    masks, scores, fallback = decoder(scene.image, boxes, elsewhere, 'shapes',
                                      [center, torch.zeros(0, 2)])
    assert fallback.tolist() == [True, False]
    expected = sam(scene.image, boxes[:1], elsewhere[:1], [center])
    assert torch.equal(masks[0], expected[0][0]) and scores[0] == expected[1][0]
    assert not torch.equal(masks[0], sam(scene.image, boxes[:1], elsewhere[:1])[0][0])


def test_they_reach_the_decoder_in_the_frame_that_it_sees():
    """From a model image of 10 x 10 to an original of 40 x 20, and to a window of it."""
    decoder, image = Recorder(), torch.zeros(3, 20, 40, dtype=torch.uint8)
    item = AnsweredObject((2., 2., 5., 5.), ((3., 3.), (4., 4.)),
                          negative_points=((4., 2.5), (9., 9.)))
    plain = AnsweredObject((2., 2., 5., 5.), ((3., 3.), (4., 4.)))
    found = decode_masks(decoder, [plain, item], image, (10, 10))
    assert pixels(found.masks[1]) == [[16, 5], [36, 18]] and not found.masks[0].any()
    assert found.negative_points == [[], [[16, 5], [36, 18]]]
    window = (6, 3, 30, 12)
    none, found, alone = decode_group(decoder, [((), None), ([plain, item], None), ([plain], None)],
                                      image, (10, 10), [None, window, window])
    assert pixels(found.masks[1]) == [[16, 5]], 'the other is outside the window'
    assert found.negative_points == [[], [[16, 5], [36, 18]]]
    assert 'negative_points' not in alone and 'negative_points' not in none
    assert decoder.calls[-2:] == [(2, 0), (1, 1)]


class Plain(torch.nn.Module):
    """Takes boxes and points only, as docs/decoders.md says of a custom decoder."""

    def forward(self, image, boxes, points):
        return torch.ones(len(boxes), *image.shape[:2], dtype=torch.bool), torch.ones(len(boxes))


def test_a_decoder_without_them_is_refused_before_work_starts(tiny_config):
    MODELS.register_module(module=Plain, name='PlainDecoder')
    try:
        del tiny_config.model.policy['prompt_template']
        tiny_config.model.tasks = dict(
            find=dict(type='SegmentationTask', negative_points=True), other=dict(
                type='SegmentationTask'))
        assert check_config(tiny_config).problems == []
        tiny_config.model.decoder = dict(_delete_=True, type='PlainDecoder')
        told = "`model.decoder` of the task 'find' with `negative_points=True` should be"
        problems = check_config(tiny_config).problems
        assert len(problems) == 1 and problems[0].startswith(told)
        with pytest.raises(ValueError, match='but got Plain; use another one'):
            MODELS.build(tiny_config.model)
        del tiny_config.model.tasks['find']
        assert MODELS.build(tiny_config.model).decode_masks(
            [AnsweredObject((0., 0., 1., 1.), ((0., 0.), ))], torch.zeros(3, 4, 4).byte(),
            (4, 4)).masks.all()
    finally:
        MODELS._module_dict.pop('PlainDecoder')
