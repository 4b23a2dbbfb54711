# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""mmdpad's own format: JSON lines, each with one target and the questions about it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmdpad.registry import DATASETS

from .annotation_fields import (
    SEVERAL_IMAGES,
    are_texts,
    ask_texts,
    check_inside,
    check_questions,
    check_texts_mode,
    parse_answer,
    parse_boxes,
    read_text,
    wrong_field,
)
from .errors import DatasetError, collecting, find_duplicates
from .images import probe_image
from .reasoning_dataset import ReasoningDataset
from .transforms.loading import check_segmentation, marks_pixels


def _is_side(value: Any) -> bool:
    return type(value) is int and value > 0


# Field: (whether it is required, a check of its form, and that form in words).
FIELDS = {
    'id': (True, lambda v: type(v) is int or (isinstance(v, str) and v != ''),
           'a string that is not empty, or an integer'),
    'image': (True, lambda v: isinstance(v, str) and v != '', 'the path of an image'),
    'texts': (True, are_texts, 'a list of at least one string'),
    'objects': (True, lambda v: isinstance(v, list), 'a list of segmentations, one per object'),
    'ignore': (False, lambda v: isinstance(v, list), 'a list of segmentations'),
    'is_sentence': (False, lambda v: isinstance(v, bool), 'true or false'),
    'task': (False, lambda v: isinstance(v, str) and v != '', 'the name of a task'),
    'height': (False, _is_side, 'the height of the image in pixels, a positive integer'),
    'width': (False, _is_side, 'the width of the image in pixels, a positive integer'),
}

# Of a line with a complete response to train on.
_TARGET_FIELDS = FIELDS | dict(objects=(False, *FIELDS['objects'][1:]))


@DATASETS.register_module()
class JsonLinesDataset(ReasoningDataset):
    """A file of JSON lines, as described in docs/data.md and written by the converter.

    A line is an object with ``id``, ``image``, ``texts`` (questions about one target) and
    ``objects`` (COCO segmentations, one per target object, [] for no target), which a line with a
    ``response`` may leave out in supervised training. Optional fields are
    ``is_sentence`` (None if missing), ``ignore`` (segmentations of regions that the evaluation
    leaves out), ``task`` (before that of the data set), ``height`` and ``width`` of the image, and
    those of :mod:`.annotation_fields`.
    Other keys and empty lines are ignored.

    An item also has ``ann_path`` (file and line, for messages), ``instances`` for the transform
    ``LoadInstanceMasks``, ``num_targets`` (not without ``objects``), and the optional fields of the
    line.

    Lines, masks and image headers are checked when the data set is built; pixels are decoded
    later. Errors are: a line that is not an object, a missing or malformed field, a duplicate id,
    a missing or unreadable image, an image size that differs from the one in the line, an empty
    question, a mask that is broken or has another size than its image, and polygons that mark no
    pixel of the image. (An RLE may mark none: it counts as no object.)

    Args:
        ann_file: The file; a relative path is relative to ``data_root``, if that is given.
        data_root: See ``ann_file``.
        data_prefix: ``dict(img_path=FOLDER)``, also relative to ``data_root``: the folder that
            image paths are relative to. The default is the folder of ``ann_file``.
        texts: ``'first'`` asks the first text of each line, ``'all'`` makes one item per text.
        **kwargs: See :class:`ReasoningDataset`.
    """

    def __init__(self, ann_file: str, data_root: str = '', data_prefix: dict | None = None,
                 texts: str = 'first', **kwargs: Any) -> None:
        self.texts = check_texts_mode(texts)
        super().__init__(ann_file=str(ann_file), data_root=str(data_root),
                         data_prefix=data_prefix or {}, **kwargs)

    @property
    def where(self) -> str:
        return self.ann_file

    def read_items(self) -> Iterator[dict | DatasetError]:
        """Yield items in the order of lines; each image is read only once."""
        lines: dict[str, dict] = {}
        for where, line in read_lines(self.ann_file):
            is_target = not self.test_mode and isinstance(line, dict) and 'response' in line
            faults = find_malformed(line, where, _TARGET_FIELDS if is_target else FIELDS)
            yield from faults
            if not faults:
                lines[where] = line
        yield from find_duplicates((line['id'] for line in lines.values()), 'the id', self.where)
        sizes: dict[str, tuple[int, int] | None] = {}
        for where, line in lines.items():
            image = self._image_path(line)
            if image not in sizes:
                try:
                    sizes[image] = probe_image(image, self.max_pixels)
                except DatasetError as error:
                    sizes[image] = None
                    yield error
            yield from self._make_items(line, where, sizes[image])

    def _image_path(self, line: dict) -> str:
        folder = self.data_prefix.get('img_path', Path(self.ann_file).parent)
        return str(Path(folder) / line['image'])

    def _make_items(self, line: dict, where: str,
                    size: tuple[int, int] | None) -> Iterator[dict | DatasetError]:
        """Yield the items of a well-formed line, or all problems with it. ``size`` is the (height,
        width) of its image; None if the image cannot be read."""
        problems: list[DatasetError] = []
        stated = (line.get('height'), line.get('width'))
        if size and any(side not in (None, real) for side, real in zip(stated, size, strict=True)):
            problems.append(DatasetError(
                f'{where} states height and width {stated}, but its image {line["image"]} has '
                f'{size}; correct the line, or use the right image', 'wrong size'))
        with collecting(problems):
            check_questions(line['texts'], 'texts', where)
        optional: dict[str, Any] = {key: line[key] for key in ('task', ) if key in line}
        with collecting(problems):
            optional.update(parse_answer(where, line))
        with collecting(problems):
            boxes = parse_boxes(where, line)
            if boxes is not None:
                optional['other_boxes'] = boxes
                if size:
                    check_inside(boxes, where, *size)
        instances = []
        for flag, field in enumerate(('objects', 'ignore')):
            for i, segmentation in enumerate(line.get(field, [])):
                if size:
                    with collecting(problems):
                        if marks_pixels(check_segmentation(segmentation, *size,
                                                           f'{where}, `{field}[{i}]`')):
                            instances.append(dict(mask=segmentation, ignore_flag=flag))
        item = dict(
            img_id=line['id'],
            img_path=self._image_path(line),
            ann_path=where,
            is_sentence=line.get('is_sentence'),
            instances=instances,
            **optional)
        if 'objects' in line:
            item['num_targets'] = sum(not instance['ignore_flag'] for instance in instances)
        yield from problems
        if size and not problems:
            yield from ask_texts(item, line['texts'], self.texts)


def read_lines(ann_file: str) -> Iterator[tuple[str, Any]]:
    """Yield the location and the content of each line of a file; the content is None if it is not
    JSON.

    Raises:
        DatasetError: The file does not exist.
    """
    path = Path(ann_file)
    if not path.is_file():
        found = ', '.join(sorted(p.name for p in path.parent.glob('*.jsonl'))) or 'none'
        raise DatasetError(f'`ann_file` should be a file of JSON lines, but {path} is not a '
                           f'file; *.jsonl in its folder: {found}', 'missing split')
    # Only \n ends a line: texts may contain other characters that `splitlines` splits at.
    for number, text in enumerate(read_text(path).split('\n'), start=1):
        if text.strip():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                line = None
            yield f'{path}, line {number}', line


def find_malformed(line: Any, where: str,
                   fields: Mapping[str, tuple[bool, Any, str]]) -> list[DatasetError]:
    """The problems with the form of a line's fields, see :data:`FIELDS`."""
    if not isinstance(line, dict):
        return [DatasetError(f'{where} should be a JSON object on one line, but cannot be read as '
                             'one; correct or remove it', 'unreadable line')]
    missing, problems = [], []
    for name, (is_needed, is_right, wanted) in fields.items():
        if name not in line:
            missing += [f'`{name}`'] * is_needed
        elif name == 'image' and isinstance(line[name], list) and len(line[name]) > 1:
            problems.append(DatasetError(f'`image` of {where} has {len(line[name])} images; '
                                         f'{SEVERAL_IMAGES}', 'several images'))
        elif not is_right(line[name]):
            problems.append(wrong_field(where, name, wanted, line[name]))
    if missing:
        problems.append(DatasetError(f'{where} lacks {", ".join(missing)}; add it, or remove the '
                                     'line', 'missing key'))
    return problems
