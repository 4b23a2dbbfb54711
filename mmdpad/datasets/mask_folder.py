# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Custom images, mask images and questions, as exported from an annotation tool."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmdpad.geometry.masks import encode_mask
from mmdpad.registry import DATASETS
from mmdpad.utils import unique_name

from .annotation_fields import (
    ask_texts,
    check_question,
    check_texts_mode,
    read_json,
    read_text,
    wrong_field,
)
from .errors import DatasetError
from .images import probe_image
from .mask_images import read_mask_image
from .reasoning_dataset import ReasoningDataset

_WHOLE = -1
_TRUTH = {'': None, 'false': False, '0': False, 'true': True, '1': True}


@DATASETS.register_module()
class MaskFolderDataset(ReasoningDataset):
    """A folder of images, a folder of masks (PNG) and a table of questions.

    The table is a CSV file with a header, or a JSON list of objects. Its columns are ``image`` (a
    file name in the image folder), ``question`` and optionally ``is_sentence`` (true or false,
    None if empty) and ``mask`` (the mask's name without ``.png``; by default the image's name).
    Rows with the same image, mask and ``is_sentence`` become one item with several texts.

    The mask of ``cat.jpg`` is ``cat.png``, or one mask per object: ``cat_1.png``, ``cat_2.png``,
    ... Masks have the size of the image after its EXIF rotation. Black (0) is background,
    everything else is the object; :mod:`.mask_images` defines what that means for palettes,
    transparency and soft edges, and rejects ambiguous masks. An empty mask means "no target".

    Items are like those of :class:`.JsonLinesDataset`, with masks in ``instances``.

    All masks and image headers are read when the data set is built. Errors are: an unreadable
    table, an empty question, a missing or unreadable image or mask, a mask of another size than
    its image, an ambiguous mask, and a mask that could belong to two names.

    Args:
        data_root: The folder that the other paths are relative to.
        data_prefix: The folders, ``dict(img_path=..., mask_path=...)``.
        ann_file: The table.
        index_masks: The values of a mask (the indices of a palette image) number its objects.
        texts: ``'first'`` asks the first text of each item, ``'all'`` makes one item per text.
        **kwargs: See :class:`ReasoningDataset`.
    """

    def __init__(self, data_root: str, data_prefix: dict | None = None,
                 ann_file: str = 'questions.csv', index_masks: bool = False, texts: str = 'first',
                 **kwargs: Any) -> None:
        self.index_masks = index_masks
        self.texts = check_texts_mode(texts)
        prefix = dict(img_path='images', mask_path='masks') | (data_prefix or {})
        super().__init__(data_root=str(data_root), data_prefix=prefix, ann_file=str(ann_file),
                         **kwargs)

    @property
    def where(self) -> str:
        return self.ann_file

    def read_items(self) -> Iterator[dict | DatasetError]:
        """Yield items in the order of the table."""
        masks = _list_masks(Path(self.data_prefix['mask_path']))
        groups: dict[tuple, list[str]] = defaultdict(list)
        for where, row in _read_table(Path(self.ann_file)):
            try:
                key, question = _parse_row(row, where)
            except DatasetError as error:
                yield error
            else:
                groups[key].append(question)
        names = {mask for _, mask, _ in groups}
        taken: set[str] = set()
        for (image, mask, is_sentence), texts in groups.items():
            try:
                item = self._make_item(image, mask, masks, names)
            except DatasetError as error:
                yield error
                continue
            item.update(img_id=unique_name(mask, taken), is_sentence=is_sentence)
            yield from ask_texts(item, texts, self.texts)

    def _make_item(self, image: str, mask: str, masks: dict[str, list[tuple[int, Path]]],
                   names: set[str]) -> dict:
        """The fields of an item that concern its image and masks."""
        path = Path(self.data_prefix['img_path']) / image
        height, width = probe_image(path, self.max_pixels)
        found = sorted(masks.get(mask, []))
        whole = [file for number, file in found if number == _WHOLE]
        files = whole or [file for _, file in found]
        if not files:
            raise DatasetError(
                f'{path} has no mask {mask}.png or {mask}_1.png in '
                f'{self.data_prefix["mask_path"]}; add it (all background if there is no target), '
                'or remove the question', 'missing mask')
        for file in files:
            if file.stem != mask and file.stem in names:
                raise DatasetError(
                    f'{file} could belong to {mask!r} or to {file.stem!r}; rename it and its '
                    'image, or name masks in the column `mask`', 'ambiguous mask')
        instances = [instance for file in files
                     for instance in self._read_instances(file, height, width)]
        return dict(img_path=str(path), instances=instances,
                    num_targets=sum(not instance['ignore_flag'] for instance in instances))

    def _read_instances(self, path: Path, height: int, width: int) -> Iterator[dict]:
        """The objects of a mask file, and its void pixels as an ignored one."""
        mask = read_mask_image(path, height, width, self.index_masks, self.max_pixels)
        for pixels in mask.objects() if self.index_masks else [mask.marked]:
            if pixels.any():
                yield dict(mask=encode_mask(pixels), ignore_flag=0)
        if mask.void.any():
            yield dict(mask=encode_mask(mask.void), ignore_flag=1)


def _list_masks(folder: Path) -> dict[str, list[tuple[int, Path]]]:
    """Mask files with their number, by name: ``a_2.png`` is number 2 of ``a``, and the only mask
    of ``a_2``."""
    masks: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for path in sorted(folder.glob('*.[pP][nN][gG]')):
        masks[path.stem].append((_WHOLE, path))
        if numbered := re.fullmatch(r'(.+)_(\d+)', path.stem):
            masks[numbered[1]].append((int(numbered[2]), path))
    return masks


def _read_table(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the location and the content of each row."""
    if not path.is_file():
        raise DatasetError(f'`ann_file` should be a table of questions (.csv or .json), but {path} '
                           'is not a file; correct the path', 'missing file')
    if path.suffix.lower() == '.json':
        rows = read_json(path)
        if not isinstance(rows, list):
            raise wrong_field(path, 'content', 'a list of objects', rows)
        yield from ((f'{path}, entry {i}', row) for i, row in enumerate(rows))
        return
    text = read_text(path)
    # Strict, because an unclosed quote would swallow all rows that follow.
    table = csv.DictReader(io.StringIO(text, newline=''), restval='', strict=True)
    try:
        missing = {'image', 'question'} - set(table.fieldnames or ())
        if missing:
            raise DatasetError(
                f'{path} lacks the column(s) {", ".join(sorted(missing))}; its first line should '
                'be image,question or image,question,is_sentence, but is '
                f'{text[:60].splitlines()[:1]}; correct it', 'missing column')
        for row in table:
            yield f'{path}, line {table.line_num}', row
    except csv.Error as error:
        raise DatasetError(f'{path} cannot be read as CSV after line {table.line_num} ({error}); '
                           'put text with commas or quotes in "quotes", with quotes in it doubled',
                           'unreadable line') from error


def _parse_row(row: Any, where: str) -> tuple[tuple[str, str, bool | None], str]:
    """A row as (image, mask's name, is_sentence), which identifies its item, and the question."""
    if not isinstance(row, dict):
        raise wrong_field(where, 'row', 'an object with `image` and `question`', row)
    if any(row.get(None, ())):  # csv's key for fields without a column
        raise wrong_field(where, 'row', 'as many fields as the first line (text with commas in '
                          '"quotes")', [*row.values()][:-1] + row[None])
    for field in ('image', 'question'):
        if not isinstance(row.get(field), str):
            raise wrong_field(where, field, 'a string', row.get(field))
    image, mask = row['image'].strip(), row.get('mask') or ''
    if not image:
        raise wrong_field(where, 'image', 'the name of a file', image)
    if not isinstance(mask, str):
        raise wrong_field(where, 'mask', 'the name of a file', mask)
    stated = row.get('is_sentence')
    truth = '' if stated is None else str(stated).strip().lower()
    if truth not in _TRUTH:
        raise wrong_field(where, 'is_sentence', 'true or false', stated)
    check_question(row['question'], 'question', where)
    return (image, mask.strip() or Path(image).stem, _TRUTH[truth]), row['question']
