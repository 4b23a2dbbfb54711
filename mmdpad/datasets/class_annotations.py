# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What is known about the classes of an mmdet data set, beyond what its items say."""

from __future__ import annotations

import logging
import os.path as osp
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.fileio import load
from mmengine.logging import print_log

from mmdpad.geometry.boxes import overlaps
from mmdpad.utils import read_jsonl

from .errors import SHOWN, DatasetError, find_duplicates

# Their images say only of some classes that they are absent.
_PARTLY_ANNOTATED = ('OpenImagesDataset', )
Labels = frozenset[int]


@dataclass
class ClassAnnotations:
    """The classes of a data set, and which of them an image is known not to have.

    mmdet's items have the usable instances only. LVIS' lists of absent classes, and annotations
    that mmdet leaves out because their box is too small or outside the image, are read from the
    file: a class with such an annotation is not absent.

    Attributes:
        names: Name of each label; empty for visual grounding, where each image has phrases instead.
        counts: Label -> number of annotations.
        crowds: Whether ignored instances are crowds, as in COCO, or difficult objects, as in VOC.
        left_out: Id of an image (its path where it has none) -> labels of annotations that mmdet
            may leave out.
        federated: Id of an image -> the labels that it is known not to have, and those of which not
            every instance is marked; None if an image lacks every class without annotation.
        tree: Label -> labels of the classes above and below it, which an instance may have as well.
    """

    names: Sequence[str]
    counts: Counter[int] = field(default_factory=Counter)
    crowds: bool = False
    left_out: dict[Any, set[int]] = field(default_factory=dict)
    federated: dict[Any, tuple[Labels, Labels]] | None = None
    tree: dict[int, set[int]] = field(default_factory=dict)

    def not_exhaustive(self, image: Any) -> Labels:
        """The labels of which not every instance in an image is marked."""
        return (self.federated or {}).get(image, (frozenset(), frozenset()))[1]

    def absent(self, image: Any, present: Iterable[int]) -> list[int]:
        """The labels that an image is known not to have, in order.

        Args:
            image: Id of the image.
            present: Labels of its instances.
        """
        taken = {*present, *self.left_out.get(image, ()), *self.not_exhaustive(image)}
        taken.update(*(self.tree.get(label, ()) for label in tuple(taken)))
        known: Iterable[int] = (range(len(self.names)) if self.federated is None else
                                sorted(self.federated.get(image, ((), ()))[0]))
        return [label for label in known if label not in taken]


def label_names(dataset: BaseDataset, content: Mapping[str, Any] | None = None
                ) -> Sequence[str] | None:
    """The names of a data set's labels, in order; None if it has none.

    mmdet numbers COCO categories in the order of the file, and only those that the file has, so a
    label need not be the index of its name in ``metainfo['classes']``.

    Args:
        dataset: A data set of mmdet.
        content: Of its annotation file, if that was read already.
    """
    if not hasattr(dataset, 'cat_ids'):
        return dataset.metainfo.get('classes')
    categories = (content or load(dataset.ann_file))['categories']
    names = {category['id']: category['name'] for category in categories}
    return [names[number] for number in dataset.cat_ids]


def read_class_annotations(dataset: BaseDataset, tree_file: str | None = None
                           ) -> ClassAnnotations:
    """Read what is known about the classes of a data set of mmdet, from its file where it has more
    than the items.

    Args:
        dataset: In COCO's form (``CocoDataset``, ``LVISV1Dataset``, ``V3DetDataset``,
            ``Objects365V1Dataset`` ...), an ``ODVGDataset``, or any other with ``classes``.
        tree_file: V3Det's category tree, see :func:`read_tree`.

    Raises:
        DatasetError: Ids of images or categories repeat, or the classes have no names.
    """
    if hasattr(dataset, 'cat_ids'):
        return _from_coco(dataset, tree_file)
    if getattr(dataset, 'dataset_mode', None) == 'VG':
        return ClassAnnotations(())
    if hasattr(dataset, 'label_map'):
        names = _label_map(dataset)
        counts = Counter[int]()
        left_out: dict[Any, set[int]] = {}
        for line in read_jsonl(dataset.ann_file):
            labels = [int(item['label']) for item in line.get('detection', {}).get('instances', ())]
            counts.update(labels)
            path = osp.join(dataset.data_prefix['img'], line['filename'])
            left_out.setdefault(path, set()).update(labels)
        return ClassAnnotations(names, counts, left_out=left_out)
    found = label_names(dataset)
    if not found:
        raise DatasetError(
            f'{type(dataset).__name__} should have names of its classes; set '
            '`metainfo=dict(classes=(...))` of the source', 'missing key')
    counts = Counter(instance['bbox_label'] for number in range(len(dataset))
                     for instance in dataset.get_data_info(number).get('instances', ()))
    partly = any(base.__name__ in _PARTLY_ANNOTATED for base in type(dataset).__mro__)
    return ClassAnnotations(found, counts, federated={} if partly else None)


def _from_coco(dataset: BaseDataset, tree_file: str | None) -> ClassAnnotations:
    content = load(dataset.ann_file)
    problems = [problem for kind in ('images', 'categories') for problem in find_duplicates(
        (entry['id'] for entry in content[kind]), f'the id of {kind}', dataset.ann_file)]
    if problems:
        raise DatasetError.listing(dataset.ann_file, problems)
    labels, sizes = dataset.cat2label, {image['id']: image for image in content['images']}
    found = ClassAnnotations(label_names(dataset, content) or (), crowds=True)
    dropped: list[Any] = []
    for annotation in content['annotations']:
        label = labels.get(annotation['category_id'])
        if label is None:
            continue
        found.counts[label] += 1
        if reason := _why_left_out(annotation, sizes[annotation['image_id']]):
            found.left_out.setdefault(annotation['image_id'], set()).add(label)
            dropped.append((annotation['id'], reason))
    if dropped:
        shown = ', '.join(f'{number} ({reason})' for number, reason in dropped[:SHOWN])
        print_log(f'{len(dropped)} annotation(s) of {dataset.ann_file} are left out, as always in '
                  f'mmdet: {shown}{", ..." if len(dropped) > SHOWN else ""}', logger='current',
                  level=logging.WARNING)
    if any('neg_category_ids' in image for image in content['images']):
        found.federated = {image['id']: tuple(
            frozenset(labels[number] for number in image.get(key, ()) if number in labels)
            for key in ('neg_category_ids', 'not_exhaustive_category_ids'))  # type: ignore[misc]
            for image in content['images']}
    if tree_file is not None:
        found.tree = read_tree(tree_file, labels)
    return found


def _why_left_out(annotation: Mapping[str, Any], image: Mapping[str, Any]) -> str | None:
    """Why mmdet's ``CocoDataset`` leaves an annotation out; None if it does not."""
    x, y, width, height = annotation['bbox']
    if annotation.get('ignore'):
        return 'ignored'
    area = annotation.get('area')
    area = width * height if area is None else area
    if width < 1 or height < 1 or area <= 0:
        return f'box of {width:g} x {height:g} pixels, area {area:g}'
    if not overlaps((x, y, x + width, y + height), (image['height'], image['width'])):
        return 'outside the image'
    return None


def read_tree(path: str, labels: Mapping[int, int]) -> dict[int, set[int]]:
    """Read V3Det's category tree (``v3det_2023_v1_category_tree.json``), which mmdet does not.

    Args:
        path: A JSON file with ``categoryid2treeid``, from the id of a category to that of its node,
            and ``ancestor2descendant``, from the id of a node to those of all nodes below it.
        labels: Id of a category -> its label.

    Returns:
        Label -> labels of all classes above and below it.

    Raises:
        DatasetError: The file lacks one of the two.
    """
    content = load(path)
    try:
        nodes = {node: labels[int(number)] for number, node in content['categoryid2treeid'].items()
                 if int(number) in labels}
        below = content['ancestor2descendant'].items()
    except KeyError as error:
        raise DatasetError(f'{path} should be a category tree with `categoryid2treeid` and '
                           f'`ancestor2descendant`, but lacks {error}; name the one of V3Det',
                           'wrong tree') from error
    related: dict[int, set[int]] = {}
    for upper, lower in below:
        for node in lower:
            if upper in nodes and node in nodes:
                related.setdefault(nodes[upper], set()).add(nodes[node])
                related.setdefault(nodes[node], set()).add(nodes[upper])
    return related


def _label_map(dataset: BaseDataset) -> list[str]:
    """The names of an ``ODVGDataset`` for detection, whose labels are texts from '0'."""
    names = dataset.label_map
    missing = [label for label in map(str, range(len(names))) if label not in names]
    if missing:
        raise DatasetError(f'The label map of {dataset.ann_file} should have the labels 0 to '
                           f'{len(names) - 1}, but lacks {", ".join(missing[:SHOWN])}; number the '
                           'classes from 0', 'wrong label map')
    return [names[str(label)] for label in range(len(names))]
