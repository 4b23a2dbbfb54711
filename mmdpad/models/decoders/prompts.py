# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks of the inputs of every mask decoder: an image, and a box and points for each object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def check_prompts(image: np.ndarray, boxes: Tensor,
                  points: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Check an image, boxes and points; return boxes and points as arrays.

    Args:
        image: uint8 (H, W, 3), RGB, the original frame.
        boxes: (N, 4) float, XYXY in pixels of ``image``.
        points: (N, P, 2) float, (x, y) in pixels of ``image``.

    Returns:
        The boxes (N, 4) and points (N, P, 2) as float64 arrays.

    Raises:
        ValueError: The image, boxes or points have the wrong type or shape, or a coordinate is NaN.
    """
    if (not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3
            or image.shape[2] != 3 or image.size == 0):
        raise ValueError(f'`image` should be a uint8 array (H, W, 3), but got '
                         f'{getattr(image, "dtype", type(image))} '
                         f'{tuple(getattr(image, "shape", ()))}')
    boxes_ = torch.as_tensor(boxes).detach().cpu().numpy().astype(np.float64)
    points_ = torch.as_tensor(points).detach().cpu().numpy().astype(np.float64)
    if (boxes_.ndim != 2 or boxes_.shape[1] != 4 or points_.ndim != 3 or points_.shape[2] != 2
            or len(boxes_) != len(points_)):
        raise ValueError(f'`boxes` should be (N, 4) and `points` (N, P, 2), but got '
                         f'{boxes_.shape} and {points_.shape}')
    if np.isnan(boxes_).any() or np.isnan(points_).any():  # infinite ones are clipped
        raise ValueError(f'Coordinates should be numbers, but got boxes {boxes_.tolist()} and '
                         f'points {points_.tolist()}')
    return boxes_, points_


def clip_prompts(boxes: np.ndarray, points: np.ndarray,
                 shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes (N, 4) to [0, W] x [0, H] and points (N, P, 2) to [0, W - 1] x [0, H - 1], for an
    image of ``shape`` (H, W)."""
    height, width = shape
    return (boxes.clip(0, [width, height, width, height]),
            points.clip(0, [width - 1, height - 1]))


def keep_inside(negatives: Sequence[Tensor], count: int,
                shape: tuple[int, int]) -> list[np.ndarray]:
    """The negative points of N objects that lie in an image. The others are left out: they say
    nothing of what is in it, and at its border they might lie on the object.

    Args:
        negatives: N tensors (Q, 2), (x, y) in pixels, Q of any number; or empty, for no points.
        count: N.
        shape: (H, W) of the image.

    Returns:
        N arrays (Q, 2) float64, clipped to [0, W - 1] x [0, H - 1].

    Raises:
        ValueError: There is another number of them, or one has another shape.
    """
    arrays = [torch.as_tensor(own).detach().cpu().numpy().astype(np.float64) for own in negatives]
    if arrays and len(arrays) != count or any(own.shape[1:] != (2, ) for own in arrays):
        raise ValueError(f'`negatives` should have an entry (Q, 2) for each of {count} objects, '
                         f'but got {[own.shape for own in arrays]}')
    height, width = shape
    return [own[((own >= 0) & (own <= [width, height])).all(axis=1)].clip(
        None, [width - 1, height - 1]) for own in arrays] or [np.zeros((0, 2))] * count
