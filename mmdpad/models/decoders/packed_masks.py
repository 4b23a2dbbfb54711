# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Many full-size masks of one image in little memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from mmdet.structures.mask import mask2bbox
from torch import Tensor


@dataclass(frozen=True)
class PackedMasks:
    """n masks of one image, each as the bits inside its tight box.

    ``masks[index]`` unpacks some as bool tensors on the CPU, as from a tensor (n, H, W).

    Attributes:
        shape: (H, W).
        boxes: (n, 4) int64 on the CPU, XYXY in pixels, right and bottom end exclusive: the tight
            boxes, all 0 for an empty mask.
        bits: n arrays (bytes,) uint8, 8 pixels each, row by row.
    """

    shape: tuple[int, int]
    boxes: Tensor
    bits: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, masks: Tensor) -> PackedMasks:
        """Pack masks (n, H, W) bool."""
        masks = masks.cpu()
        boxes = mask2bbox(masks).long()
        return cls((masks.shape[1], masks.shape[2]), boxes, tuple(
            np.packbits(mask[top:bottom, left:right]) for mask, (left, top, right, bottom) in zip(
                masks.numpy(), boxes.tolist(), strict=True)))

    @classmethod
    def concatenate(cls, parts: Iterable[PackedMasks]) -> PackedMasks:
        """Join one or more of the same image."""
        parts = list(parts)
        return cls(parts[0].shape, torch.cat([part.boxes for part in parts]),
                   tuple(chain.from_iterable(part.bits for part in parts)))

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, index: Any) -> Tensor:
        """Unpack: bool (H, W) for a number; (m, H, W) for a slice, a list or a tensor."""
        rows = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]
        masks = torch.zeros(rows.size, *self.shape, dtype=torch.bool)
        for mask, row in zip(masks.numpy(), rows.reshape(-1).tolist(), strict=True):
            left, top, right, bottom = self.boxes[row].tolist()
            sides = bottom - top, right - left
            mask[top:bottom, left:right] = np.unpackbits(
                self.bits[row], count=sides[0] * sides[1]).reshape(sides)
        return masks if rows.ndim else masks[0]

    def select(self, index: Tensor) -> PackedMasks:
        """The masks of these numbers, still packed."""
        return PackedMasks(self.shape, self.boxes[index],
                           tuple(self.bits[row] for row in index.tolist()))

    def at(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Read pixels without unpacking.

        Args:
            rows, columns: Int arrays of the same shape (...), inside the image.

        Returns:
            bool (n, ...).
        """
        found = np.zeros((len(self), *rows.shape), bool)
        for own, bits, (left, top, right, bottom) in zip(found, self.bits, self.boxes.tolist(),
                                                         strict=True):
            inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
            number = (rows[inside] - top) * (right - left) + columns[inside] - left
            own[inside] = bits[number // 8] >> (7 - number % 8) & 1
        return found
