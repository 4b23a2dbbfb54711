# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Masks as files hold them: COCO's run lengths and polygons.

pycocotools does the work. It does not check what it is given, so numbers, sizes and outlines are
checked here first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

MOST_PIXELS = 2 * (2**28 // 3)
"""Above it Pillow refuses an image, and no mask is unpacked without its image."""
MOST_IN_A_RUN = 2**32 - 1
"""The longest run of COCO's RLE, and so the most pixels of a mask that it can say."""
MAX_COORDINATE = 1_000_000
"""Pixels; beyond it no image has any."""
MAX_PARTS = 1000
"""Polygons of a mask, or objects in a file of masks; each may cost a pass over the image."""
MAX_CROSSINGS, MAX_IN_A_ROW = 256, 2000
"""How often an outline may cross a row or a column of the image on average, and one row."""


def encode_mask(mask: np.ndarray) -> dict:
    """A bool mask (H, W) as ``dict(size=[H, W], counts=str)``, COCO's RLE with text counts.

    Raises:
        ValueError: It is not bool: pycocotools starts a run at every change of value.
    """
    if mask.dtype != bool or mask.ndim != 2:
        raise ValueError(f'`mask` should be a bool array (H, W), but got {mask.dtype} '
                         f'{mask.shape}; compare it with background first, such as `mask > 0`')
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(size=[int(side) for side in rle['size']], counts=rle['counts'].decode('ascii'))


def decode_mask(rle: dict) -> np.ndarray:
    """The bool mask (H, W) of COCO's RLE, its counts compressed (text or bytes) or a list.

    Raises:
        ValueError: No RLE, more than :data:`MOST_PIXELS`, or its counts do not make up its size.
    """
    rle = checked_rle(rle)
    if math.prod(rle['size']) > MOST_PIXELS:
        raise ValueError(f'its RLE should have at most {MOST_PIXELS:,} pixels, but has size '
                         f'{rle["size"]} (height, width)')
    return coco_mask.decode(rle).astype(bool)


def segmentation_rle(segmentation: Any, height: int, width: int) -> dict:
    """A COCO ``segmentation`` as RLE with compressed counts (bytes), as pycocotools takes it.

    Args:
        segmentation: Polygons, each [x1, y1, x2, y2, ...] of at least 3 points, in pixels, the
            mask being all they cover; an RLE (:func:`decode_mask`); or a list with one RLE.
        height, width: Of the image.

    Raises:
        ValueError: Another form, a number that is not finite, an RLE of another size, or polygons
            that no image has (:func:`check_outline`).
    """
    if isinstance(segmentation, list) and len(segmentation) == 1 and isinstance(
            segmentation[0], dict):
        segmentation = segmentation[0]
    if isinstance(segmentation, dict):
        rle = checked_rle(segmentation)
        if rle['size'] != [height, width]:
            raise ValueError(f'its RLE has size {rle["size"]} in place of the image\'s '
                             f'[{height}, {width}] (height, width)')
        return rle
    if not isinstance(segmentation, list) or not segmentation or not all(
            isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
            and all(map(is_coordinate, polygon)) for polygon in segmentation):
        raise ValueError('it is neither an RLE nor a list of polygons [x1, y1, x2, y2, x3, y3, '
                         f'...] in pixels: {str(segmentation)[:80]}')
    for polygon in segmentation:
        check_outline(np.array(polygon, np.float64).reshape(-1, 2), height, width)
    check_parts(len(segmentation))
    return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))


def is_coordinate(value: Any) -> bool:
    """Whether it is a plain number within :data:`MAX_COORDINATE`; NaN is not."""
    return type(value) in (int, float) and abs(value) <= MAX_COORDINATE


def check_parts(count: int) -> None:
    """A mask should have at most :data:`MAX_PARTS` polygons.

    Raises:
        ValueError: It has more.
    """
    if count > MAX_PARTS:
        raise ValueError(f'it should have at most {MAX_PARTS} polygons, but has {count}')


def check_outline(points: np.ndarray, height: int, width: int) -> None:
    """A polygon (N, 2), (x, y) in pixels, that crosses rows and columns as one of an object does.

    The bounds keep filling it within the time and memory that outlines of objects take.

    Raises:
        ValueError: It crosses them more often than :data:`MAX_CROSSINGS` and
            :data:`MAX_IN_A_ROW` say.
    """
    after = np.roll(points, 1, axis=0)
    crossings = (np.abs(points - after).sum(axis=0) / (width, height)).max()
    starts, ends = np.sort(np.sort([points[:, 1], after[:, 1]], axis=0))
    in_a_row = (np.arange(len(starts)) - np.searchsorted(ends, starts, 'right')).max() + 1
    if crossings > MAX_CROSSINGS or in_a_row > MAX_IN_A_ROW:
        raise ValueError(f'an outline should cross the rows and columns of its image of {width} x '
                         f'{height} pixels (width x height) at most {MAX_CROSSINGS} times on '
                         f'average and {MAX_IN_A_ROW} in a row, but one of {len(points)} points '
                         f'does so {crossings:.0f} and {in_a_row} times')


def checked_rle(rle: dict) -> dict:
    """An RLE with compressed counts (bytes), as pycocotools takes it, after a look at its runs.

    Raises:
        ValueError: As in :func:`decode_mask`.
    """
    size, counts = rle.get('size'), rle.get('counts')
    if not (isinstance(size, (list, tuple)) and len(size) == 2
            and all(type(side) is int and side > 0 for side in size)
            and math.prod(size) <= MOST_IN_A_RUN):
        raise ValueError(f'its RLE should have `size` [height, width], but got {size}')
    if isinstance(counts, list):
        runs = counts
    elif isinstance(counts, (str, bytes)):
        # Half of a surrogate pair becomes bytes, too, which no run has.
        counts = counts.encode('utf-8', 'surrogatepass') if isinstance(counts, str) else counts
        runs = read_runs(counts)
    else:
        runs = [None]
    check_runs(runs, *size)
    if isinstance(counts, list):
        return coco_mask.frPyObjects(dict(size=list(size), counts=counts), *size)
    return dict(size=list(size), counts=counts)


def check_runs(runs: Sequence[Any], height: int, width: int) -> None:
    """Run lengths should be whole numbers from 0 on that make up a mask of this size.

    Raises:
        ValueError: They are not, or do not.
    """
    if not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f'its RLE is broken: the counts should be run lengths that make up '
                         f'{height} x {width} pixels')


def read_runs(counts: bytes) -> list[int]:
    """Run lengths from COCO's text form: groups of 5 bits, low ones first, from the character '0'
    on; bit 6 says that more follow, bit 5 of the last is the sign; from the fourth run on, each
    number is the difference to the run before the last. [-1] for anything else."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 30:
            return [-1]
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs if not shift else [-1]
