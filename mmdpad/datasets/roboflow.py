# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Detection data whose classes only their own file knows, as Roboflow exports them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO

from mmdpad.registry import DATASETS

from .annotation_fields import are_numbers, read_json, wrong_field
from .errors import DatasetError, collecting


class _MergedCOCO(COCO):
    """COCO's API of a file after :func:`merge_categories`."""

    def createIndex(self) -> None:
        merge_categories(self.dataset)
        super().createIndex()


@DATASETS.register_module()
class RoboflowDataset(CocoDataset):
    """mmdet's ``CocoDataset`` with the classes that a file has, for Roboflow's exports in COCO's
    format and the data sets of ODinW, which are such exports.

    ``CocoDataset`` keeps the categories that ``metainfo`` names, by default COCO's 80, and leaves
    out all others without a word. Here:

    - All categories of the file are classes, in its order, unless ``metainfo`` names some of them;
      a name that the file does not have is an error.
    - A category without annotations that others have as their ``supercategory`` is none: Roboflow
      writes the name of the project as category 0.
    - Categories of the same name are one class. (They have several labels in mmdet.)
    - An annotation without ``area`` has that of its box.

    An image without annotations is a question without a target.

    Args:
        **kwargs: As in mmdet: ``ann_file``, ``data_root``, ``data_prefix=dict(img=FOLDER)``.

    Raises:
        DatasetError: Lists annotations with an unknown category or a malformed box.
    """

    METAINFO: dict = {}
    COCOAPI = _MergedCOCO

    def load_data_list(self) -> list[dict]:
        """See mmdet's."""
        content = read_json(self.ann_file)
        check_detections(content, self.ann_file)
        found = class_names(content)
        wanted = list(self._metainfo.get('classes') or found)
        if missing := [name for name in wanted if name not in found]:
            raise DatasetError(
                f'`metainfo.classes` should name categories of {self.ann_file}, but it has no '
                f'{", ".join(map(repr, missing))}; its classes are '
                f'{", ".join(map(repr, found))}', 'wrong classes')
        self._metainfo['classes'] = tuple(name for name in found if name in wanted)
        items = super().load_data_list()
        labels = {name: label for label, name in enumerate(self._metainfo['classes'])}
        self.cat2label = {category['id']: labels[category['name']]
                          for category in content['categories'] if category['name'] in labels}
        return items


def check_detections(content: Any, path: str) -> None:
    """Check the parts of a file in COCO's format that a detector needs.

    Raises:
        DatasetError: Lists every problem.
    """
    for name in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise wrong_field(path, name, "a list, as in COCO's instances", None)
    problems: list[DatasetError] = []
    with collecting(problems):
        if not all(isinstance(category, dict) and isinstance(category.get('name'), str)
                   and 'id' in category for category in content['categories']):
            raise wrong_field(path, 'categories', 'dicts with `id` and `name`',
                              content['categories'])
        known = {category['id'] for category in content['categories']}
        images = {image.get('id') for image in content['images']}
        for number, annotation in enumerate(content['annotations']):
            where = f'{path}, annotation {annotation.get("id", f"number {number}")}'
            with collecting(problems):
                if not are_numbers(annotation.get('bbox'), 4):
                    raise wrong_field(where, 'bbox', '[x, y, width, height]',
                                      annotation.get('bbox'))
                for name, ids in (('category_id', known), ('image_id', images)):
                    if annotation.get(name) not in ids:
                        raise wrong_field(where, name, f'one of the file\'s {name[:-3]} ids',
                                          annotation.get(name))
    if problems:
        raise DatasetError.listing(path, problems)


def class_names(content: Mapping[str, Any]) -> list[str]:
    """The classes of a file, see :class:`RoboflowDataset`: each name once, in the file's order."""
    counts = Counter(annotation['category_id'] for annotation in content['annotations'])
    parents = {category.get('supercategory') for category in content['categories']}
    kept = {category['name'] for category in content['categories']
            if counts[category['id']] or category['name'] not in parents}
    return [name for name in dict.fromkeys(category['name'] for category in content['categories'])
            if name in kept]


def merge_categories(content: dict[str, Any]) -> None:
    """Give all annotations with categories of the same name the first of these, in place, and each
    annotation without ``area`` that of its box."""
    first: dict[str, Any] = {}
    same = {category['id']: first.setdefault(category['name'], category['id'])
            for category in content.get('categories', ())}
    content['categories'] = [category for category in content.get('categories', ())
                             if same[category['id']] == category['id']]
    for annotation in content.get('annotations', ()):
        annotation['category_id'] = same.get(annotation['category_id'], annotation['category_id'])
        if 'area' not in annotation and 'bbox' in annotation:
            annotation['area'] = annotation['bbox'][2] * annotation['bbox'][3]
