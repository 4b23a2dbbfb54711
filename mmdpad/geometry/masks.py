# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Masks in files: COCO's run-length encoding (RLE) and polygons.

pycocotools does the work. It does not check its input, so numbers, sizes and outlines are checked
here first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

MOST_PIXELS = 2 * (2**28 // 3)
"""Pillow refuses larger images, and every mask belongs to an image."""
MOST_IN_A_RUN = 2**32 - 1
"""The longest run in COCO's RLE, and so the most pixels that it can express for a mask."""
MAX_COORDINATE = 1_000_000
"""In pixels, more than any image has."""
MAX_PARTS = 1000
"""Polygons per mask, or objects per mask file; each may cost a pass over the image."""
MAX_CROSSINGS, MAX_IN_A_ROW = 256, 2000
"""How often an outline may cross a row or column of the image: on average, and any one row."""


def encode_mask(mask: np.ndarray) -> dict:
    """Encode a bool mask (H, W) as ``dict(size=[H, W], counts=str)``, COCO's RLE as text.

    Raises:
        ValueError: It is not bool. (pycocotools starts a run at every change of value.)
    """
    if mask.dtype != bool or mask.ndim != 2:
        raise ValueError(f'`mask` should be a bool array (H, W), but got {mask.dtype} '
                         f'{mask.shape}; convert it first, for example by `mask > 0`')
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(size=[int(side) for side in rle['size']], counts=rle['counts'].decode('ascii'))


def decode_mask(rle: dict) -> np.ndarray:
    """Decode COCO's RLE, with counts compressed (text or bytes) or as a list, to bool (H, W).

    Raises:
        ValueError: It is not an RLE, has more than :data:`MOST_PIXELS`, or its counts do not add
            up to its size.
    """
    rle = checked_rle(rle)
    if math.prod(rle['size']) > MOST_PIXELS:
        raise ValueError(f'its RLE should have at most {MOST_PIXELS:,} pixels, but has size '
                         f'{rle["size"]} (height, width)')
    return coco_mask.decode(rle).astype(bool)


def segmentation_rle(segmentation: Any, height: int, width: int) -> dict:
    """A COCO ``segmentation`` as RLE with compressed counts (bytes), which pycocotools accepts.

    Args:
        segmentation: Polygons, each [x1, y1, x2, y2, ...] with at least 3 points, in pixels (the
            mask is everything they cover); an RLE (:func:`decode_mask`); or a list with one RLE.
        height, width: Of the image.

    Raises:
        ValueError: The form is another one, a number is not finite, the RLE has another size, or
            a polygon is too complex (:func:`check_outline`).
    """
    if isinstance(segmentation, list) and len(segmentation) == 1 and isinstance(
            segmentation[0], dict):
        segmentation = segmentation[0]
    if isinstance(segmentation, dict):
        rle = checked_rle(segmentation)
        if rle['size'] != [height, width]:
            raise ValueError(f'its RLE should have the size of the image, [{height}, {width}] '
                             f'(height, width), but has {rle["size"]}')
        return rle
    if not isinstance(segmentation, list) or not segmentation or not all(
            isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
            and all(map(is_coordinate, polygon)) for polygon in segmentation):
        raise ValueError('it should be an RLE or a list of polygons [x1, y1, x2, y2, x3, y3, ...] '
                         f'in pixels, but is {str(segmentation)[:80]}')
    for polygon in segmentation:
        check_outline(np.array(polygon, np.float64).reshape(-1, 2), height, width)
    check_parts(len(segmentation))
    return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))


def is_coordinate(value: Any) -> bool:
    """Whether this is a plain number within :data:`MAX_COORDINATE`; NaN is not."""
    return type(value) in (int, float) and abs(value) <= MAX_COORDINATE


def check_parts(count: int) -> None:
    """Check that a mask has at most :data:`MAX_PARTS` polygons.

    Raises:
        ValueError: It has more.
    """
    if count > MAX_PARTS:
        raise ValueError(f'it should have at most {MAX_PARTS} polygons, but has {count}')


def check_outline(points: np.ndarray, height: int, width: int) -> None:
    """Check that a polygon (N, 2), (x, y) in pixels, is no more complex than real outlines are.

    The bounds keep the time and memory of filling it within what outlines of objects need.

    Raises:
        ValueError: It crosses rows or columns more often than :data:`MAX_CROSSINGS` and
            :data:`MAX_IN_A_ROW` allow.
    """
    after = np.roll(points, 1, axis=0)
    crossings = (np.abs(points - after).sum(axis=0) / (width, height)).max()
    starts, ends = np.sort(np.sort([points[:, 1], after[:, 1]], axis=0))
    in_a_row = (np.arange(len(starts)) - np.searchsorted(ends, starts, 'right')).max() + 1
    if crossings > MAX_CROSSINGS or in_a_row > MAX_IN_A_ROW:
        raise ValueError(f'an outline should cross the rows and columns of its image of {width} x '
                         f'{height} pixels (width x height) at most {MAX_CROSSINGS} times on '
                         f'average and any one row at most {MAX_IN_A_ROW} times, but one with '
                         f'{len(points)} points does so {crossings:.0f} and {in_a_row} times')


def checked_rle(rle: dict) -> dict:
    """Check an RLE and return it with compressed counts (bytes), which pycocotools accepts.

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
        # Half of a surrogate pair becomes bytes as well, and no run contains such bytes.
        counts = counts.encode('utf-8', 'surrogatepass') if isinstance(counts, str) else counts
        runs = read_runs(counts)
    else:
        runs = [None]
    check_runs(runs, *size)
    if isinstance(counts, list):
        return coco_mask.frPyObjects(dict(size=list(size), counts=counts), *size)
    return dict(size=list(size), counts=counts)


def check_runs(runs: Sequence[Any], height: int, width: int) -> None:
    """Check that run lengths are non-negative integers that add up to a mask of this size.

    Raises:
        ValueError: They are not.
    """
    if not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f'its RLE is broken: the counts should be run lengths that add up to '
                         f'{height} x {width} pixels')


def read_runs(counts: bytes) -> list[int]:
    """Run lengths from COCO's text form; [-1] for anything else.

    Each character, counted from '0', holds 5 bits, lowest first. Bit 6 says that more follow; bit
    5 of the last one is the sign. From the fourth run on, a number is the difference from the run
    two places earlier.
    """
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
