# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A decoder that finds what a text names in scenes of :mod:`mmdpad.toy.shapes_world`."""
import cv2
import numpy as np
import torch

from mmdpad.models import ConceptDecoder, SAMDecoder
from mmdpad.models.decoders.instances import Instances
from mmdpad.toy import SAM_WEIGHTS
from mmdpad.toy.shapes_world import COLORS, SHAPES, SIZES

# Share of the smallest rectangle around a convex shape that it covers, at most.
_COVERED = dict(triangle=0.64, circle=0.89, square=1.1)


class ToyConceptDecoder(ConceptDecoder, SAMDecoder):
    """Finds regions by color, size and shape, and falls back on the toy SAM."""

    def __init__(self, **kwargs):
        super().__init__('vit_shapes', SAM_WEIGHTS, **kwargs)

    def find(self, image, text):
        words = set(text.lower().replace('.', ' ').replace(',', ' ').split())
        masks = [mask for name, mask in named_regions(image)
                 if all(words.isdisjoint(kind) or part in words
                        for part, kind in zip(name, (SIZES, COLORS, SHAPES), strict=True))]
        return Instances.of(torch.from_numpy(np.array(masks).reshape(-1, *image.shape[:2])),
                            torch.full((len(masks), ), 0.9))


def named_regions(image):
    """Yield (size, color, shape) and mask of each object in a scene."""
    scale = np.sqrt(image.shape[0] * image.shape[1]) / 112
    for color, rgb in COLORS.items():
        near = np.abs(image.astype(int) - rgb).max(axis=2) < 40
        _, labels, stats, _ = cv2.connectedComponentsWithStats(near.astype(np.uint8))
        for label, area in enumerate(stats[:, cv2.CC_STAT_AREA]):
            if label and area > 60:
                mask = labels == label
                pixels = np.argwhere(mask).astype(np.int32)
                _, sides, _ = cv2.minAreaRect(pixels)
                covered = area / np.prod(np.array(sides) + 1)
                shape = next(name for name, most in _COVERED.items() if covered < most)
                if area < 0.85 * cv2.contourArea(cv2.convexHull(pixels)):
                    shape = 'star'
                yield ('big' if max(sides) > 24 * scale else 'small', color, shape), mask
