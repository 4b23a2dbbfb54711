# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Write mmdpad's JSON lines (:class:`mmdpad.datasets.JsonLinesDataset`)."""

from __future__ import annotations

from pathlib import Path

from mmdpad.geometry.masks import encode_mask
from mmdpad.utils import to_jsonl

from .image_files import ImageFiles
from .records import Record


class JsonLinesWriter:
    """Writes ``<split>.jsonl``, one line per record, with masks as RLE."""

    cannot_hold = ()

    def __init__(self, folder: Path, images: ImageFiles) -> None:
        self.folder = folder
        self.images = images

    def write(self, record: Record, split: str) -> None:
        height, width = record.ignore.shape
        line = dict(
            id=record.id, image=self.images.add(record.image, record.id), height=height,
            width=width, texts=record.texts,
            objects=[encode_mask(mask) for mask in record.masks], **record.extras)
        if record.is_sentence is not None:
            line['is_sentence'] = record.is_sentence
        if record.ignore.any():
            line['ignore'] = [encode_mask(record.ignore)]
        with open(self.folder / f'{split}.jsonl', 'ab') as file:
            file.write(to_jsonl([line]))

    def close(self) -> None:
        """Nothing is left to write."""
