# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Write parquet in the format of the published evaluation copies (:class:`.SegZeroEvalDataset`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..tables import import_pyarrow
from .image_files import ImageFiles
from .records import OPTIONAL_FIELDS, Record

# Approximate bytes of content (images, and masks at one bit per pixel) in memory, and per file.
GROUP_BYTES, SHARD_BYTES = 32 * 2**20, 400 * 2**20
_STRING = dict(dtype='string', _type='Value')
_NUMBER = dict(dtype='int64', _type='Value')
# The types of the columns for the `datasets` library.
FEATURES = dict(
    image=dict(_type='Image'), text=_STRING,
    mask=dict(feature=dict(feature=dict(dtype='bool', _type='Value'), _type='Sequence'),
              _type='Sequence'),
    image_id=_STRING, ann_id=_STRING, img_height=_NUMBER, img_width=_NUMBER)


class ParquetWriter:
    """Writes ``<split>-00000-of-00001.parquet`` and so on, one row per question.

    A record may have at most one object; images are always embedded. Rows of a record share
    ``image_id`` (its id). ``ann_id`` is the same id, followed by '#' and the number of the text if
    there are several texts.
    """

    cannot_hold = OPTIONAL_FIELDS

    def __init__(self, folder: Path, images: ImageFiles) -> None:
        self.folder = folder
        self._splits: dict[str, _Shards] = {}

    def write(self, record: Record, split: str) -> None:
        """Raises:
            DatasetError: The format cannot express the record.
        """
        mask = record.only_mask('parquet')
        if split not in self._splits:
            self._splits[split] = _Shards(self.folder, split)
        image = record.image if isinstance(record.image, bytes) else record.image.read_bytes()
        name = None if isinstance(record.image, bytes) else record.image.name
        for i, text in enumerate(record.texts):
            self._splits[split].add(dict(
                image=dict(bytes=image, path=name), text=text, mask=mask, image_id=record.id,
                ann_id=record.id if len(record.texts) == 1 else f'{record.id}#{i}',
                img_height=mask.shape[0], img_width=mask.shape[1]))

    def close(self) -> None:
        """Write the remaining rows and rename the files to their final names."""
        for shards in self._splits.values():
            shards.close()


class _Shards:
    """The files of a split, filled one by one."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split
        self._paths: list[Path] = []
        self._writer: Any = None
        self._rows: list[dict] = []
        self._row_bytes = self._file_bytes = 0

    def add(self, row: dict) -> None:
        self._rows.append(row)
        self._row_bytes += len(row['image']['bytes']) + row['mask'].size // 8
        if self._row_bytes >= GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        """Write the rows in memory as a row group, and close the file when it is full."""
        if not self._rows:
            return
        if self._writer is None:
            self._paths.append(self.folder / f'{self.split}-{len(self._paths)}')
            self._writer = import_pyarrow().parquet.ParquetWriter(self._paths[-1], _schema())
        self._writer.write_table(_as_table(self._rows))
        self._file_bytes += self._row_bytes
        self._rows, self._row_bytes = [], 0
        if self._file_bytes >= SHARD_BYTES:
            self._close_file()

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._file_bytes = None, 0

    def close(self) -> None:
        self._write_group()
        self._close_file()
        for i, path in enumerate(self._paths):
            path.rename(self.folder / f'{self.split}-{i:05}-of-{len(self._paths):05}.parquet')


def _schema() -> Any:
    pa = import_pyarrow()
    features = {'huggingface': json.dumps(dict(info=dict(features=FEATURES)))}
    return pa.schema([
        ('image', pa.struct([('bytes', pa.binary()), ('path', pa.string())])),
        ('text', pa.string()), ('mask', pa.list_(pa.list_(pa.bool_()))),
        ('image_id', pa.string()), ('ann_id', pa.string()),
        ('img_height', pa.int64()), ('img_width', pa.int64())
    ], metadata=features)


def _as_table(rows: list[dict]) -> Any:
    """Rows as a table, without converting masks to Python bools."""
    pa, schema = import_pyarrow(), _schema()
    masks = [row['mask'] for row in rows]
    ends = np.cumsum([0] + [mask.shape[1] for mask in masks for _ in range(mask.shape[0])])
    lines = pa.ListArray.from_arrays(ends.astype(np.int32),
                                     pa.array(np.concatenate([mask.ravel() for mask in masks])))
    ends = np.cumsum([0] + [mask.shape[0] for mask in masks])
    columns = dict(mask=pa.ListArray.from_arrays(ends.astype(np.int32), lines))
    return pa.table([columns[field.name] if field.name in columns else
                     pa.array([row[field.name] for row in rows], field.type) for field in schema],
                    schema=schema)
