# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Turns the boxes and points of answers into masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdpad.geometry.boxes import overlaps, union_box
from mmdpad.geometry.coordinates import scale_boxes, scale_points, shape_of
from mmdpad.models.decoders import ConceptDecoder
from mmdpad.structures import AnsweredObject
from mmdpad.tasks import Task

Shape = tuple[int, int]
Answer = tuple[Sequence[AnsweredObject], str | None]
Window = tuple[int, int, int, int]


class _Place(NamedTuple):
    """Boxes (n, 4) and points (n, P, 2) of n objects, and their negative points, n of (Q, 2)."""

    boxes: Tensor
    points: Tensor
    negatives: list[Tensor]

    @property
    def excluded(self) -> dict[str, list[Tensor]]:
        """The negative points as an argument of a decoder, if there are any."""
        return dict(negatives=self.negatives) if any(map(len, self.negatives)) else {}

    def moved(self, left: int, top: int) -> _Place:
        """The same in an image that begins at this pixel."""
        corner = self.boxes.new_tensor([left, top])
        return _Place(self.boxes - corner.repeat(2), self.points - corner,
                      [points - corner for points in self.negatives])


def decode_masks(decoder: nn.Module | None, objects: Sequence[AnsweredObject], image: Tensor,
                 model_shape: Shape, caption: str | None = None,
                 window: Window | None = None) -> InstanceData:
    """Decode the masks of n objects in one image.

    Args:
        decoder: The mask decoder, see :class:`mmdpad.models.decoders.SAMDecoder`; one with
            ``takes_text`` also gets the caption, see
            :class:`mmdpad.models.decoders.ConceptDecoder`.
        objects: Boxes and points in pixels of the model image, with equally many points each.
            Negative points are only for a decoder with ``takes_negative_points``.
        image: uint8 (3, H, W), RGB, the original frame.
        model_shape: (h, w) of the model image.
        caption: The caption of the answer that all these objects belong to, or None.
        window: XYXY in whole pixels of the original frame; x2 and y2 are outer edges. The decoder
            sees only this part of the image, so that a small object is larger in its input. What
            is beyond the image is cut off, and a window that does not hold all pixels of the boxes
            is extended by them. Points outside move to its border, as they do to an image's. None
            for the whole image.

    Returns:
        ``bboxes`` (n, 4) and ``points`` (n, P, 2) in the original frame, ``masks`` bool (n, H, W),
        ``scores`` (n,), ``labels`` (n,); from a decoder with ``takes_text`` also ``fallback``
        (n,) bool, whether an object was decoded without the caption; and if there are any,
        ``negative_points``, n lists of (x, y) in the original frame.

    Raises:
        RuntimeError: There is no decoder.
        ValueError: ``window`` is no such box, or covers nothing of the image.
    """
    return decode_group(decoder, [(objects, caption)], image, model_shape, [window])[0]


def decode_group(decoder: nn.Module | None, answers: Sequence[Answer], image: Tensor,
                 model_shape: Shape,
                 windows: Sequence[Window | None] | None = None) -> list[InstanceData]:
    """Decode the masks of several answers about one image, which is encoded once, or once for each
    part of it that the decoder sees.

    Args:
        decoder, image, model_shape: As for :func:`decode_masks`.
        answers: Objects and caption of each answer.
        windows: The window of each answer, see :func:`decode_masks`; None without any.

    Returns:
        For each answer what :func:`decode_masks` returns.

    Raises:
        RuntimeError, ValueError: See :func:`decode_masks`.
    """
    if decoder is None:
        raise RuntimeError('`model.decoder` should be a mask decoder, but got None; configure one')
    shape = shape_of(image)
    places = [_place(objects, shape, model_shape) for objects, _ in answers]
    rows_of: dict[Window, list[int]] = {}
    for row, place in enumerate(places):
        window = windows[row] if windows else None
        seen = (0, 0, shape[1], shape[0]) if window is None else _extend(
            window, place.boxes, shape)
        rows_of.setdefault(seen, []).append(row)
    decoded: dict[int, InstanceData] = {}
    for seen, rows in rows_of.items():
        found = _decode(decoder, [places[row] for row in rows],
                        [answers[row][1] for row in rows], image, seen)
        decoded.update(zip(rows, found, strict=True))
    return [decoded[row] for row in range(len(answers))]


def takes_text(decoder: nn.Module) -> bool:
    """Whether a decoder says that it takes the caption of an answer."""
    return getattr(decoder, 'takes_text', False)


def find_unsuited(decoder: nn.Module | type | None, tasks: Mapping[str, Task]) -> Iterator[str]:
    """Find the task whose negative points a decoder, or one of this class, does not take."""
    if decoder is not None and not getattr(decoder, 'takes_negative_points', False):
        kind = decoder if isinstance(decoder, type) else type(decoder)
        yield from (f'`model.decoder` of the task {name!r} with `negative_points=True` should be a '
                    f'decoder with `takes_negative_points`, but got {kind.__name__}; use another '
                    f'one, or leave `negative_points` out'
                    for name, task in tasks.items() if getattr(task, 'negative_points', False))


def _decode(decoder: nn.Module, places: Sequence[_Place], captions: Sequence[str | None],
            image: Tensor, seen: Window) -> list[InstanceData]:
    """Decode the masks of answers in the same part of an image."""
    left, top, right, bottom = seen
    pixels = image[:, top:bottom, left:right].permute(1, 2, 0).cpu().numpy()
    moved = [place.moved(left, top) for place in places]
    found: Sequence[Sequence[Tensor]]
    if isinstance(decoder, ConceptDecoder):
        found = decoder.decode_answers(pixels, [
            (place.boxes, place.points, caption, place.negatives)
            for place, caption in zip(moved, captions, strict=True)])
    elif takes_text(decoder):
        found = [decoder(pixels, place.boxes, place.points, caption, **place.excluded)
                 for place, caption in zip(moved, captions, strict=True)]
    else:  # all objects at once; those without any have no certain number of points
        boxes, points, negatives = zip(*[place for place in moved if len(place.boxes)]
                                       or moved[:1], strict=True)
        all_ = _Place(torch.cat(boxes), torch.cat(points), [*chain.from_iterable(negatives)])
        together = decoder(pixels, all_.boxes, all_.points, **all_.excluded)
        counts = [len(place.boxes) for place in places]
        found = [*zip(*(values.split(counts) for values in together), strict=True)]
    return [_instances(place, *own, shape=shape_of(image), seen=seen)
            for place, own in zip(places, found, strict=True)]


def _instances(place: _Place, masks: Tensor, scores: Tensor, *fallback: Tensor,
               shape: Shape, seen: Window) -> InstanceData:
    """What :func:`decode_masks` returns, given the masks in the part that the decoder saw."""
    left, top, right, bottom = seen
    if masks.shape[1:] != shape:
        part, masks = masks, masks.new_zeros(len(masks), *shape)
        masks[:, top:bottom, left:right] = part
    found = InstanceData(bboxes=place.boxes, points=place.points, masks=masks, scores=scores,
                         labels=torch.zeros(len(place.boxes), dtype=torch.long),
                         **(dict(fallback=fallback[0]) if fallback else {}))
    if place.excluded:
        found.negative_points = [points.tolist() for points in place.negatives]
    return found


def _place(objects: Sequence[AnsweredObject], shape: Shape, model_shape: Shape) -> _Place:
    """Boxes and points of objects, converted to the original frame."""
    # torch.Tensor makes floats of whole numbers, too
    boxes = torch.Tensor([item.box for item in objects]).reshape(-1, 4)
    points = torch.Tensor([item.points for item in objects]).reshape(
        len(objects), len(objects[0].points or ()) if objects else 1, 2)
    negatives = [torch.Tensor(item.negative_points).reshape(-1, 2) for item in objects]
    return _Place(scale_boxes(boxes, model_shape, shape), scale_points(points, model_shape, shape),
                  [scale_points(own, model_shape, shape) for own in negatives])


def _extend(window: Window, boxes: Tensor, shape: Shape) -> Window:
    """A window that holds the pixels of boxes (n, 4), too, cut off at the image's border."""
    height, width = shape
    if (len(window) != 4 or not all(isinstance(side, int) for side in window)
            or not (window[0] < window[2] and window[1] < window[3] and overlaps(window, shape))):
        raise ValueError(f'`window` should be (x1, y1, x2, y2) in whole pixels, with x1 < x2 and '
                         f'y1 < y2, that overlaps the image of {width} x {height} pixels, but got '
                         f'{window}; correct it')
    # From the first pixel, the nearest one, to the outer edge of the last.
    held = (boxes + 0.5).floor() + boxes.new_tensor([0, 0, 1, 1])
    x1, y1, x2, y2 = union_box([window, *held.tolist()]) or window
    return int(max(x1, 0)), int(max(y1, 0)), int(min(x2, width)), int(min(y2, height))
