# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Image files as people keep them -> RGB arrays in the original frame.

Pillow, not OpenCV, because OpenCV fills the missing part of a truncated JPEG with grey and says
nothing, and drops an alpha channel together with the choice of background.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..errors import DatasetError

# What Pillow's decoders raise on broken files.
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
               Image.DecompressionBombError)
_SIDEWAYS = (5, 6, 7, 8)
# The last bytes of an undamaged file, by format.
_END_MARKS = {'JPEG': b'\xff\xd9', 'PNG': b'IEND\xaeB`\x82'}
# One of these is in a PNG that says how it is turned.
_PNG_EXIF_MARKS = (b'eXIf', b'Raw profile type exif', b'XML:com.adobe.xmp')


def to_rgb(image: Image.Image) -> np.ndarray:
    """Turn an image of any common mode into what a viewer shows.

    The EXIF rotation is applied, transparency is laid over white, 16-bit grey is scaled to 8 bit
    (Pillow's own conversion cuts it off at 255), palettes, grey and CMYK become RGB. Colour
    profiles are not applied.

    Returns:
        (H, W, 3) uint8 RGB, the original frame.

    Raises:
        ValueError: The image has floating point or more than 16-bit values, whose range is not
            known.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == 'F' or (image.mode == 'I' and not _fits_16_bit(image)):
        raise ValueError(f'images should have up to 16 bits a channel, but got mode {image.mode}; '
                         'save it as an 8-bit JPEG or PNG')
    if image.mode.startswith('I'):
        grey = (np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535
        image = Image.fromarray(grey.astype(np.uint8))
    elif image.mode.endswith(('A', 'a')) or 'transparency' in image.info:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return np.array(image.convert('RGB'))


def _fits_16_bit(image: Image.Image) -> bool:
    lowest, highest = image.getextrema()
    return 0 <= lowest and highest <= 65535


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Decode an image file with :func:`to_rgb`.

    Returns:
        (H, W, 3) uint8 RGB, the original frame.

    Raises:
        DatasetError: The file is missing, truncated or no image that can be decoded.
    """
    return _decode(path, path)


def read_image_if_any(path: str | os.PathLike) -> np.ndarray | None:
    """:func:`read_image`, but None for a file that is missing or broken."""
    try:
        return read_image(path)
    except DatasetError:
        return None


def decode_image(data: bytes, name: str) -> np.ndarray:
    """:func:`read_image` for the content of a file; an error calls it ``name``."""
    return _decode(io.BytesIO(data), name)


def _decode(source: str | os.PathLike | io.BytesIO, name: str | os.PathLike) -> np.ndarray:
    with _naming(name), Image.open(source) as image:
        return to_rgb(image)


def probe_image(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width of the original frame, from the file's header.

    The pixels are decoded only where the file does not end as its format should (a download cut
    short), to tell real damage from trailing bytes.

    Raises:
        DatasetError: The file is missing, truncated or no image that can be decoded.
    """
    with _naming(path), open(path, 'rb') as file:
        return _probe(file)


def probe_image_bytes(data: bytes, name: str) -> tuple[int, int]:
    """:func:`probe_image` for the content of a file; an error calls it ``name``."""
    with _naming(name):
        return _probe(io.BytesIO(data))


def _probe(file: BinaryIO) -> tuple[int, int]:
    with Image.open(file) as image:
        if not _ends_properly(file, image.format):
            image.load()
        width, height = image.size
        sideways = _may_be_turned(file, image.format) and image.getexif().get(
            ExifTags.Base.Orientation) in _SIDEWAYS
    return (width, height) if sideways else (height, width)


def _ends_properly(file: BinaryIO, image_format: str | None) -> bool:
    """Whether the end mark of the format is there."""
    mark = _END_MARKS.get(image_format or '')
    return mark is not None and _peek(file, -len(mark), os.SEEK_END) == mark


def _may_be_turned(file: BinaryIO, image_format: str | None) -> bool:
    """False for a PNG without a word of it: Pillow decodes all pixels to look behind them."""
    if image_format != 'PNG':
        return True
    content = _peek(file, 0, os.SEEK_SET)
    return any(mark in content for mark in _PNG_EXIF_MARKS)


def _peek(file: BinaryIO, offset: int, whence: int) -> bytes:
    """What a file holds from a place on; it stays where it was."""
    place = file.tell()
    file.seek(offset, whence)
    content = file.read()
    file.seek(place)
    return content


@contextlib.contextmanager
def _naming(name: str | os.PathLike) -> Iterator[None]:
    """Turn what is raised for a broken image into a :class:`DatasetError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(f'{name} does not exist; correct the path or restore the file',
                           'missing image') from error
    except UNDECODABLE as error:
        raise DatasetError(f'{name} cannot be decoded as an image ({error}); replace it by an '
                           'intact copy, or remove it and its annotation',
                           'unreadable image') from error
