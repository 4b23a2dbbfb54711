# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What a stranger sends: an image file and a question, checked before anything is decoded."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from mmdpad.datasets.transforms import to_rgb
from mmdpad.datasets.transforms.images import UNDECODABLE
from mmdpad.prompts import normalise_question

FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'GIF')
"""Pillow's names of the formats that are read; others (EPS, PSD, ...) are not even looked at."""
MAX_QUESTION = 500


class UnusableInput(ValueError):
    """What was sent cannot be used; the message is for the one who sent it."""


def read_upload(path: str | os.PathLike | None, max_pixels: int) -> np.ndarray:
    """Decode an image file of a stranger, if its header promises no more than ``max_pixels``.

    Returns:
        (H, W, 3) uint8 RGB, upright (see :func:`mmdpad.datasets.transforms.to_rgb`).

    Raises:
        UnusableInput: No file, no image of :data:`FORMATS`, a damaged one, or one too large, of
            which only the header was read.
    """
    if path is None:
        raise UnusableInput('Choose an image first.')
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise _too_large(f'{width} x {height}', max_pixels)
            return to_rgb(image)
    except Image.DecompressionBombError:
        raise _too_large('far larger', max_pixels) from None
    except UnusableInput:
        raise
    except FileNotFoundError:
        raise UnusableInput('This image is no longer here. Choose it again.') from None
    except UNDECODABLE:
        raise UnusableInput(f'This file cannot be read as an image. It should be an intact '
                            f'{", ".join(FORMATS[:-1])} or {FORMATS[-1]} file.') from None


def _too_large(size: str, max_pixels: int) -> UnusableInput:
    return UnusableInput(f'This image is too large: it should have at most '
                         f'{max_pixels / 1e6:g} megapixels, but is {size}. Make it smaller.')


def check_question(text: str | None) -> str:
    """The question, if it says something in at most :data:`MAX_QUESTION` characters.

    Raises:
        UnusableInput: It does not.
    """
    text = text or ''
    if not normalise_question(text):
        raise UnusableInput('Type a question first.')
    if len(text) > MAX_QUESTION:
        raise UnusableInput(f'This question is too long: it should have at most {MAX_QUESTION} '
                            f'characters, but has {len(text)}.')
    return text
