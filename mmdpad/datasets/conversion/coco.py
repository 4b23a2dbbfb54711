# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Write COCO instances with RefCOCO's or gRefCOCO's references."""

from __future__ import annotations

import json
from pathlib import Path

from pycocotools import mask as coco_mask

from mmdpad.geometry.masks import checked_rle, encode_mask

from ..referring_annotation import NO_TARGET
from .image_files import ImageFiles
from .records import OPTIONAL_FIELDS, Record

CATEGORY = dict(id=1, name='object', supercategory='object')


class CocoWriter:
    """Writes ``instances.json`` and ``refs.json``, which contain all splits.

    Masks are RLE. An object shared by several records of an image is written once. If every record
    has exactly one object, the references have RefCOCO's form (``ann_id`` is a number); otherwise
    they have gRefCOCO's (``ann_id`` is a list, [-1] for no target, and there is ``no_target``).
    """

    cannot_hold = OPTIONAL_FIELDS

    def __init__(self, folder: Path, images: ImageFiles) -> None:
        self.folder = folder
        self.images = images
        self._images: dict[str, dict] = {}
        self._annotations: dict[tuple[int, str], dict] = {}
        self._refs: list[dict] = []
        self._sentences = 0

    def write(self, record: Record, split: str) -> None:
        name = self.images.add(record.image, record.id)
        height, width = record.ignore.shape
        image = self._images.setdefault(name, dict(
            id=len(self._images) + 1, file_name=name, height=height, width=width))
        annotations = [self._annotate(image['id'], encode_mask(mask)) for mask in record.masks]
        self._refs.append(dict(
            ref_id=len(self._refs) + 1, image_id=image['id'], split=split, file_name=name,
            ann_id=annotations, sent_ids=[self._sentences + i for i in range(len(record.texts))],
            sentences=[dict(raw=text, sent=text, sent_id=self._sentences + i, tokens=text.split())
                       for i, text in enumerate(record.texts)]))
        self._sentences += len(record.texts)

    def _annotate(self, image_id: int, rle: dict) -> int:
        """The id of a mask's annotation, which is added if it is new."""
        key = image_id, rle['counts']
        if key not in self._annotations:
            packed = checked_rle(rle)
            self._annotations[key] = dict(
                id=len(self._annotations) + 1, image_id=image_id, category_id=CATEGORY['id'],
                segmentation=rle, area=int(coco_mask.area(packed)),
                bbox=coco_mask.toBbox(packed).tolist(), iscrowd=0)
        return self._annotations[key]['id']

    def close(self) -> None:
        """Write both files."""
        instances = dict(info=dict(description='Written by mmdpad'), licenses=[],
                         images=list(self._images.values()),
                         annotations=list(self._annotations.values()), categories=[CATEGORY])
        is_simple = all(len(ref['ann_id']) == 1 for ref in self._refs)
        refs = [_simple_ref(ref) if is_simple else _general_ref(ref) for ref in self._refs]
        for name, content in (('instances', instances), ('refs', refs)):
            (self.folder / f'{name}.json').write_text(
                json.dumps(content, ensure_ascii=False), encoding='utf-8')


def _simple_ref(ref: dict) -> dict:
    return dict(ref, ann_id=ref['ann_id'][0], category_id=CATEGORY['id'])


def _general_ref(ref: dict) -> dict:
    objects = ref['ann_id']
    return dict(ref, ann_id=objects or [NO_TARGET], no_target=not objects,
                category_id=[CATEGORY['id']] * len(objects) or [NO_TARGET])
