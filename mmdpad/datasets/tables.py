# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Tables of prepared data: parquet files from the hub, and folders written by `save_to_disk`.

Both are read row by row, so an entire file is never in memory. pyarrow does the work and is
imported on first use.
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
# Up to this many bytes or values in a column are harmless.
_HARMLESS = 2**28
# The largest compression ratio: images hardly shrink, masks by a factor of a few hundred.
_MOST_PACKED = 1000
# The end of a complete Arrow stream.
_END_OF_STREAM = b'\xff\xff\xff\xff\x00\x00\x00\x00'


class TableFile:
    """A file of rows, open for reading: parquet, or an Arrow stream if it has another suffix.

    Args:
        path: The file.

    Raises:
        DatasetError: It is missing, truncated or in another format, or would decompress to far
            more than its size.
        ImportError: pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any
        with _naming(path):
            if path.suffix == '.parquet':
                # A small buffer and no prefetching: a row group may contain a hundred images.
                self._file = import_pyarrow().parquet.ParquetFile(
                    path, buffer_size=2**20, pre_buffer=False)
                self.schema = self._file.schema_arrow
                _check_sizes(self._file.metadata)
            else:
                self._file = _map_stream(path)
                self.schema = self._file.schema

    def check_columns(self, columns: Sequence[str]) -> None:
        """Check that the file has these columns.

        Raises:
            DatasetError: Some are missing; the message lists those that exist.
        """
        with _naming(self.path):
            names = self.schema.names
        missing = [name for name in columns if name not in names]
        if missing:
            raise DatasetError(f'{self.path} lacks the column(s) {", ".join(missing)}, but has '
                               f'{", ".join(names)}; use another copy, or rename its '
                               'columns', 'missing column')

    def rows(self, columns: Sequence[str], start: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the rows from ``start`` on, one at a time, as pyarrow scalars by column.

        Parquet cannot access a single row: its row group is read as a stream up to that row, one
        page at a time. (A page has a few rows if written by a recent version of `datasets`; older
        versions wrote up to an entire group, often 100 rows.) An Arrow stream is memory-mapped and
        read in place.
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
        root: A folder written by ``save_to_disk``, with one or several splits; or a folder with
            ``*.parquet`` files, directly or in ``data/``. Their names give the split:
            ``train-00000-of-00002.parquet`` or ``train.parquet``; if no name does, all files are
            used.
        split: One of its splits.

    Raises:
        DatasetError: The folder or the split does not exist, or some of its files are missing.
    """
    if not root.is_dir():
        raise DatasetError(f'`data_root` should be a folder of prepared data, but {root} is not a '
                           'folder; download the data or correct the path', 'missing folder')
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
            f'but neither {root} nor {root / "data"} contains *.parquet, and there is no '
            'dataset_dict.json or state.json; download the data or correct the path',
            'empty split')
    return _files_of_split(root, files, split)


def _files_of_split(root: Path, files: list[Path], split: str) -> list[Path]:
    """The parquet files whose names start with the split; all files if no name gives a split."""
    shards = {path: _SHARD.fullmatch(path.stem) for path in files}
    named = {path: shard['split'] if shard else path.stem if path.stem in _SPLITS else None
             for path, shard in shards.items()}
    taken = [path for path in files if split in (named[path], path.stem)]
    if not taken and not any(named.values()):
        taken = files
    if not taken:
        raise _missing_split(root, split, sorted({name for name in named.values() if name}))
    numbers = [(int(shard['index']), int(shard['count']))
               for shard in map(shards.get, taken) if shard]
    if numbers and numbers != [(i, len(taken)) for i in range(len(taken))]:
        names = ', '.join(path.name for path in taken)
        raise DatasetError(
            f'{taken[0].parent} should contain each file of the split {split!r} once, as numbered '
            f'in their names, but contains {names}; download missing files, or remove extra ones',
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
                           'copy the complete folder', 'missing file')
    return files


def _read_json(path: Path, key: str, kind: Any) -> Any:
    """The value of a key in a JSON file, which should have this type."""
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
    """The table of an Arrow stream, memory-mapped."""
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
    """Let pyarrow check a row before its values are used. UTF-8 is checked later.

    Raises:
        pyarrow.ArrowInvalid: It is damaged.
    """
    pyarrow = import_pyarrow()
    for column in batch.columns:
        if pyarrow.types.is_string(column.type):
            column = column.view(pyarrow.binary())
        column.validate(full=True)


def _is_packed(metadata: memoryview) -> bool:
    """Whether an Arrow record batch declares compressed values, which pyarrow does not report.

    The message is a flatbuffer: its third field is the batch, whose fourth is the compression.
    """
    def field(table: int, number: int) -> int:
        """The position of a field of a table; 0 if it is missing."""
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
    """Check that no column of a parquet file decompresses to more than images or masks would.

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
                              f'{column.path_in_schema} unpack to {size:,} bytes or values, more '
                              'than images or masks do')


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn pyarrow's errors about a broken file into a :class:`DatasetError` that names it."""
    pyarrow = import_pyarrow()
    try:
        yield
    except (pyarrow.ArrowException, OSError, struct.error, UnicodeDecodeError) as error:
        kind = 'parquet' if path.suffix == '.parquet' else 'an Arrow stream'
        raise DatasetError(f'{path} cannot be read as {kind} ({error}); download or write it '
                           'again') from error


def import_pyarrow() -> Any:
    """Import pyarrow with its parquet module.

    Raises:
        ImportError: It is not installed; the message says how to install it.
    """
    try:
        importlib.import_module('pyarrow.parquet')
        return importlib.import_module('pyarrow')
    except ImportError as error:
        raise ImportError(f'Prepared data (parquet, or written by `save_to_disk`) needs pyarrow '
                          f'({error}); install it by `pip install pyarrow`, or install mmdpad '
                          'with its extra [data]') from error
