# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Code that the scripts that make the toy models share."""
from __future__ import annotations

import json
import os
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from mmdpad.datasets.labelme_shapes import Polygon
from mmdpad.datasets.reason_seg_annotation import draw_masks
from mmdpad.datasets.transforms import ModelImageResize, TargetsFromMask
from mmdpad.prompts.zoom import BadCall, reply_text
from mmdpad.toy.shapes_tasks import (
    SHAPES_ANSWER_TEMPLATE,
    SHAPES_DETECTION_TEMPLATE,
    list_answered_questions,
    name_objects,
)
from mmdpad.toy.shapes_world import (
    COLORS,
    FUNCTIONS,
    GENERIC_CAPTIONS,
    SHAPES,
    SHAPES_IMAGE_SIZE,
    Scene,
    draw_scene,
)
from mmdpad.toy.zoom_world import ZOOM_PROMPT_TEMPLATE

LOOKING = 'look closer.'
"""The reasoning before a call."""


def start(seed: int) -> np.random.Generator:
    """Use one thread (more would make such small models slower) and fixed seeds."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


class Progress:
    """Prints a line every `every` seconds: step, numbers, remaining time."""

    def __init__(self, name: str, steps: int, every: float = 20.0):
        self.name, self.steps, self.every = name, steps, every
        self.began = self.printed = time.time()

    def __call__(self, step: int, **numbers: float) -> None:
        """Report that `step` (from 1) is done."""
        now = time.time()
        if now - self.printed < self.every and step != self.steps:
            return
        self.printed = now
        left = (now - self.began) / step * (self.steps - step)
        text = '  '.join(f'{key} {value:.4g}' for key, value in numbers.items())
        print(f'[{self.name}] {step}/{self.steps}  {text}  '
              f'{now - self.began:.0f} s, left {left / 60:.1f} min', flush=True)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.time() - self.began


def world_words() -> list[str]:
    """List every word that the world's questions, reasoning and captions can contain, sorted."""
    rng = np.random.default_rng(0)
    words: set[str] = set()
    texts = [*COLORS, *SHAPES, *GENERIC_CAPTIONS, 'small big']
    texts += [text for entry in FUNCTIONS.values() for text in entry]
    for _ in range(300):
        scene = draw_scene(rng)
        texts += [scene.question.text, scene.reasoning('list'), scene.reasoning('focus')]
        texts += [text for group in scene.captions().values() for text in group]
    for text in texts:
        words.update(_words_in(text))
    return sorted(words)


def task_words() -> list[str]:
    """List every word of prompts and answers of the further tasks (`shapes_tasks`), sorted."""
    rng = np.random.default_rng(0)
    words = {word for template in (SHAPES_DETECTION_TEMPLATE, SHAPES_ANSWER_TEMPLATE)
             for word in _words_in(template.format(question=''))}
    for _ in range(300):
        scene = draw_scene(rng)
        height, width = scene.image.shape[:2]
        for question in list_answered_questions(scene.objects, width, height):
            words.update(_words_in(f'{question.text} {question.answer}'))
    return sorted(words.union(_words_in(name_objects(()))))


def zoom_words() -> list[str]:
    """List every word of turns in which the policy looks closer, and of replies to them, sorted."""
    width, height = SHAPES_IMAGE_SIZE
    texts = [ZOOM_PROMPT_TEMPLATE.format(question=''), LOOKING]
    texts += [reply_text(found, left) for left in range(3) for found in (
        (height, width), *map(BadCall, ('several_calls', 'bad_box', 'empty_box', 'outside')))]
    return sorted({word for text in texts for word in _words_in(text)})


def _words_in(text: str) -> list[str]:
    return ''.join(c if c.isalpha() else ' ' for c in text).split()


def object_mask(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Draw the mask of an outline in the same way as the annotation reader.

    Args:
        polygon: (N, 2) outline, (x, y) in pixels.
        height: Height of the mask.
        width: Width of the mask.

    Returns:
        bool (height, width).
    """
    outline = Polygon(polygon.astype(np.int32), is_ignored=False)
    return draw_masks([outline], height, width)[0]


def targets_of(scene: Scene) -> list[tuple[list, list]]:
    """Find the box [x1, y1, x2, y2] and two points of every object with the data pipeline."""
    found = []
    for item in scene.objects:
        results = dict(gt_masks=object_mask(item.polygon, *scene.image.shape[:2])[None],
                       ori_shape=scene.image.shape[:2], model_shape=SHAPES_IMAGE_SIZE[::-1])
        results = TargetsFromMask().transform(results)
        found.append((results['model_boxes'][0].int().tolist(),
                      results['model_points'][0].int().tolist()))
    return found


def to_model_image(image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Resize (H, W, 3) to the model image as the pipeline does; with `rng`, sometimes otherwise."""
    if rng is None or rng.random() < 0.5:
        return ModelImageResize(SHAPES_IMAGE_SIZE).transform(dict(img=image))['model_img']
    way = (cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC)[rng.integers(3)]
    return cv2.resize(image, SHAPES_IMAGE_SIZE, interpolation=way)


def save_report(folder: Path, name: str, numbers: dict) -> None:
    """Write `<folder>/../<name>_report.json`, from which the README is made."""
    path = folder.parent / f'{name}_report.json'
    temporary = path.with_suffix('.tmp')
    temporary.write_text(json.dumps(numbers, indent=1) + '\n', encoding='utf-8')
    os.replace(temporary, path)
    print(json.dumps(numbers), flush=True)
