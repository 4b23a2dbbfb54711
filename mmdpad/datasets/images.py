# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Read image files of many kinds as RGB arrays in the original frame.

This uses Pillow, because OpenCV silently fills the missing part of a truncated JPEG with gray, and
drops an alpha channel without a choice of background. Only :data:`FORMATS` are read (for EPS,
Pillow would run an external program), and no image whose header declares more than ``max_pixels``.
Animations and multi-page files yield their first image.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

import numpy as np
from PIL import ExifTags, Image

from mmdpad.geometry.masks import MOST_PIXELS

from .errors import DatasetError

FORMATS = {'JPEG': ('.jpg', '.jpeg'), 'PNG': ('.png', ), 'WEBP': ('.webp', ), 'BMP': ('.bmp', ),
           'TIFF': ('.tif', '.tiff'), 'GIF': ('.gif', ), 'PPM': ('.ppm', '.pgm')}
"""Pillow's names of the supported formats, with their usual suffixes; the content decides."""
MAX_PIXELS = MOST_PIXELS // 2
"""Default limit on the size of an image: 89 megapixels, 256 MB as RGB."""
TOO_LARGE, MISSING = 'too large image', 'missing image'
"""Kinds of :class:`DatasetError`."""
# What Pillow's decoders raise on broken files.
_UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError,
                ArithmeticError, struct.error, zlib.error)
_TURN = Image.Transpose
_TURNS = {2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM,
          5: _TURN.TRANSPOSE, 6: _TURN.ROTATE_270, 7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_90}
_SIDEWAYS = (5, 6, 7, 8)
# The last bytes of an undamaged file, by format.
_END_MARKS = {'JPEG': b'\xff\xd9', 'PNG': b'IEND\xaeB`\x82'}
# A PNG that states its rotation contains one of these.
_PNG_EXIF_MARKS = (b'eXIf', b'Raw profile type exif', b'XML:com.adobe.xmp')


def to_rgb(image: Image.Image) -> np.ndarray:
    """Convert an image of any common mode to what a viewer shows.

    The EXIF rotation is applied, transparency is composited over white, and 16-bit gray is scaled
    to 8 bits (Pillow's own conversion clips it at 255). Palettes, gray and CMYK become RGB. Color
    profiles are not applied.

    Returns:
        (H, W, 3) uint8 RGB, the original frame.

    Raises:
        ValueError: The image has floating-point values, or values of more than 16 bits, whose range
            is unknown.
    """
    image = upright(image)
    if image.mode == 'F' or (image.mode == 'I' and not _fits_16_bit(image)):
        raise ValueError(f'images should have at most 16 bits per channel, but got mode '
                         f'{image.mode}; save it as an 8-bit JPEG or PNG')
    if image.mode.startswith('I'):
        gray = (np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535
        image = Image.fromarray(gray.astype(np.uint8))
    elif image.mode.endswith(('A', 'a')) or 'transparency' in image.info:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return np.array(image.convert('RGB'))


def upright(image: Image.Image) -> Image.Image:
    """Rotate an image as its EXIF says."""
    # Pillow's `exif_transpose` also rewrites the EXIF, which fails if that is damaged.
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _fits_16_bit(image: Image.Image) -> bool:
    lowest, highest = cast(tuple[int, int], image.getextrema())
    return lowest >= 0 and highest <= 65535


def check_max_pixels(limit: int) -> int:
    """Check and return the argument ``max_pixels`` of a transform.

    Raises:
        ValueError: It is not an integer from 1 to :data:`MOST_PIXELS`.
    """
    if type(limit) is not int or not 1 <= limit <= MOST_PIXELS:
        raise ValueError(f'`max_pixels` should be an integer from 1 to {MOST_PIXELS:,} (Pillow '
                         f'refuses larger images), but got {limit!r}')
    return limit


def read_image(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image file with :func:`to_rgb`.

    Returns:
        (H, W, 3) uint8 RGB, the original frame.

    Raises:
        DatasetError: The file is missing or truncated, cannot be decoded as an image, or declares
            more than ``max_pixels`` in its header.
    """
    return _decode(path, path, max_pixels)


def read_image_if_any(path: str | os.PathLike) -> np.ndarray | None:
    """:func:`read_image`, but None if the file is missing or broken."""
    try:
        return read_image(path)
    except DatasetError:
        return None


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """:func:`read_image` for the content of a file, called ``name`` in errors."""
    return _decode(io.BytesIO(data), name, max_pixels)


def _decode(source: str | os.PathLike | io.BytesIO, name: str | os.PathLike,
            max_pixels: int) -> np.ndarray:
    with open_image(source, name, max_pixels) as image:
        return to_rgb(image)


@contextlib.contextmanager
def open_image(source: str | os.PathLike | BinaryIO, name: str | os.PathLike,
               max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open an image and check its header; errors inside the block name the file as well.

    Raises:
        DatasetError: As :func:`read_image`.
    """
    with _naming(name, max_pixels), Image.open(source, formats=tuple(FORMATS)) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise _too_large(name, f'{width} x {height}', max_pixels)
        yield image


def probe_image(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of the original frame, from the file's header.

    The pixels are decoded only if the file does not end as its format requires (an interrupted
    download), to tell real damage from trailing bytes.

    Raises:
        DatasetError: As :func:`read_image`.
    """
    with _naming(path, max_pixels), open(path, 'rb') as file:
        return _probe(file, path, max_pixels)


def probe_image_bytes(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """:func:`probe_image` for the content of a file, called ``name`` in errors."""
    return _probe(io.BytesIO(data), name, max_pixels)


def _probe(file: BinaryIO, name: str | os.PathLike, max_pixels: int) -> tuple[int, int]:
    with open_image(file, name, max_pixels) as image:
        if not _ends_properly(file, image.format):
            image.load()
        width, height = image.size
        sideways = _may_be_turned(file, image.format) and image.getexif().get(
            ExifTags.Base.Orientation) in _SIDEWAYS
    return (width, height) if sideways else (height, width)


def _ends_properly(file: BinaryIO, image_format: str | None) -> bool:
    """Whether a file ends with the end marker of its format."""
    mark = _END_MARKS.get(image_format or '')
    return mark is not None and _peek(file, -len(mark), os.SEEK_END) == mark


def _may_be_turned(file: BinaryIO, image_format: str | None) -> bool:
    """Whether a file may state a rotation. A PNG is searched for it, since Pillow would decode all
    pixels to find metadata after them."""
    if image_format != 'PNG':
        return True
    content = _peek(file, 0, os.SEEK_SET)
    return any(mark in content for mark in _PNG_EXIF_MARKS)


def _peek(file: BinaryIO, offset: int, whence: int) -> bytes:
    """The content of a file from a position on; the current position does not change."""
    place = file.tell()
    file.seek(offset, whence)
    content = file.read()
    file.seek(place)
    return content


@contextlib.contextmanager
def _naming(name: str | os.PathLike, max_pixels: int) -> Iterator[None]:
    """Turn errors about a broken image into a :class:`DatasetError` that names it."""
    try:
        yield
    except DatasetError:
        raise
    except FileNotFoundError as error:
        raise DatasetError(f'{name} does not exist; correct the path or restore the file',
                           MISSING) from error
    except Image.DecompressionBombError:
        raise _too_large(name, 'far larger', max_pixels) from None
    except _UNDECODABLE as error:
        raise DatasetError(f'{name} cannot be decoded as an image ({error}); replace it with an '
                           f'intact copy ({", ".join(FORMATS)}), or remove it and its annotation',
                           'unreadable image') from error


def _too_large(name: str | os.PathLike, size: str, max_pixels: int) -> DatasetError:
    return DatasetError(f'{name} should have at most {max_pixels / 1e6:.4g} megapixels, but is '
                        f'{size}; make it smaller, or set '
                        '`LoadReasoningImage(max_pixels=...)`', TOO_LARGE)
