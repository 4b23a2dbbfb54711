# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A mask decoder that fills the box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mmdpad.registry import MODELS

from .prompts import check_prompts


@MODELS.register_module()
class BoxDecoder(nn.Module):
    """Uses the box of an object, clipped to the image, as its mask.

    It serves detection metrics, and experiments without the weights of a segmentor. It has no
    weights and ignores the image's content and the points.

    Both ends of a box are inclusive, as in :func:`mmdpad.geometry.targets.box_from_mask`. They are
    rounded to the nearest pixel (halves up), and the mask has the columns x1, ..., x2 and the rows
    y1, ..., y2: the box (2, 1, 4, 2) holds 3 x 2 pixels, and (2, 1, 2, 1) a single one. A box
    outside the image, or one with its ends in the wrong order, gives an empty mask.
    """

    takes_negative_points = True

    def forward(self, image: np.ndarray, boxes: Tensor, points: Tensor,
                negatives: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        """Fill the boxes of N objects of one image.

        Args:
            image: uint8 (H, W, 3), RGB, the original frame.
            boxes: (N, 4) float, XYXY in pixels of ``image``.
            points: (N, P, 2) float, (x, y) in pixels of ``image``; not used.
            negatives: See :class:`mmdpad.models.decoders.PromptedDecoder`; not used.

        Returns:
            Masks (N, H, W) bool and scores (N,) float, all 1, both on the CPU.

        Raises:
            ValueError: See :func:`check_prompts`.
        """
        checked, _ = check_prompts(image, boxes, points)
        left, top, right, bottom = torch.from_numpy(np.floor(checked + 0.5)).T[..., None]
        rows, columns = (torch.arange(side) for side in image.shape[:2])
        in_rows = (rows >= top) & (rows <= bottom)
        in_columns = (columns >= left) & (columns <= right)
        return in_rows[:, :, None] & in_columns[:, None, :], torch.ones(len(checked))
