# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Write any data set with masks in one of the formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from mmdpad.utils import new_folder

from ..errors import DatasetError, collecting
from ..reasoning_dataset import ReasoningDataset
from .coco import CocoWriter
from .image_files import ImageFiles, image_key
from .json_lines import JsonLinesWriter
from .parquet import ParquetWriter
from .reason_seg import ReasonSegWriter
from .records import Record, read_records


class Writer(Protocol):
    """Gets one record after another with its split, and is closed. ``cannot_hold`` lists the
    fields of a record that it cannot store."""

    @property
    def cannot_hold(self) -> Collection[str]: ...

    def write(self, record: Record, split: str) -> None: ...

    def close(self) -> None: ...


# A writer is built with a folder and the images of the data set.
WRITERS: dict[str, Callable[[Path, ImageFiles], Writer]] = {
    'reasonseg': ReasonSegWriter, 'coco': CocoWriter, 'parquet': ParquetWriter,
    'jsonl': JsonLinesWriter}


def convert(sources: Mapping[str, ReasoningDataset], load: list[dict], target: str,
            destination: Path, copy_images: bool = False, lossy: bool = False) -> Counter:
    """Write data sets in another format.

    Args:
        sources: A data set for each split, see :func:`.records.read_records`.
        load: Their transforms for image and masks.
        target: One of ``WRITERS``.
        destination: A new folder; it appears only once it is complete.
        copy_images: Copy images into ``destination`` instead of storing paths to them.
        lossy: Leave out what the format cannot store.

    Returns:
        How many ``items``, ``questions``, ``objects``, ``items of several objects``, ``items
        without object`` and ``images`` were written, and ``left out: <field>`` for what was lost.

    Raises:
        DatasetError: Lists all records that cannot be read or written; nothing is written then.
        FileExistsError: ``destination`` already exists.
    """
    counts: Counter[str] = Counter()
    problems: list[DatasetError] = []
    seen = set()
    with new_folder(destination) as folder:
        writer = WRITERS[target](folder, ImageFiles(folder, destination, copy_images))
        for split, dataset in sources.items():
            for record in read_records(dataset, load):
                if isinstance(record, DatasetError):
                    problems.append(record)
                    continue
                lost = [name for name in find_fields(record) if name in writer.cannot_hold]
                with collecting(problems):
                    if lost and not lossy:
                        raise _would_lose(record, lost, target)
                    writer.write(record, split)
                seen.add(image_key(record.image))
                counts.update(_count(record))
                counts.update(f'left out: {name}' for name in lost)
        if problems:
            raise DatasetError.listing(f'that should become {target}', problems)
        writer.close()
    counts['images'] = len(seen)
    return counts


def find_fields(record: Record) -> list[str]:
    """The optional fields that a record has."""
    fields = ['ignore'] * bool(record.ignore.any()) + ['is_sentence'] * bool(record.is_sentence)
    return [*fields, *record.extras]


def _would_lose(record: Record, lost: list[str], target: str) -> DatasetError:
    return DatasetError(f'{record.where} has {", ".join(f"`{name}`" for name in lost)}, which '
                        f'{target} cannot store; choose another format, or leave it out with '
                        '--lossy', f'no place in {target}')


def _count(record: Record) -> dict[str, int]:
    objects = len(record.masks)
    return {'items': 1, 'questions': len(record.texts), 'objects': objects,
            'items of several objects': objects > 1, 'items without object': objects == 0}
