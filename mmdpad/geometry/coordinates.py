# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Conversions between the frames of boxes and points.

``original``: pixels of the image file after its EXIF rotation. ``model``: pixels of the model
image, which is resized to a fixed size without keeping its aspect ratio. ``relative_1000`` and
``relative_1``: the same image as if it were 1000 or 1 wide and high. All use (x, y) order, x to the
right, y down, with the origin at the outer corner of the first pixel. A frame is identified by its
shape (height, width), the order of ``ndarray.shape``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmdpad.structures import ParseFailure, ReasoningOutput

if TYPE_CHECKING:
    from torch import Tensor

_SIDES = dict(relative_1000=1000, relative_1=1)
COORDINATES = ('pixels', *_SIDES)
"""Coordinates that a policy may write: pixels of the model image, 0 to 1000, or 0 to 1."""


def shape_of(image: Tensor) -> tuple[int, int]:
    """(height, width) of an image (..., H, W)."""
    return image.shape[-2], image.shape[-1]


def scale_points(points: Tensor, from_shape: tuple[int, int],
                 to_shape: tuple[int, int]) -> Tensor:
    """Convert points between two frames of one image: x' = x * W' / W, y' = y * H' / H.

    Args:
        points: (..., 2) float, (x, y) in pixels of a frame of shape ``from_shape``.
        from_shape: (height, width) of the source frame.
        to_shape: (height, width) of the target frame.

    Returns:
        (..., 2) float in the target frame, not rounded. Swapping the shapes inverts it.

    Raises:
        ValueError: A height or width is not positive.
    """
    if min(*from_shape, *to_shape) <= 0:
        raise ValueError(f'Shapes should be positive (height, width), but got {from_shape} and '
                         f'{to_shape}')
    import torch  # not at the top: `COORDINATES` and its check do not need torch
    scale = torch.tensor([to_shape[1] / from_shape[1], to_shape[0] / from_shape[0]],
                         dtype=points.dtype, device=points.device)
    return points * scale


def scale_boxes(boxes: Tensor, from_shape: tuple[int, int], to_shape: tuple[int, int]) -> Tensor:
    """:func:`scale_points` for boxes (..., 4), XYXY."""
    corners = boxes.reshape(*boxes.shape[:-1], 2, 2)
    return scale_points(corners, from_shape, to_shape).reshape(boxes.shape)


def check_coordinates(coordinates: str) -> None:
    """Check that this is one of :data:`COORDINATES`.

    Raises:
        ValueError: It is not.
    """
    if coordinates not in COORDINATES:
        raise ValueError(f'`coordinates` should be one of {COORDINATES}, but got {coordinates!r}')


def written_shape(coordinates: str, model_shape: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the frame a policy writes in, given the shape of its model image."""
    check_coordinates(coordinates)
    return model_shape if coordinates == 'pixels' else (_SIDES[coordinates], ) * 2


def round_coordinate(value: float, coordinates: str) -> float:
    """Round a coordinate as a response writes it: to an integer, from 0 to 1 to a thousandth."""
    return round(value, 3) if coordinates == 'relative_1' else round(value)


def to_model_frame(answer: ReasoningOutput | ParseFailure, coordinates: str,
                   model_shape: tuple[int, int]) -> ReasoningOutput | ParseFailure:
    """Convert the boxes and points of an answer to pixels of the model image.

    Args:
        answer: As :func:`mmdpad.prompts.parse_response` reads it.
        coordinates: One of :data:`COORDINATES`: those the answer is written in.
        model_shape: (height, width) of the model image.

    Returns:
        The converted answer, not rounded; the same object if it is written in pixels.
    """
    frame = written_shape(coordinates, model_shape)
    if frame == model_shape:
        return answer
    return convert_answer(answer, lambda values: scale_pairs(values, frame, model_shape))


def scale_pairs(values: Sequence[float], from_shape: tuple[int, int],
                to_shape: tuple[int, int]) -> tuple[float, ...]:
    """:func:`scale_points` for numbers x, y, x, y, ... of a box or points."""
    scales = to_shape[1] / from_shape[1], to_shape[0] / from_shape[0]
    return tuple(value * scales[place % 2] for place, value in enumerate(values))


def convert_answer(answer: ReasoningOutput | ParseFailure,
                   convert: Callable[[Sequence[float]], Any]) -> ReasoningOutput | ParseFailure:
    """Convert the boxes (x1, y1, x2, y2) and the points (x, y) of an answer by a function, which
    returns a tuple of as many numbers."""
    return replace(answer, objects=tuple(
        replace(found, box=found.box and convert(found.box),
                points=found.points and tuple(map(convert, found.points)),
                negative_points=tuple(map(convert, found.negative_points)))
        for found in answer.objects))
