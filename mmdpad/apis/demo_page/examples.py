# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Scenes to try the page with."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from mmdpad.toy.shapes_world import make_scene


def write_examples(folder: str | os.PathLike, number: int = 6) -> list[tuple[str, str]]:
    """The first held-out scenes of the miniature's world, as PNG files.

    Returns:
        For each the file's path and a question that has one right answer in it.
    """
    examples = []
    for index in range(number):
        scene = make_scene('test', index)
        path = Path(folder, f'scene_{index}.png')
        Image.fromarray(scene.image).save(path)
        examples.append((str(path), scene.question.text))
    return examples
