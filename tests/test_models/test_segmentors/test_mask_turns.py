# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Masks that a policy is shown before it answers."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample

from mmdpad.geometry.crops import Crop
from mmdpad.models import BoxDecoder
from mmdpad.models.segmentors.mask_decoding import decode_masks
from mmdpad.models.segmentors.mask_turns import outline, prepare_mask
from mmdpad.prompts.zoom import BadCall
from mmdpad.tasks import DetectionTask, SegmentationTask

GRAY = torch.full((3, 224, 448), 90, dtype=torch.uint8)
WHOLE = Crop((0, 0, 448, 224), (112, 112))
MAGENTA = [255, 0, 255]


def test_masks_are_outlined():
    image = torch.zeros(3, 20, 40, dtype=torch.uint8)
    mask = np.zeros((10, 20), bool)
    mask[2:8, 5:15] = True
    drawn = outline(image, mask)
    assert drawn.shape == image.shape and not image.any()
    assert drawn[:, 4, 20].tolist() == MAGENTA
    assert not drawn[:, 9, 20].any() and not drawn[:, 0, 0].any()


def prepare(text, crop=WHOLE, task=None, decoder=True, coordinates='pixels'):
    decoder = BoxDecoder() if decoder else None

    def decode(*args, **kwargs):
        assert not torch.is_autocast_enabled('cpu')
        return decode_masks(decoder, *args, **kwargs)

    policy = SimpleNamespace(coordinates=coordinates, device=torch.device('cpu'))
    model = SimpleNamespace(decoder=decoder, decode_in_crop=False, policy=policy,
                            task_of=lambda sample: task or SegmentationTask(), decode_masks=decode)
    inputs = dict(image=[None, GRAY], model_image=[None, torch.zeros(3, 112, 112)])
    return prepare_mask(model, inputs, [None, DetDataSample()], 1, crop, text)


def answer(*box):
    return json.dumps(dict(bbox=box, points_1=box[:2], points_2=box[2:]))


def marked(drawn):
    """The outer corners, XYXY, of what is marked in an image."""
    rows, columns = (drawn == torch.tensor(MAGENTA)[:, None, None]).all(0).nonzero().T
    return [int(end) for end in (columns.min(), rows.min(), columns.max(), rows.max())]


def test_the_mask_is_that_of_full_precision_also_in_a_rollout():
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert marked(prepare(answer(28, 28, 56, 84))())


@pytest.mark.parametrize('coordinates, box', [
    ('pixels', (28, 28, 56, 84)), ('relative_1000', (250, 250, 500, 750)),
    ('relative_1', (0.25, 0.25, 0.5, 0.75))])
@pytest.mark.parametrize('crop, shown', [
    (WHOLE, (112, 112)), (Crop((100, 50, 200, 150), (112, 112)), (112, 112)),
    (Crop((0, 0, 448, 112), (56, 224)), (56, 224))])
def test_the_mask_is_drawn_on_the_image_that_was_shown_last(coordinates, box, crop, shown):
    if coordinates == 'pixels':  # of the image shown
        box = [side * shown[1 - n % 2] / 112 for n, side in enumerate(box)]
    drawn = prepare(answer(*box), crop, coordinates=coordinates)()
    assert drawn.shape == (3, *shown) and drawn.dtype == torch.uint8 and not drawn.requires_grad
    height, width = shown
    assert marked(drawn) == pytest.approx(
        [0.25 * width, 0.25 * height, 0.5 * width, 0.75 * height], abs=3)
    assert drawn[:, height // 2, int(0.375 * width)].tolist() == [90] * 3
    assert drawn[:, 2, 2].tolist() == [90] * 3


def test_what_is_not_in_the_image_shown_is_not_drawn():
    drawn = prepare(answer(-90, 0, -10, 112), Crop((100, 50, 200, 150), (112, 112)))()
    assert torch.equal(drawn, GRAY[:, :112, :112])
    several = SegmentationTask(several_objects=True)
    assert torch.equal(prepare('[]', task=several)(), GRAY[:, :112, :112])


def test_all_objects_are_drawn_together():
    entries = [dict(bbox_2d=box, point_2d=box[:2]) for box in ([10, 10, 30, 30], [60, 70, 90, 100])]
    drawn = prepare(json.dumps(entries), task=SegmentationTask(several_objects=True))()
    assert marked(drawn) == pytest.approx([10, 10, 90, 100], abs=3)


@pytest.mark.parametrize('text, reason, options', [
    ('', 'bad_mask', {}), ('the star', 'bad_mask', {}), ('{"bbox": [1, 2, 3]}', 'bad_mask', {}),
    (answer(30, 30, 30, 50), 'bad_mask', {}), ('[' * 100_000, 'bad_mask', {}),
    ('</answer>' + answer(28, 28, 56, 84), 'bad_mask', {}),
    (f'[{answer(28, 28, 56, 84)}, 7]', 'bad_mask',
     dict(task=SegmentationTask(several_objects=True))),
    (answer(28, 28, 56, 84), 'no_masks', dict(decoder=False)),
    ('nothing', 'no_masks', dict(task=DetectionTask()))])
def test_answers_without_a_mask(text, reason, options):
    assert prepare(text, **options) == BadCall(reason)
