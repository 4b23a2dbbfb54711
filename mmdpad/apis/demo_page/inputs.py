# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Untrusted input: an image file and a question, checked before anything is decoded."""

from __future__ import annotations

import os

import numpy as np

from mmdpad.datasets import DatasetError
from mmdpad.datasets.images import FORMATS, MISSING, TOO_LARGE, open_image
from mmdpad.datasets.transforms import to_rgb
from mmdpad.prompts import normalize_question

MAX_QUESTION = 500


class UnusableInput(ValueError):
    """The input cannot be used; the message is meant for the visitor who sent it."""


def read_upload(path: str | os.PathLike | None, max_pixels: int) -> np.ndarray:
    """Decode an untrusted image file if its header declares at most ``max_pixels``.

    Returns:
        (H, W, 3) uint8 RGB, upright (see :func:`mmdpad.datasets.transforms.to_rgb`).

    Raises:
        UnusableInput: There is no file, it is damaged or not an image of :data:`FORMATS`, or it
            is too large (then only the header was read).
    """
    if path is None:
        raise UnusableInput('Choose an image first.')
    try:
        with open_image(path, 'This image', max_pixels) as image:
            return to_rgb(image)
    except DatasetError as error:
        if error.kind == TOO_LARGE:
            raise UnusableInput(f'{str(error).partition(";")[0]}. Make it smaller.') from None
        if error.kind == MISSING:
            raise UnusableInput('This image is no longer here. Choose it again.') from None
        raise UnusableInput(f'This file cannot be read as an image. It should be an intact file '
                            f'of one of {", ".join(FORMATS)}.') from None


def check_question(text: str | None) -> str:
    """The question, if it has text and at most :data:`MAX_QUESTION` characters.

    Raises:
        UnusableInput: It is empty or too long.
    """
    text = text or ''
    if not normalize_question(text):
        raise UnusableInput('Type a question first.')
    if len(text) > MAX_QUESTION:
        raise UnusableInput(f'This question is too long: it should have at most {MAX_QUESTION} '
                            f'characters, but has {len(text)}.')
    return text
