# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Images and questions from the user, paired and checked before any work starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mmdpad.datasets.images import FORMATS
from mmdpad.datasets.transforms import MAX_PIXELS, probe_image, to_rgb
from mmdpad.prompts import normalize_question

ImageInput = str | os.PathLike | np.ndarray | Image.Image
IMAGE_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
"""Suffixes that identify images in a folder."""


@dataclass(frozen=True)
class Query:
    """One question about one image.

    Attributes:
        image: A path, or a uint8 RGB array (H, W, 3).
        question: The question as the user wrote it.
        task: Name of its task; None for the model's first.
    """

    image: str | np.ndarray
    question: str
    task: str | None = None

    @property
    def path(self) -> str | None:
        return self.image if isinstance(self.image, str) else None


def pair_queries(images: ImageInput | Sequence[ImageInput],
                 questions: str | Sequence[str], max_pixels: int = MAX_PIXELS,
                 task: str | None = None) -> list[Query]:
    """Pair images with questions: equal numbers, or one of either for all of the other. A folder's
    path stands for the images in it (:data:`IMAGE_SUFFIXES`), sorted by name.

    Only the headers of image files are read here; they reveal a missing file, a file that is not
    an image, or one of more than ``max_pixels``.

    Raises:
        ValueError: No image or question, numbers that do not match, an empty question, or an
            unusable image (:class:`mmdpad.datasets.DatasetError` for files).
        TypeError: An image or question has the wrong type.
    """
    images = [image for given in (images if isinstance(images, (list, tuple)) else [images])
              for image in _in_folder(given)]
    questions = list(questions) if isinstance(questions, (list, tuple)) else [questions]
    if not images or not questions:
        raise ValueError(f'There should be at least one image and one question, but got '
                         f'{len(images)} and {len(questions)}')
    if len(images) != len(questions) and 1 not in (len(images), len(questions)):
        raise ValueError(f'There should be as many questions as images, or one of either, but got '
                         f'{len(questions)} questions and {len(images)} images')
    for number, question in enumerate(questions):
        if not isinstance(question, str):
            raise TypeError(f'Questions should be str, but number {number} is '
                            f'{type(question).__name__}')
        if not normalize_question(question):
            raise ValueError(f'Questions should not be empty, but number {number} is '
                             f'{question!r}')
    usable = [_check_image(image, number, max_pixels) for number, image in enumerate(images)]
    count = max(len(usable), len(questions))
    return [Query(image, question, task) for image, question in
            zip(usable * (count // len(usable)), questions * (count // len(questions)),
                strict=True)]


def _in_folder(image: ImageInput) -> list[ImageInput]:
    """The images in a folder; any other input unchanged."""
    if not isinstance(image, (str, os.PathLike)):
        return [image]
    if os.fspath(image).startswith(('http://', 'https://')):
        raise ValueError(f'Images should be files, but got the address {os.fspath(image)}; '
                         f'download it and give its path')
    if not os.path.isdir(image):
        return [image]
    found = sorted(str(path) for path in Path(image).iterdir()
                   if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise ValueError(f'A folder should hold images ({", ".join(IMAGE_SUFFIXES)}), but '
                         f'{os.fspath(image)} has none; its subfolders are not searched')
    return list(found)


def _check_image(image: ImageInput, number: int, max_pixels: int) -> str | np.ndarray:
    if isinstance(image, (str, os.PathLike)):
        probe_image(image, max_pixels)
        return os.fspath(image)
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(f'Images should be paths, uint8 RGB arrays or PIL images, but number '
                        f'{number} is {type(image).__name__}')
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f'Image arrays should be uint8 RGB (H, W, 3), but number {number} is '
                         f'{image.dtype} {image.shape}')
    return image
