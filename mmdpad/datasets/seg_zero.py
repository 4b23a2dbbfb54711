# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The prepared training data of Seg-Zero and DPAD: parquet files with images inside."""

from __future__ import annotations

import functools
import importlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmdpad.prompts import normalise_question, parse_solution
from mmdpad.registry import DATASETS

from .errors import DatasetError
from .reasoning_dataset import ReasoningDataset

TEXT_COLUMNS = ('id', 'problem', 'solution')
COLUMNS = (*TEXT_COLUMNS, 'image')
# Handles kept open in a process; the published copies have fewer files.
_OPEN_SHARDS = 64


@DATASETS.register_module()
class SegZeroDataset(ReasoningDataset):
    """Images with a question, a box and two points, as the prepared RefCOCOg copies hold them.

    ``data_root`` (or ``data_root/data``) holds the ``*.parquet`` files of a copy such as
    ``Ricky06662/refCOCOg_9k_840``, as downloaded. A row has ``id``, ``problem`` (the question),
    ``solution`` (the target, :func:`mmdpad.prompts.parse_solution`) and ``image`` (a struct with
    the ``bytes`` of an image file). The published copies store the image at 840 x 840 already and
    write the solution in its pixels; their ``img_height`` and ``img_width``, the size before
    that, are not needed. There are no masks.

    Every text is checked when the data set is built. Images stay in the files: an item is a row's
    place and its texts, and the image's bytes are read when the item is asked for. An item also has
    ``shard``, ``row`` (in the file, from 0), ``is_sentence`` False (referring expressions are
    phrases), ``solution``, ``solution_shape`` (h, w) and ``img_bytes``; its ``img_path`` is file
    and row, for messages.

    Args:
        data_root: Folder of the copy.
        solution_size: (width, height) of the frame in whose pixels solutions are written.
        **kwargs: See :class:`ReasoningDataset`; ``num_samples=3000`` is the published recipe.
    """

    def __init__(self, data_root: str, solution_size: tuple[int, int] = (840, 840),
                 **kwargs) -> None:
        if len(solution_size) != 2 or min(solution_size) < 1:
            raise ValueError('`solution_size` should be (width, height), positive integers in '
                             f'pixels, but got {solution_size}')
        self.solution_size = tuple(solution_size)
        super().__init__(data_root=str(data_root), **kwargs)

    def read_items(self) -> Iterator[dict | DatasetError]:
        """Rows in the order of the files; their texts are checked."""
        for shard in _find_shards(Path(self.data_root)):
            try:
                rows = _read_texts(shard)
            except DatasetError as error:
                yield error
                continue
            for i, row in enumerate(rows):
                item = self._make_item(shard, i, row)
                yield from _find_problems(item) or [item]

    def _make_item(self, shard: Path, i: int, row: dict[str, Any]) -> dict:
        width, height = self.solution_size
        return dict(
            img_id=row['id'],
            img_path=f'{shard}, row {i}',
            shard=str(shard),
            row=i,
            texts=[row['problem']],
            text_index=0,
            question=row['problem'],
            is_sentence=False,
            solution=row['solution'],
            solution_shape=(height, width))

    def prepare_data(self, idx: int) -> Any:
        """Read the image's bytes of item ``idx`` and run the pipeline."""
        item = self.get_data_info(idx)
        item['img_bytes'] = _read_image_bytes(item['shard'], item['row'])
        return self.pipeline(item)


def _find_problems(item: dict) -> list[DatasetError]:
    """What is wrong with the texts of an item."""
    where, problems = item['img_path'], []
    if not isinstance(item['question'], str) or not normalise_question(item['question']):
        problems.append(DatasetError(f'`problem` of {where} should be a question, but got '
                                     f'{item["question"]!r}; write one, or remove the row',
                                     'empty question'))
    try:
        (x1, y1, x2, y2), points = parse_solution(str(item['solution']))
    except ValueError as error:
        return [*problems, DatasetError(f'{where}: {error}; correct it, or remove the row',
                                        'wrong solution')]
    height, width = item['solution_shape']
    all_inside = all(x <= width and y <= height for x, y in ((x1, y1), (x2, y2), *points))
    if not (all_inside and x1 <= x2 and y1 <= y2):
        problems.append(DatasetError(
            f'`solution` of {where} should be x1 <= x2, y1 <= y2 and within `solution_size` '
            f'{width} x {height}, but got {item["solution"]!r}; correct it, or set '
            '`solution_size`', 'wrong solution'))
    return problems


def _find_shards(root: Path) -> list[Path]:
    """The parquet files of a copy, in the order of their names."""
    if not root.is_dir():
        raise DatasetError(f'`data_root` should be a folder with parquet files, but {root} is '
                           'none; download the data or correct the path')
    shards = sorted(root.glob('*.parquet')) or sorted(root.glob('data/*.parquet'))
    if not shards:
        raise DatasetError(f'`data_root` should be a folder with parquet files, but neither {root} '
                           f'nor {root / "data"} holds *.parquet; download the data (the files '
                           'of the hub, not a folder that `save_to_disk` wrote) or correct the '
                           'path')
    return shards


def _read_texts(shard: Path) -> list[dict[str, Any]]:
    """The rows of a file without their images."""
    pyarrow = import_pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(shard) as file:
            _check_columns(shard, file.schema_arrow)
            return file.read(columns=list(TEXT_COLUMNS), use_threads=False).to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DatasetError(f'{shard} cannot be read as parquet ({error}); download it '
                           'again') from error


def _check_columns(shard: Path, schema: Any) -> None:
    missing = [name for name in COLUMNS if name not in schema.names]
    if missing:
        raise DatasetError(f'{shard} lacks the column(s) {", ".join(missing)}, but has '
                           f'{", ".join(schema.names)}; take a training copy such as '
                           'refCOCOg_9k_840', 'missing column')
    kind = schema.field('image').type
    if not import_pyarrow().types.is_struct(kind) or kind.get_field_index('bytes') < 0:
        raise DatasetError(f'`image` of {shard} should be a struct with `bytes`, but is {kind}; '
                           'write images as the `datasets` library does')


def _read_image_bytes(shard: str, row: int) -> bytes:
    """The image file in a row.

    Parquet has no way to a single row. Its row group is read as a stream up to the row, so that
    a group of a hundred images is never in memory as a whole.

    Raises:
        DatasetError: The row has no image.
    """
    file = _open_shard(shard, os.getpid())
    group, i = 0, row
    while i >= (size := file.metadata.row_group(group).num_rows):
        group, i = group + 1, i - size
    stream = file.iter_batches(batch_size=1, row_groups=[group], columns=['image.bytes'],
                               use_threads=False)
    image = next(itertools.islice(stream, i, None)).column('image')[0].as_py()
    if image is None or image['bytes'] is None:
        raise DatasetError(f'{shard}, row {row} holds no image bytes; write the data set with '
                           'embedded images, or remove the row')
    return image['bytes']


@functools.lru_cache(maxsize=_OPEN_SHARDS)
def _open_shard(shard: str, process: int) -> Any:
    """An open file; ``process`` (its id) keeps a forked worker from taking its parent's."""
    return import_pyarrow().parquet.ParquetFile(shard, buffer_size=2**20, pre_buffer=False)


def import_pyarrow() -> Any:
    try:
        importlib.import_module('pyarrow.parquet')
        return importlib.import_module('pyarrow')
    except ImportError as error:
        raise ImportError(f'pyarrow reads and writes parquet files ({error}); install '
                          'it: `pip install pyarrow`, or mmdpad with its extra [data]') from error
