# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Scenes in which a policy has to look closer: a small card with tiny shapes on a large table.

A scene has 1,120 x 1,120 pixels, and each object 8 to 20. The model image of the toy models shows
it ten times smaller, so that an object is one or two pixels wide there: where the card lies and
some colors can be seen, but hardly shapes and sizes. Objects and questions are those of the plain
world (:mod:`.shapes_world`).
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np

from .shapes_world import SPLITS, Scene, ShapeObject, make_scene, paint

TINY_WORLD = 'tiny'
"""The name of this world in commands."""

TINY_IMAGE_SIZE = (1120, 1120)
"""Width and height in pixels of a scene (the original frame)."""

ZOOM_PROMPT_TEMPLATE = 'look "{question}"'
"""Prompt template that lets the toy policy look closer before it answers."""

SHRINK = 0.42
"""Sides of what lies on a card over those in a plain scene."""

GRID = 10
"""Cards begin and end at multiples of so many pixels, a pixel of the model image, so that a policy
can ask for exactly the card: then it sees a plain scene."""

_MARGIN = 4  # of the grid
_GRAY = (95, 135)
_NOISE, _TINT = 3.0, 26.0
_STREAM = 2  # of random numbers; plain scenes have none of their own


def make_tiny_scene(split: str, index: int, seed: int = 0) -> Scene:
    """Make scene `index` of a split: that of the plain world, on a card. The arguments are as in
    `shapes_world.make_scene`."""
    scene = make_scene(split, index, seed)
    return place_card(np.random.default_rng([seed, SPLITS.index(split), index, _STREAM]), scene)[0]


def place_card(rng: np.random.Generator,
               scene: Scene) -> tuple[Scene, tuple[int, int, int, int]]:
    """Put a scene, `SHRINK` times as large, on a table.

    Its objects are painted anew in this size; their outlines are in whole pixels, as annotations
    are read.

    Returns:
        The larger scene, and the place (x1, y1, x2, y2) of the card in it, in pixels; x2 and y2 are
        outer edges.
    """
    height, width = (-(-round(SHRINK * side) // GRID) * GRID for side in scene.image.shape[:2])
    margin = (np.array([width, height]) - SHRINK * np.array(scene.image.shape[1::-1])) / 2
    places = [SHRINK * item.polygon + margin for item in scene.objects]
    card = paint(rng, _moved(scene.objects, places), width, height)
    x, y = (GRID * int(rng.integers(_MARGIN, end // GRID - _MARGIN - side // GRID)) for end, side in
            zip(TINY_IMAGE_SIZE, (width, height), strict=True))
    gray = float(rng.uniform(*_GRAY))
    image = cv2.add(_table(), np.array([gray, gray, gray, 0.0]))
    image[y:y + height, x:x + width] = card
    objects = _moved(scene.objects, [place.round() + (x, y) for place in places])
    return Scene(image, objects, scene.question), (x, y, x + width, y + height)


def _moved(objects: Sequence[ShapeObject],
           polygons: Sequence[np.ndarray]) -> tuple[ShapeObject, ...]:
    return tuple(replace(item, polygon=polygon)
                 for item, polygon in zip(objects, polygons, strict=True))


@lru_cache(1)
def _table() -> np.ndarray:
    """The pattern of every table, uint8 (H, W, 3): noise, redder on the left and bluer at the top,
    as backgrounds are in plain scenes (`shapes_world.paint`)."""
    width, height = TINY_IMAGE_SIZE
    noise = np.random.default_rng(0).normal(_TINT + 4 * _NOISE, _NOISE, (height, width))
    image = np.repeat(noise[..., None], 3, axis=2)
    image[..., 0] += np.linspace(_TINT, -_TINT, width)[None]
    image[..., 2] += np.linspace(_TINT, -_TINT, height)[:, None]
    return image.clip(0, 255).astype(np.uint8)
