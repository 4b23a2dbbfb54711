# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Detection data whose classes only their own file knows, as Roboflow exports them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO

from mmdpad.geometry.masks import is_coordinate
from mmdpad.registry import DATASETS

from .annotation_fields import are_numbers, read_json, wrong_field
from .errors import DatasetError, find_duplicates

_ID = (lambda value: isinstance(value, (int, str)), 'a number or a text')
_TEXT = (lambda value: isinstance(value, str) and bool(value.strip()), 'a text')
_SIDE = (lambda value: is_coordinate(value) and value > 0, 'a number of pixels')
# Lists of a file -> fields of their entries -> whether a value is right, and what it should be.
_FIELDS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = dict(
    images=dict(id=_ID, file_name=_TEXT, height=_SIDE, width=_SIDE),
    annotations=dict(
        id=_ID, image_id=_ID, category_id=_ID,
        bbox=(lambda value: are_numbers(value, 4), '[x, y, width, height]'),
        area=(lambda value: value is None or isinstance(value, (int, float)),
              'a number, or missing')),
    categories=dict(id=_ID, name=_TEXT))


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
    - A category without annotations that only others have as their ``supercategory`` is none:
      Roboflow writes the name of the project as category 0.
    - Categories of the same name are one class. (They have several labels in mmdet.)
    - An annotation without ``area`` has that of its box, and one without ``iscrowd`` is no crowd.

    An image without annotations is a question without a target.

    Args:
        **kwargs: As in mmdet: ``ann_file``, ``data_root``, ``data_prefix=dict(img=FOLDER)``.

    Raises:
        DatasetError: Lists malformed entries, ids that repeat, and annotations with an unknown
            category or image.
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
    for name in _FIELDS:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise wrong_field(path, name, "a list, as in COCO's instances", None)
    problems: list[DatasetError] = []
    for name, fields in _FIELDS.items():
        for number, entry in enumerate(content[name]):
            where = f'{path}, {name}[{number}]'
            if isinstance(entry, dict):
                problems += [wrong_field(where, key, wanted, entry.get(key))
                             for key, (is_right, wanted) in fields.items()
                             if not is_right(entry.get(key))]
            else:
                problems.append(wrong_field(path, f'{name}[{number}]', 'a dict', entry))
    if problems:
        raise DatasetError.listing(path, problems)
    ids = {name: [entry['id'] for entry in content[name]] for name in _FIELDS}
    for name, numbers in ids.items():
        problems += find_duplicates(numbers, f'the id of {name}', path)
    for key, known in (('category_id', {*ids['categories']}), ('image_id', {*ids['images']})):
        problems += [wrong_field(f'{path}, annotation {annotation["id"]}', key,
                                 f"one of the file's {key[:-3]} ids", annotation[key])
                     for annotation in content['annotations'] if annotation[key] not in known]
    if problems:
        raise DatasetError.listing(path, problems)


def class_names(content: Mapping[str, Any]) -> list[str]:
    """The classes of a file, see :class:`RoboflowDataset`: each name once, in the file's order."""
    used = {annotation['category_id'] for annotation in content['annotations']}
    parents = [category.get('supercategory') for category in content['categories']]
    kept = {category['name'] for category, parent in zip(content['categories'], parents,
                                                         strict=True)
            if category['id'] in used or parent == category['name']
            or category['name'] not in parents}
    return [name for name in dict.fromkeys(category['name'] for category in content['categories'])
            if name in kept]


def merge_categories(content: dict[str, Any]) -> bool:
    """Give all annotations with categories of the same name the first of these, in place, each
    annotation without ``area`` that of its box, and each without ``iscrowd`` a 0.

    Returns:
        Whether categories were merged, so that an index of them is out of date.
    """
    first: dict[str, Any] = {}
    same = {category['id']: first.setdefault(category['name'], category['id'])
            for category in content.get('categories', ())}
    content['categories'] = [category for category in content.get('categories', ())
                             if same[category['id']] == category['id']]
    for annotation in content.get('annotations', ()):
        annotation['category_id'] = same.get(annotation['category_id'], annotation['category_id'])
        annotation.setdefault('iscrowd', 0)
        if annotation.get('area') is None and 'bbox' in annotation:
            annotation['area'] = annotation['bbox'][2] * annotation['bbox'][3]
    return len(first) < len(same)
