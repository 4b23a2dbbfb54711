# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Write ReasonSeg's folder layout (:class:`mmdpad.datasets.ReasonSegDataset`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmdpad.utils import to_jsonl, unique_name

from ..errors import DatasetError
from ..labelme_shapes import Polygon
from ..reason_seg import IMAGE_SUFFIXES
from ..reason_seg_annotation import draw_masks
from .image_files import ImageFiles, file_stem, image_suffix, write_image
from .polygons import polygons_from_mask
from .records import Record


class ReasonSegWriter:
    """Writes ``<split>/`` with an image and an annotation of the same name for each record.

    Masks become polygons, which are drawn again to verify that the masks stay the same. A record
    may have at most one object; images are always copied.
    """

    cannot_hold = ()

    def __init__(self, folder: Path, images: ImageFiles) -> None:
        self.folder = folder
        self._taken: dict[str, set[str]] = {}

    def write(self, record: Record, split: str) -> None:
        """Raises:
            DatasetError: The format cannot express the record.
        """
        polygons = _draw_again(record)
        suffix = image_suffix(record.image)
        if suffix not in IMAGE_SUFFIXES:
            raise DatasetError(
                f'The image of {record.where} should be one of {", ".join(IMAGE_SUFFIXES)} in '
                f'ReasonSeg\'s layout, but is {suffix or "without suffix"}; save it as one of '
                'them, or choose another format', 'image format')
        stem = unique_name(file_stem(record.id), self._taken.setdefault(split, set()))
        image_path = self.folder / split / f'{stem}{suffix}'
        write_image(record.image, image_path)
        shapes = [
            dict(label=label, labels=[label], shape_type='polygon', image_name=image_path.name,
                 points=polygon.points, group_id=None)
            for polygon in polygons for label in ['ignore' if polygon.is_ignored else 'target']
        ]
        annotation = dict(text=record.texts, is_sentence=bool(record.is_sentence), shapes=shapes,
                          **record.extras)
        image_path.with_suffix('.json').write_bytes(to_jsonl([annotation]))

    def close(self) -> None:
        """Nothing is left to write."""


def _draw_again(record: Record) -> list[Polygon]:
    """The polygons of a record's masks.

    Raises:
        DatasetError: Drawing them does not reproduce the masks.
    """
    wanted = (record.only_mask('ReasonSeg\'s layout'), record.ignore)
    polygons = [Polygon(points, bool(is_ignored)) for is_ignored, mask in enumerate(wanted)
                for points in polygons_from_mask(mask)]
    drawn = draw_masks(polygons, *record.ignore.shape)
    if not all(np.array_equal(*pair) for pair in zip(drawn, wanted, strict=True)):
        iou = (drawn[0] & wanted[0]).sum() / (drawn[0] | wanted[0]).sum()
        raise DatasetError(f'The mask of {record.where} cannot be converted to polygons exactly: '
                           f'they would have IoU {iou:.4f} with it; choose another format',
                           'inexact mask')
    return polygons
