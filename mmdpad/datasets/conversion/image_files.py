# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Images of a data set that is being written; they are never re-encoded."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
from pathlib import Path

from PIL import Image

from mmdpad.utils import unique_name

from ..images import FORMATS


class ImageFiles:
    """The images of a new data set, each once: copied into its folder ``images``, or left in place.

    Args:
        folder: Where the data set is being written.
        destination: Where it will end up; paths to images elsewhere are relative to it.
        copy: Copy images that are files. Images in memory are always written.
    """

    def __init__(self, folder: Path, destination: Path, copy: bool) -> None:
        self.folder = folder
        self.destination = Path(os.path.realpath(destination.parent)) / destination.name
        self.copy = copy
        self._paths: dict[str | bytes, str] = {}
        self._taken: set[str] = set()

    def add(self, image: Path | bytes, stem: str) -> str:
        """The path of an image relative to the data set, with '/'; ``stem`` names an image that is
        not a file."""
        key = image_key(image)
        if key not in self._paths:
            self._paths[key] = self._place(image, stem)
        return self._paths[key]

    def _place(self, image: Path | bytes, stem: str) -> str:
        if isinstance(image, Path) and not self.copy:
            real = Path(os.path.realpath(image.parent)) / image.name
            return Path(os.path.relpath(real, self.destination)).as_posix()
        name = image.name if isinstance(image, Path) else file_stem(stem) + image_suffix(image)
        path = f'images/{unique_name(name, self._taken)}'
        write_image(image, self.folder / path)
        return path


def image_key(image: Path | bytes) -> str | bytes:
    """What identifies an image: its path, or a hash of its content."""
    return hashlib.sha256(image).digest() if isinstance(image, bytes) else str(image)


def write_image(image: Path | bytes, path: Path) -> None:
    """Copy an image to a file, byte for byte."""
    path.parent.mkdir(exist_ok=True)
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        shutil.copyfile(image, path)


def image_suffix(image: Path | bytes) -> str:
    """The lowercase suffix of an image, from its name or its content."""
    if isinstance(image, Path):
        return image.suffix.lower()
    with Image.open(io.BytesIO(image), formats=tuple(FORMATS)) as opened:
        assert opened.format is not None  # of one of `FORMATS`
        return f'.{opened.format.lower()}'.replace('.jpeg', '.jpg')


def file_stem(name: str) -> str:
    """Turn a name into the stem of a valid file name that is not hidden."""
    return re.sub(r'^\.|[/\\:*?"<>|\x00-\x1f]', '_', name)[:60]
