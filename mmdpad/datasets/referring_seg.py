# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO: one expression, one item."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator
from typing import Any

from mmdet.datasets import RefCocoDataset

from mmdpad.registry import DATASETS

from .errors import DatasetError, collecting, find_duplicates
from .images import probe_image
from .reasoning_dataset import ReasoningDataset
from .referring_annotation import Reference, parse_reference, read_instances, read_references
from .transforms.loading import check_segmentation, marks_pixels

TEXT_MODES = ('original', 'select_first')


@DATASETS.register_module()
class ReferringSegDataset(ReasoningDataset, RefCocoDataset):
    """mmdet's ``RefCocoDataset`` with one item per expression, in the order of the file.

    mmdet's class has one item per image, in the order of a set, and keeps only one of several
    references to an object. Here each question is one expression, as typed (``raw``). mmdet's
    configs and pipelines work unchanged: an item also has ``text`` (the lowercase expression, in a
    list) and ``instances`` (one per target object). mmdpad adds ``num_targets``, ``ref_id`` and
    ``ann_ids``. ``img_id`` is COCO's, ``texts`` are all expressions of the reference, and
    ``is_sentence`` is False (referring expressions are phrases).

    gRefCOCO (``split_file='grefcoco/grefs(unc).json'``) needs ``several_objects=True``: an
    expression may mean several objects, or none. As in its own reader, crowds among several
    objects are left out, and references without a sentence have no item.

    Everything that the split uses is checked when the data set is built: images by their headers,
    segmentations by their run lengths. Errors are: a duplicate id of a reference, image or
    annotation; a reference to a missing image or annotation, or to an annotation in another image;
    an image that is missing, unreadable or not of the size in ``ann_file``; a broken segmentation
    or polygons that mark no pixel (an RLE may mark none: it counts as no object); and an
    expression without text.

    Args:
        data_root: Folder that the other paths are relative to.
        data_prefix: ``img_path`` is the folder of images, such as COCO's ``train2014/``.
        ann_file: ``instances.json``.
        split_file: ``refs(*).p``, a pickle (of plain data; no code is run), or a ``.json``.
        split: RefCOCO, RefCOCO+ and gRefCOCO have train, val, testA and testB; RefCOCOg (umd)
            train, val and test; RefCOCOg (google) train and val.
        text_mode: 'original' asks each expression, 'select_first' the first of each reference (as
            in VisionReasoner's tables). mmdet's 'random' and 'concat' raise an error.
        **kwargs: See :class:`ReasoningDataset`.
    """

    def __init__(self, data_root: str, ann_file: str, split_file: str, data_prefix: dict,
                 split: str = 'train', text_mode: str = 'original', **kwargs: Any) -> None:
        check_text_mode(text_mode)
        super().__init__(data_root=data_root, ann_file=ann_file, split_file=split_file,
                         data_prefix=data_prefix, split=split, text_mode=text_mode, **kwargs)

    @property
    def where(self) -> str:
        return f'{self.split_file}, split {self.split}'

    def read_items(self) -> Iterator[dict | DatasetError]:
        """Yield items in the order of the file."""
        problems: list[DatasetError] = []
        with collecting(problems):
            entries = read_references(self.split_file)
        with collecting(problems):
            instances = read_instances(self.ann_file)
        if problems:
            yield from problems
            return
        of_split = [ref for ref in entries if ref['split'] == self.split]
        if not of_split:
            yield _no_split(self.split_file, self.split, {ref['split'] for ref in entries})
        refs: list[Reference] = []
        for entry in of_split:
            with collecting(problems):
                refs.append(parse_reference(entry, self.split_file))
        images = _select(instances['images'], {ref.image_id for ref in refs})
        annotations = _select(instances['annotations'], {i for ref in refs for i in ref.ann_ids})
        problems += self._find_duplicates(refs, images, annotations)
        image_of = {image['id']: image for image in images}
        annotation_of = {annotation['id']: annotation for annotation in annotations}
        sound: dict[int, dict] = {}  # images whose file has the stated size
        for image in images:
            with collecting(problems):
                self._check_image(image)
                sound[image['id']] = image
        empty: set[int] = set()  # ids of annotations that mark no pixel
        for annotation in annotations:
            with collecting(problems):
                if not self._check_mask(annotation, sound):
                    empty.add(annotation['id'])
        yield from problems
        for ref in refs:
            yield from (list(self._find_strangers(ref, image_of, annotation_of))
                        or self._make_items(ref, image_of, annotation_of, empty))

    def _find_duplicates(self, refs: list[Reference], images: list[dict],
                         annotations: list[dict]) -> Iterator[DatasetError]:
        for ids, name, where in (
            ((ref.ref_id for ref in refs), 'the `ref_id`', self.where),
            ((image['id'] for image in images), 'the image id', self.ann_file),
            ((annotation['id'] for annotation in annotations), 'the annotation id', self.ann_file)
        ):
            yield from find_duplicates(ids, name, where)

    def _check_image(self, image: dict) -> None:
        path = self._path_of(image)
        found, stated = probe_image(path, self.max_pixels), (image['height'], image['width'])
        if found != stated:
            raise DatasetError(f'{path} should be {stated[1]} x {stated[0]} pixels (width x '
                               f'height) as {self.ann_file} says, but is {found[1]} x {found[0]}; '
                               'use the original COCO image, not resized or rotated',
                               'wrong image size')

    def _check_mask(self, annotation: dict, sound: dict[int, dict]) -> bool:
        """Whether it marks a pixel; True if its image is not available."""
        image = sound.get(annotation['image_id'])
        return image is None or marks_pixels(check_segmentation(
            annotation['segmentation'], image['height'], image['width'],
            f'annotation {annotation["id"]} in {self.ann_file}'))

    def _find_strangers(self, ref: Reference, image_of: dict[int, dict],
                        annotation_of: dict[int, dict]) -> Iterator[DatasetError]:
        """Yield a problem for each id that does not exist or belongs to another image."""
        names = f'The reference {ref.ref_id} of {self.split_file} names'
        hint = f'in {self.ann_file}; use both files from one download'
        if ref.image_id not in image_of:
            yield DatasetError(f'{names} the image {ref.image_id}, which is not {hint}',
                               'unknown image')
        for i in ref.ann_ids:
            if i not in annotation_of:
                yield DatasetError(f'{names} the annotation {i}, which is not {hint}',
                                   'unknown annotation')
            elif (owner := annotation_of[i]['image_id']) != ref.image_id:
                yield DatasetError(f'{names} the annotation {i} in image {ref.image_id}, but it '
                                   f'belongs to image {owner} {hint}', 'wrong image')

    def _make_items(self, ref: Reference, image_of: dict[int, dict],
                    annotation_of: dict[int, dict],
                    empty: set[int]) -> Iterator[dict | DatasetError]:
        """Yield an item for each expression to ask."""
        meant = [annotation_of[i] for i in ref.ann_ids if i not in empty]
        meant = [item for item in meant if not item.get('iscrowd')] or meant
        asked = ref.texts[:1] if self.text_mode == 'select_first' else ref.texts
        for i, text in enumerate(asked):
            if not text.strip():
                yield DatasetError(
                    f'The expression {ref.sent_ids[i]} of {self.split_file} should contain text, '
                    f'but is {text!r}; write some, or remove it', 'empty question')
                continue
            yield dict(
                img_id=ref.image_id,
                img_path=self._path_of(image_of[ref.image_id]),
                texts=list(ref.texts),
                text_index=i,
                question=text,
                is_sentence=False,
                num_targets=len(meant),
                ref_id=ref.ref_id,
                ann_ids=[item['id'] for item in meant],
                text=[text.lower()],
                instances=[dict(mask=item['segmentation'], ignore_flag=0) for item in meant])

    def _path_of(self, image: dict) -> str:
        return osp.join(self.data_prefix['img_path'], image['file_name'])


def check_text_mode(text_mode: str) -> None:
    """Check the argument ``text_mode``.

    Raises:
        ValueError: It is not one of :data:`TEXT_MODES`.
    """
    if text_mode not in TEXT_MODES:
        raise ValueError(
            f'`text_mode` should be one of {TEXT_MODES}, but got {text_mode!r}; of mmdet\'s '
            "other modes, 'random' would ask different questions in each run, and 'concat' joins "
            'expressions into one that nobody wrote')


def _select(entries: list[dict], ids: set[int]) -> list[dict]:
    return [entry for entry in entries if entry['id'] in ids]


def _no_split(path: str, split: str, found: set[str]) -> DatasetError:
    return DatasetError(f'`split` should be one of {sorted(found)}, which {path} has, but got '
                        f'{split!r}', 'missing split')
