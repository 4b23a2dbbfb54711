# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The base of the data sets in prepared tables: images stay in the files until they are needed."""

from __future__ import annotations

import functools
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .annotation_fields import SEVERAL_IMAGES, check_question
from .errors import DatasetError, collecting
from .reasoning_dataset import ReasoningDataset
from .tables import TableFile, find_table_files, import_pyarrow

# Files kept open in a process; the published copies have fewer.
_OPEN_FILES = 64


class TableDataset(ReasoningDataset):
    """Items are rows of the files that :func:`.find_table_files` finds. Their ``image`` column is a
    struct with the ``bytes`` of an image file.

    A subclass defines the ``columns`` it reads when it is built, and what an item takes from them.
    Every item has ``shard`` (the file), ``row`` (in the file, from 0) and, once it is loaded,
    ``img_bytes``. Its ``img_path`` is file and row, for messages, and ``is_sentence`` is None,
    because the files do not say.

    Args:
        data_root: Folder of the copy, as downloaded from the hub or written by ``save_to_disk``.
        split: The split to read.
        **kwargs: See :class:`ReasoningDataset`.
    """

    columns: tuple[str, ...]
    question_column: str

    def __init__(self, data_root: str, split: str, **kwargs: Any) -> None:
        self.split = split
        super().__init__(data_root=str(data_root), **kwargs)

    def check_file(self, file: TableFile) -> None:
        """Check that a file has all columns, in a readable form.

        Raises:
            DatasetError: It does not.
        """
        file.check_columns(sorted({*self.columns, 'image'}))
        kind = file.schema.field('image').type
        if import_pyarrow().types.is_list(kind):
            raise DatasetError(f'`image` of {file.path} is a list of images; {SEVERAL_IMAGES}',
                               'several images')
        if not import_pyarrow().types.is_struct(kind) or kind.get_field_index('bytes') < 0:
            raise DatasetError(f'`image` of {file.path} should be a struct with `bytes`, but is '
                               f'{kind}; write images as the `datasets` library does')

    @abstractmethod
    def read_row(self, row: dict[str, Any], where: str) -> dict:
        """``img_id`` and whatever else an item takes from its row.

        Args:
            row: pyarrow scalars by column.
            where: The name of the row in messages.

        Raises:
            DatasetError: The row cannot be used.
        """

    def read_items(self) -> Iterator[dict | DatasetError]:
        """Yield the rows in the order of the files."""
        for path in find_table_files(Path(self.data_root), self.split):
            try:
                file = TableFile(path)
                self.check_file(file)
                for i, row in enumerate(file.rows(self.columns)):
                    yield from self._make_item(str(path), i, row)
            except DatasetError as error:
                yield error

    def _make_item(self, shard: str, i: int, row: dict[str, Any]) -> Sequence[dict | DatasetError]:
        """The item of a row, or all problems with it."""
        problems: list[DatasetError] = []
        where = f'{shard}, row {i}'
        try:
            question = row[self.question_column].as_py()
            with collecting(problems):
                check_question(question, self.question_column, where)
            with collecting(problems):
                fields = self.read_row(row, where)
        except UnicodeDecodeError as error:  # pyarrow decodes text only here
            problems.append(DatasetError(f'{where} should contain text in UTF-8, but: {error}; '
                                         'correct it, or remove the row', 'unreadable text'))
        return problems or [dict(
            img_path=where, shard=shard, row=i, texts=[question], text_index=0, question=question,
            is_sentence=None, **fields)]

    def prepare_data(self, idx: int) -> Any:
        """Read the image bytes of item ``idx`` and run the pipeline."""
        item = self.get_data_info(idx)
        row = next(_open_file(item['shard'], os.getpid()).rows(['image'], item['row']))
        item['img_bytes'] = read_image_bytes(row, item['img_path'])
        return self.pipeline(item)


def read_image_bytes(row: dict[str, Any], where: str) -> bytes:
    """The image file in the ``image`` of a row.

    Raises:
        DatasetError: The row has none.
    """
    image = row['image'].as_py()
    if image is None or image['bytes'] is None:
        raise DatasetError(f'{where} has no image bytes; write the data set with embedded '
                           'images, or remove the row', 'missing image')
    return image['bytes']


@functools.lru_cache(maxsize=_OPEN_FILES)
def _open_file(path: str, process: int) -> TableFile:
    """An open file; ``process`` (its id) keeps a forked worker from using its parent's."""
    return TableFile(Path(path))
