# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Tables of prepared data: parquet files of the hub, and folders that `save_to_disk` wrote.

Both are read row by row, so that no file is ever in memory as a whole. pyarrow does the work and is
imported at first use.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import DatasetError

_SHARD = re.compile(r'(?P<split>.+)-(?P<index>\d+)-of-(?P<count>\d+)\b.*')
_SPLITS = ('train', 'validation', 'val', 'test')
# Bytes or values of a column: as many as this are no harm.
_HARMLESS = 2**28
# Images hardly get smaller when they are packed, and masks some hundred times.
_MOST_PACKED = 1000
# What a complete Arrow stream ends with.
_END_OF_STREAM = b'\xff\xff\xff\xff\x00\x00\x00\x00'


class TableFile:
    """A file of rows, open for reading: parquet, or an Arrow stream where its suffix is another.

    Args:
        path: The file.

    Raises:
        DatasetError: It is missing, cut off, of another format, or unpacks to far more than it is.
        ImportError: pyarrow is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any
        with _naming(path):
            if path.suffix == '.parquet':
                # A small buffer and none in advance: a row group may be a hundred images.
                self._file = import_pyarrow().parquet.ParquetFile(
                    path, buffer_size=2**20, pre_buffer=False)
                self.schema = self._file.schema_arrow
                _check_sizes(self._file.metadata)
            else:
                self._file = _map_stream(path)
                self.schema = self._file.schema

    def check_columns(self, columns: Sequence[str]) -> None:
        """See that the file has these columns.

        Raises:
            DatasetError: Some are missing; it lists those that are there.
        """
        with _naming(self.path):
            names = self.schema.names
        missing = [name for name in columns if name not in names]
        if missing:
            raise DatasetError(f'{self.path} lacks the column(s) {", ".join(missing)}, but has '
                               f'{", ".join(names)}; take another copy, or rename its '
                               'columns', 'missing column')

    def rows(self, columns: Sequence[str], start: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the rows from ``start`` on, one at a time, as pyarrow's scalars by column.

        Parquet has no way to a single row: its row group is read as a stream up to there, a page
        at a time. (A page is a few rows as recent versions of `datasets` write it, up to a whole
        group, often 100 rows, as older ones did.) An Arrow stream is mapped into memory and read
        in place.
        """
        with _naming(self.path):
            for batch in self._batches(list(columns), start):
                _validate(batch)
                yield {name: batch.column(name)[0] for name in columns}

    def _batches(self, columns: list[str], start: int) -> Iterator[Any]:
        """Record batches of one row."""
        if self.path.suffix != '.parquet':
            return iter(self._file.select(columns).slice(start).to_reader(max_chunksize=1))
        group = 0
        while start and start >= (size := self._file.metadata.row_group(group).num_rows):
            group, start = group + 1, start - size
        stream = self._file.iter_batches(
            batch_size=1, row_groups=range(group, self._file.num_row_groups), columns=columns,
            use_threads=False)
        return itertools.islice(stream, start, None)


def find_table_files(root: Path, split: str) -> list[Path]:
    """The files of one split, in the order of their rows.

    Args:
        root: A folder that ``save_to_disk`` wrote, of several splits or of one; or one with
            ``*.parquet`` files, in it or in ``data/`` below it. Their names tell the split:
            ``train-00000-of-00002.parquet`` or ``train.parquet``; where none does, all are taken.
        split: One of the splits there.

    Raises:
        DatasetError: There is no such folder or split, or not all of its files.
    """
    if not root.is_dir():
        raise DatasetError(f'`data_root` should be a folder of prepared data, but {root} is none; '
                           'download the data or correct the path', 'missing folder')
    if (root / 'dataset_dict.json').exists():
        splits = _read_json(root / 'dataset_dict.json', 'splits', list)
        if split not in splits:
            raise _missing_split(root, split, splits)
        return _files_of_state(root / split)
    if (root / 'state.json').exists():
        written = _read_json(root / 'state.json', '_split', str | None)
        if written not in (split, None):
            raise _missing_split(root, split, [written])
        return _files_of_state(root)
    files = sorted(root.glob('[!.]*.parquet')) or sorted(root.glob('data/[!.]*.parquet'))
    if not files:
        raise DatasetError(
            f'`data_root` should be a folder with parquet files, or one that `save_to_disk` wrote, '
            f'but neither {root} nor {root / "data"} holds *.parquet, and there is no '
            'dataset_dict.json or state.json; download the data or correct the path',
            'empty split')
    return _files_of_split(root, files, split)


def _files_of_split(root: Path, files: list[Path], split: str) -> list[Path]:
    """Parquet files that a split's name starts; all where no name tells a split."""
    shards = {path: _SHARD.fullmatch(path.stem) for path in files}
    told = {path: shard['split'] if shard else path.stem if path.stem in _SPLITS else None
            for path, shard in shards.items()}
    taken = [path for path in files if split in (told[path], path.stem)]
    if not taken and not any(told.values()):
        taken = files
    if not taken:
        raise _missing_split(root, split, sorted({name for name in told.values() if name}))
    numbers = [(int(shard['index']), int(shard['count']))
               for shard in map(shards.get, taken) if shard]
    if numbers and numbers != [(i, len(taken)) for i in range(len(taken))]:
        names = ', '.join(path.name for path in taken)
        raise DatasetError(
            f'{taken[0].parent} should hold each file of the split {split!r} once, as their names '
            f'count them, but holds {names}; download what is missing, or remove what is too much',
            'missing file')
    return taken


def _files_of_state(folder: Path) -> list[Path]:
    """The Arrow files that the ``state.json`` of a split lists."""
    state = folder / 'state.json'
    listed = _read_json(state, '_data_files', list)
    try:
        files = [folder / entry['filename'] for entry in listed]
    except (TypeError, KeyError) as error:
        raise _unusable(state, '_data_files', error) from error
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise DatasetError(f'{folder} lacks {", ".join(missing)}, which its state.json lists; '
                           'copy the whole folder', 'missing file')
    return files


def _read_json(path: Path, key: str, kind: Any) -> Any:
    """What a JSON file has under a key, of this type."""
    try:
        value = json.loads(path.read_text(encoding='utf-8'))[key]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _unusable(path, key, error) from error
    if not isinstance(value, kind):
        raise _unusable(path, key, value)
    return value


def _unusable(path: Path, key: str, found: Any) -> DatasetError:
    return DatasetError(f'{path} should be JSON with {key!r}, as `save_to_disk` writes it, but got '
                        f'{found!r}; write the folder again')


def _missing_split(root: Path, split: str, there: Sequence[str]) -> DatasetError:
    return DatasetError(f'`split` should be one of those in {root} ({", ".join(there) or "none"}), '
                        f'but got {split!r}; set it to one of them', 'missing split')


def _map_stream(path: Path) -> Any:
    """The table of an Arrow stream, its values left in the file."""
    pyarrow = import_pyarrow()
    source = pyarrow.memory_map(str(path))
    source.seek(max(source.size() - len(_END_OF_STREAM), 0))
    if source.read() != _END_OF_STREAM:
        raise OSError('it has no end')
    source.seek(0)
    for message in pyarrow.ipc.MessageReader.open_stream(source):
        if message.type == 'record batch' and _is_packed(memoryview(message.metadata)):
            raise OSError('it is compressed, which `save_to_disk` never does')
    source.seek(0)
    return pyarrow.ipc.open_stream(source).read_all()


def _validate(batch: Any) -> None:
    """Let pyarrow check a row before its values are looked at. That a text is UTF-8 shows later.

    Raises:
        pyarrow.ArrowInvalid: It is damaged.
    """
    pyarrow = import_pyarrow()
    for column in batch.columns:
        if pyarrow.types.is_string(column.type):
            column = column.view(pyarrow.binary())
        column.validate(full=True)


def _is_packed(metadata: memoryview) -> bool:
    """Whether an Arrow record batch says that its values are compressed; pyarrow does not tell.

    The message is a flatbuffer: its third field is the batch, whose fourth is the compression.
    """
    def field(table: int, number: int) -> int:
        """Where a field of a table is, 0 where it is not there."""
        fields = table - struct.unpack_from('<i', metadata, table)[0]
        place = 4 + 2 * number
        if place >= struct.unpack_from('<H', metadata, fields)[0]:
            return 0
        offset = struct.unpack_from('<H', metadata, fields + place)[0]
        return offset and table + offset

    def follow(place: int) -> int:
        return place + struct.unpack_from('<I', metadata, place)[0]

    return field(follow(field(follow(0), 2)), 3) != 0


def _check_sizes(metadata: Any) -> None:
    """See that no column of a parquet file unpacks to far more than images or masks do.

    Raises:
        OSError: One does.
    """
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            size = max(column.total_uncompressed_size, column.num_values)
            if size > _HARMLESS and (
                    size > group.num_rows * _HARMLESS or column.total_uncompressed_size
                    > _MOST_PACKED * column.total_compressed_size):
                raise OSError(f'{column.total_compressed_size:,} bytes of its column '
                              f'{column.path_in_schema} unpack to {size:,} bytes or values, which '
                              'no images or masks do')


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what pyarrow says of a broken file into a :class:`DatasetError` that names it."""
    pyarrow = import_pyarrow()
    try:
        yield
    except (pyarrow.ArrowException, OSError, struct.error, UnicodeDecodeError) as error:
        kind = 'parquet' if path.suffix == '.parquet' else 'an Arrow stream'
        raise DatasetError(f'{path} cannot be read as {kind} ({error}); download or write it '
                           'again') from error


def import_pyarrow() -> Any:
    """pyarrow with its parquet module.

    Raises:
        ImportError: It is not there; says how to get it.
    """
    try:
        importlib.import_module('pyarrow.parquet')
        return importlib.import_module('pyarrow')
    except ImportError as error:
        raise ImportError(f'Prepared data (parquet, or written by `save_to_disk`) are read with '
                          f'pyarrow ({error}); install it: `pip install pyarrow`, or mmdpad with '
                          'its extra [data]') from error
