# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Turns the boxes and points of answers into masks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdpad.geometry.coordinates import scale_boxes, scale_points
from mmdpad.models.decoders import ConceptDecoder
from mmdpad.structures import AnsweredObject

Shape = tuple[int, int]


def decode_masks(decoder: nn.Module | None, objects: Sequence[AnsweredObject], image: Tensor,
                 model_shape: Shape, caption: str | None = None) -> InstanceData:
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
    decoder = _existing(decoder)
    boxes, points = _place(objects, image, model_shape)
    return _instances(boxes, points, *decoder(
        _pixels(image), boxes, points, *([caption] if takes_text(decoder) else [])))


def decode_group(decoder: nn.Module | None,
                 answers: Sequence[tuple[Sequence[AnsweredObject], str | None]], image: Tensor,
                 model_shape: Shape) -> list[InstanceData]:
    """Decode the masks of several answers about one image, which is encoded once.

    Args:
        decoder, image, model_shape: As for :func:`decode_masks`.
        answers: Objects and caption of each answer.

    Returns:
        For each answer what :func:`decode_masks` returns.

    Raises:
        RuntimeError: There is no decoder.
    """
    decoder = _existing(decoder)
    if isinstance(decoder, ConceptDecoder):
        places = [_place(objects, image, model_shape) for objects, _ in answers]
        found = decoder.decode_answers(_pixels(image), [
            (*place, caption) for place, (_, caption) in zip(places, answers, strict=True)])
        return [_instances(*place, *own) for place, own in zip(places, found, strict=True)]
    if takes_text(decoder):
        return [decode_masks(decoder, objects, image, model_shape, caption)
                for objects, caption in answers]
    together = decode_masks(decoder, [item for objects, _ in answers for item in objects], image,
                            model_shape)
    ends = accumulate((len(objects) for objects, _ in answers), initial=0)
    return [together[start:end] for start, end in pairwise(ends)]


def _instances(boxes: Tensor, points: Tensor, masks: Tensor, scores: Tensor,
               *fallback: Tensor) -> InstanceData:
    """What :func:`decode_masks` returns."""
    return InstanceData(bboxes=boxes, points=points, masks=masks, scores=scores,
                        labels=torch.zeros(len(boxes), dtype=torch.long),
                        **(dict(fallback=fallback[0]) if fallback else {}))


def takes_text(decoder: nn.Module) -> bool:
    """Whether a decoder says that it takes the caption of an answer."""
    return getattr(decoder, 'takes_text', False)


def _existing(decoder: nn.Module | None) -> nn.Module:
    if decoder is None:
        raise RuntimeError('`model.decoder` should be a mask decoder, but got None; configure one')
    return decoder


def _pixels(image: Tensor) -> np.ndarray:
    """The image as the array (H, W, 3) that decoders take."""
    return image.permute(1, 2, 0).cpu().numpy()


def _place(objects: Sequence[AnsweredObject], image: Tensor,
           model_shape: Shape) -> tuple[Tensor, Tensor]:
    """Boxes (n, 4) and points (n, P, 2) of objects, converted to the original frame."""
    shape = (image.shape[-2], image.shape[-1])
    boxes = torch.tensor([item.box for item in objects]).reshape(-1, 4)
    points = torch.tensor([item.points for item in objects]).reshape(
        len(objects), len(objects[0].points or ()) if objects else 1, 2)
    return scale_boxes(boxes, model_shape, shape), scale_points(points, model_shape, shape)
