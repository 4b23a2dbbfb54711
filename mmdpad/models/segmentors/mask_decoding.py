# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Turns the boxes and points of an answer into instances with masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdpad.geometry.coordinates import scale_boxes, scale_points
from mmdpad.structures import AnsweredObject


def decode_masks(decoder: nn.Module | None, objects: Sequence[AnsweredObject], image: Tensor,
                 model_shape: tuple[int, int], caption: str | None = None) -> InstanceData:
    """Decode the masks of n objects in one image.

    Args:
        decoder: The mask decoder, see :class:`mmdpad.models.decoders.SAMDecoder`; one with
            ``takes_text`` also gets the caption, see
            :class:`mmdpad.models.decoders.ConceptDecoder`.
        objects: Boxes and points in pixels of the model image, with equally many points each.
        image: uint8 (3, H, W), RGB, the original frame.
        model_shape: (h, w) of the model image.
        caption: The caption of the answer that all these objects belong to, or None.

    Returns:
        ``bboxes`` (n, 4) and ``points`` (n, P, 2) in the original frame, ``masks`` bool (n, H, W),
        ``scores`` (n,), ``labels`` (n,); from a decoder with ``takes_text`` also ``fallback``
        (n,) bool, whether an object was decoded without the caption.

    Raises:
        RuntimeError: There is no decoder.
    """
    if decoder is None:
        raise RuntimeError('`model.decoder` should be a mask decoder, but got None; configure one')
    height, width = image.shape[-2:]
    boxes = torch.tensor([item.box for item in objects]).reshape(-1, 4)
    points = torch.tensor([item.points for item in objects]).reshape(
        len(objects), len(objects[0].points or ()) if objects else 1, 2)
    boxes = scale_boxes(boxes, model_shape, (height, width))
    points = scale_points(points, model_shape, (height, width))
    with_text = takes_text(decoder)
    masks, scores, *fallback = decoder(image.permute(1, 2, 0).cpu().numpy(), boxes, points,
                                       *([caption] if with_text else []))
    return InstanceData(bboxes=boxes, points=points, masks=masks, scores=scores,
                        labels=torch.zeros(len(boxes), dtype=torch.long),
                        **(dict(fallback=fallback[0]) if with_text else {}))


def takes_text(decoder: nn.Module | None) -> bool:
    """Whether a decoder says that it takes the caption of an answer."""
    return getattr(decoder, 'takes_text', False)
