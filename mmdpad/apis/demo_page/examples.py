# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Example scenes for the page."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from mmdpad.toy.shapes_world import make_scene


def write_examples(folder: str | os.PathLike, number: int = 6) -> list[tuple[str, str]]:
    """Write the first held-out toy scenes as PNG files.

    Returns:
        For each, the path and a question with exactly one correct answer.
    """
    examples = []
    for index in range(number):
        scene = make_scene('test', index)
        path = Path(folder, f'scene_{index}.png')
        Image.fromarray(scene.image).save(path)
        examples.append((str(path), scene.question.text))
    return examples
