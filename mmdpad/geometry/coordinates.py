# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Which pixels: conversions between the frames in which boxes and points are written.

``original``: pixels of the image file after its EXIF rotation. ``prompt``: pixels of the image
resized to the prompt's size, without keeping its aspect. ``relative_1000``: the same image as if
it were 1000 wide and 1000 high. All have (x, y) order, x to the right, y down, the origin at the
outer corner of the first pixel; a frame is named by its shape (height, width), the order of
``ndarray.shape``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput

if TYPE_CHECKING:
    from torch import Tensor

COORDINATES = ('pixels', 'relative_1000')
"""Conventions in which a policy writes: pixels of the prompt image, or 0 to 1000."""


def scale_points(points: Tensor, from_shape: tuple[int, int],
                 to_shape: tuple[int, int]) -> Tensor:
    """Convert points between two frames of one image: x' = x * W' / W, y' = y * H' / H.

    Args:
        points: (..., 2) float, (x, y) in pixels of a frame of shape ``from_shape``.
        from_shape: (height, width) of the frame in which the points are.
        to_shape: (height, width) of the wanted frame.

    Returns:
        (..., 2) float in the wanted frame, not rounded; inverse to itself with shapes swapped.

    Raises:
        ValueError: A height or width is not positive.
    """
    if min(*from_shape, *to_shape) <= 0:
        raise ValueError(f'Shapes should be positive (height, width), but got {from_shape} and '
                         f'{to_shape}')
    import torch  # here, so that the names come without it
    scale = torch.tensor([to_shape[1] / from_shape[1], to_shape[0] / from_shape[0]],
                         dtype=points.dtype, device=points.device)
    return points * scale


def scale_boxes(boxes: Tensor, from_shape: tuple[int, int], to_shape: tuple[int, int]) -> Tensor:
    """:func:`scale_points` for boxes (..., 4), XYXY."""
    corners = boxes.reshape(*boxes.shape[:-1], 2, 2)
    return scale_points(corners, from_shape, to_shape).reshape(boxes.shape)


def check_coordinates(coordinates: str) -> None:
    """Refuse what is not one of :data:`COORDINATES`.

    Raises:
        ValueError: It is not.
    """
    if coordinates not in COORDINATES:
        raise ValueError(f'`coordinates` should be one of {COORDINATES}, but got {coordinates!r}')


def written_shape(coordinates: str, model_shape: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the frame in which a policy writes about a prompt image of that shape."""
    check_coordinates(coordinates)
    return model_shape if coordinates == 'pixels' else (1000, 1000)


def to_model_frame(answer: ReasoningOutput | ParseFailure, coordinates: str,
                    model_shape: tuple[int, int]) -> ReasoningOutput | ParseFailure:
    """What a policy wrote, with boxes and points in pixels of the prompt image.

    Args:
        answer: As :func:`mmdpad.prompts.parse_response` reads it.
        coordinates: One of :data:`COORDINATES`, in which it is written.
        model_shape: (height, width) of the prompt image.

    Returns:
        The same, not rounded; the very object where it is written in pixels.
    """
    frame = written_shape(coordinates, model_shape)
    if frame == model_shape:
        return answer

    def convert(values: Any) -> Any:
        if values is None:
            return None
        import torch
        pairs = torch.tensor(values, dtype=torch.float64).reshape(-1, 2)
        return scale_points(pairs, frame, model_shape).tolist()

    objects = []
    for found in answer.objects:
        box, points = convert(found.box), convert(found.points)
        objects.append(AnsweredObject(box and (*box[0], *box[1]),
                                      None if points is None else tuple(map(tuple, points))))
    return replace(answer, objects=tuple(objects))
