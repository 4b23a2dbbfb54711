# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Training data of the start policy that looks closer: answers at once, and conversations of a call
and an answer, about scenes of tiny objects.

Both have mistakes, each drawn on its own: calls miss the card or show it too small, answers are
about another object or have loose boxes. So rewards find good and bad conversations, and answers
without a look.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from common import LOOKING, object_mask, to_model_image
from policy_data import Row, RowMaker, draw_question, grow, make_grid
from policy_files import without_caption

from mmdpad.geometry.crops import Crop, CropLimits
from mmdpad.geometry.targets import box_from_mask, points_from_mask
from mmdpad.prompts import build_messages, format_response
from mmdpad.prompts.zoom import format_call, reply_text
from mmdpad.structures.reasoning_output import Box
from mmdpad.toy.shapes_world import (
    SHAPES_IMAGE_SIZE,
    SHAPES_PROMPT_TEMPLATE,
    Scene,
    draw_scene,
    list_questions,
    write_reasoning,
)
from mmdpad.toy.zoom_world import GRID, TINY_IMAGE_SIZE, ZOOM_PROMPT_TEMPLATE, place_card

ZOOM_LIMITS = CropLimits(min_side=50, size=SHAPES_IMAGE_SIZE)
ANSWERS = (SHAPES_PROMPT_TEMPLATE, ZOOM_PROMPT_TEMPLATE)
"""Templates of the questions about an image that are answered at once."""
CONVERSATIONS = 3
"""Number of conversations about an image, besides."""
WRONG, LOOSE, GROWTH = 0.2, 0.3, 1.6
"""Share of answers about another object; of loose boxes, and their sides over those of tight ones.
"""
SHIFTED, FAR, WIDE, NEAR = 0.2, 5, 0.2, 0.2
"""Share of calls that are shifted, by up to so many pixels of the model image; of those that are
1.5 to 3 times too wide and high; and of those whose sides are off by up to one pixel."""


class ZoomRowMaker(RowMaker):
    """Makes rows of questions about scenes of tiny objects; see `RowMaker`."""

    def __init__(self, processor, seed: int):
        super().__init__(processor, seed)
        # What is between the end tokens of a turn and of the next prompt.
        said, marker = ([dict(type='text', text=text)] for text in ('|||', '+++'))
        chat = processor.apply_chat_template(
            [*build_messages('', '{question}'), dict(role='assistant', content=said),
             dict(role='user', content=[dict(type='image'), *marker])],
            add_generation_prompt=True, tokenize=False)
        before, _, self.after_reply = chat.partition('|||<|im_end|>')[2].partition('+++')
        pad = '<|image_pad|>'
        self.before_reply = before.replace(pad, pad * self.cells)

    def __call__(self, list_all: float = 0.0) -> Row:
        """Draw a scene and questions; there are no list-all questions."""
        rng = self.rng
        plain = draw_scene(rng)
        scene, card = place_card(rng, plain)
        height, width = plain.image.shape[:2]
        questions = list_questions(plain.objects, width, height)
        targets = tiny_targets(scene, card)
        image = torch.from_numpy(scene.image).permute(2, 0, 1)
        whole = Crop.whole(TINY_IMAGE_SIZE[::-1], SHAPES_IMAGE_SIZE[::-1])
        row, grids = Row(to_model_image(scene.image), [], [], np.zeros(0)), []
        for template in (*ANSWERS, *[ZOOM_PROMPT_TEMPLATE] * CONVERSATIONS):
            question = draw_question(rng, questions)
            asked = self.encode(template.format(question=question.text) + self.after)
            row.asked.append(len(asked))
            if len(row.tokens) < len(ANSWERS):
                row.tokens.append(asked + self.encode(self.answer(scene, question, targets, whole)))
                row.skipped.append(range(0))
                continue
            call = self.call(card)
            crop = whole.zoom(call, 'pixels', TINY_IMAGE_SIZE[::-1], ZOOM_LIMITS, 1)
            before = asked + self.encode(format_call(LOOKING, call) + '<|im_end|>')
            reply = self.encode(self.before_reply + reply_text(crop.shape, 0) + self.after_reply)
            row.tokens.append(before + reply + self.encode(
                self.answer(scene, question, targets, crop)))
            seen = is_seen(targets[question.target][0], crop)
            row.skipped.append(range(len(before), len(before + reply) if seen
                                     else len(row.tokens[-1])))
            row.crops.append(crop.cut(image).permute(1, 2, 0).numpy())
            grids.append(grid_of(scene, targets, crop))
        return replace(row, grid=np.concatenate(grids))

    def call(self, card: Sequence[int]) -> list[int]:
        """A box to look at, in pixels of the model image: about that of the card, or a bad one."""
        rng, box = self.rng, np.array(card) // GRID
        kind = rng.random()
        if kind < SHIFTED:
            box = box + np.tile(rng.integers(-FAR, FAR + 1, 2), 2)
        elif kind < SHIFTED + WIDE:
            box = np.array(grow(box, rng.uniform(1.5, 3)))
        elif kind < SHIFTED + WIDE + NEAR:
            box = box + rng.integers(-1, 2, 4)
        low = box[:2].clip(0, SHAPES_IMAGE_SIZE[0] - 1)
        return [*low.astype(int).tolist(),
                *box[2:].clip(low + 1, SHAPES_IMAGE_SIZE[0]).astype(int).tolist()]

    def answer(self, scene: Scene, question, targets, crop: Crop) -> str:
        """A response in coordinates of a crop, without a caption, with its end token."""
        rng = self.rng
        if rng.random() < WRONG:
            others = [i for i in range(len(targets)) if i != question.target]
            question = replace(question, target=others[rng.integers(len(others))])
        box, points = targets[question.target]
        box, points = to_crop(box, crop), [to_crop(point, crop) for point in points]
        box[2:] = [max(end, begin + 1) for begin, end in zip(box[:2], box[2:], strict=True)]
        if rng.random() < LOOSE:
            box = grow(box, GROWTH)
        return without_caption(format_response(
            write_reasoning(scene.objects, question, 'focus'), box, points, '')) + '<|im_end|>'


def tiny_targets(scene: Scene, card: Sequence[int]) -> list[tuple[Box, list[Box]]]:
    """Box and two points of every object in the original frame, as `TargetsFromMask` finds them
    (not rounded); ``card`` is where all are."""
    x1, y1, x2, y2 = card
    found = []
    for item in scene.objects:
        mask = object_mask(item.polygon - (x1, y1), y2 - y1, x2 - x1)
        found.append(((box_from_mask(mask) + (x1, y1, x1, y1)).tolist(),
                      (points_from_mask(mask) + (x1, y1)).tolist()))
    return found


def to_crop(values: Sequence[float], crop: Crop) -> list[int]:
    """Whole pixels of a crop, within it, for values in the original frame."""
    return np.clip(np.rint(crop.from_original(values, 'pixels')), 0,
                   np.subtract(SHAPES_IMAGE_SIZE[0], 1)).astype(int).tolist()


def is_seen(box: Box, crop: Crop) -> bool:
    """Whether the center of a box in the original frame is in the crop."""
    return all(low <= (begin + end) / 2 < high for begin, end, low, high in
               zip(box[:2], box[2:], crop.box[:2], crop.box[2:], strict=True))


def grid_of(scene: Scene, targets, crop: Crop) -> np.ndarray:
    """`make_grid` of the objects that are seen in a crop."""
    seen = [i for i, (box, _) in enumerate(targets) if is_seen(box, crop)]
    return make_grid(replace(scene, objects=tuple(scene.objects[i] for i in seen)),
                     [(to_crop(targets[i][0], crop), []) for i in seen])
