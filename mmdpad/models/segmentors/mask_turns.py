# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Shows a policy the mask of an answer, outlined on the image that it was shown last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from mmdpad.geometry.coordinates import shape_of
from mmdpad.geometry.crops import Crop
from mmdpad.geometry.mask_iou import union_of
from mmdpad.prompts.zoom import BadCall
from mmdpad.structures import ParseFailure

from .answering_ahead import Inputs

if TYPE_CHECKING:
    from .reasoning_segmentor import ReasoningSegmentor

_OUTLINE = (255, 0, 255)


def prepare_mask(model: ReasoningSegmentor, inputs: Inputs, data_samples: Sequence[DetDataSample],
                 row: int, crop: Crop, text: str) -> Callable[[], Tensor] | BadCall:
    """Prepare the reply to an answer that a policy tries in a conversation.

    Args:
        model, inputs, data_samples: A batch, see :class:`.ReasoningSegmentor`.
        row: The number of the question in the batch.
        crop: What the image shows that the policy was shown last.
        text: What the policy would write as the answer, without the tags around it.

    Returns:
        A function that draws the union of the answer's masks on that image, uint8 (3, h, w), on the
        CPU. They are decoded without a caption, by themselves, so that the reply does not depend on
        the batch. Or why there is no mask.
    """
    task = model.task_of(data_samples[row])
    if model.decoder is None or not task.decodes_masks:
        return BadCall('no_masks')
    answer = task.parse(f'<answer>{text}</answer>')
    if isinstance(answer, ParseFailure):
        return BadCall('bad_mask')
    image = inputs['image'][row]
    shape, model_shape = shape_of(image), shape_of(inputs['model_image'][row])
    found = crop.answer_to_model_frame(answer, model.policy.coordinates, shape, model_shape)

    def draw() -> Tensor:
        window = crop.box if model.decode_in_crop else None
        # Not in the precision of a rollout (AMP), as the answer's mask and rewards are not.
        with torch.autocast(model.policy.device.type, enabled=False):
            masks = model.decode_masks(found.objects, image, model_shape, window=window).masks
        x1, y1, x2, y2 = crop.box
        return outline(crop.cut(image), union_of(masks)[y1:y2, x1:x2])

    return draw


def outline(image: Tensor, mask: np.ndarray) -> Tensor:
    """Outline a mask on an image.

    Args:
        image: uint8 (3, h, w), RGB.
        mask: bool (H, W), of the same part of the scene.

    Returns:
        uint8 (3, h, w), on the CPU.
    """
    picture = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    height, width = picture.shape[:2]
    region = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, _OUTLINE, max(2, round(max(height, width) / 250)))
    return torch.from_numpy(picture).permute(2, 0, 1).contiguous()
