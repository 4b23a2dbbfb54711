# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Training data of the toy policy: several answered questions about each image.

The beginning of the chat and the image are the same for all questions about an image, so they are
encoded once (`make_policy.forward`); each answer is learned exactly as if it were on its own.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from common import targets_of, to_model_image
from policy_files import MERGE, PATCH

from mmdpad.prompts import build_messages, format_response
from mmdpad.toy.shapes_world import (
    COLORS,
    SHAPES,
    SHAPES_IMAGE_SIZE,
    SHAPES_PROMPT_TEMPLATE,
    SHAPES_PROMPT_WITHOUT_CAPTION,
    SIZES,
    Question,
    Scene,
    captions_of,
    draw_scene,
    list_close_questions,
    list_questions,
    write_reasoning,
)

CAPTION_KINDS = ('specific', 'generic', 'other')
CAPTION_SHARES = (0.28, 0.54, 0.18)
# For each style of reasoning; their mean is `CAPTION_SHARES`.
TIED_SHARES = dict(focus=(0.50, 0.40, 0.10), list=(0.06, 0.68, 0.26))
LIST_STYLE_SHARE = 0.5
LIST_ALL_PROMPT = 'list all'
LOOSE_GROWTH = 2.2
"""Sides of a loose box over those of the tight one."""
WITHOUT_CAPTION_SHARE = 0.25
QUESTIONS = 4


@dataclass
class Row:
    """One image with answered questions.

    Attributes:
        image: uint8 (h, w, 3), the model image.
        tokens: For each question, the token ids after the image, response included.
        asked: For each question, the number of these before the response.
        grid: float32 (cells, 8), what each image token should represent: whether it shows an object
            (0, 1), and the object's size, color, shape (indices) and box. With crops, that of each,
            (crops * cells, 8).
        skipped: For each question, which tokens of the response are not learned; may be empty.
        crops: uint8 (h, w, 3) each, the images among the tokens, in their order.
    """

    image: np.ndarray
    tokens: list[list[int]]
    asked: list[int]
    grid: np.ndarray
    skipped: list[range] = field(default_factory=list)
    crops: list[np.ndarray] = field(default_factory=list)


class RowMaker:
    """Makes training rows.

    Args:
        processor: The policy's processor.
        seed: Seed of all draws.
        world: World of the scenes, see `make_scene`.
        tied: Reasoning that lists objects comes with vague or wrong captions, focused reasoning
            with specific ones; otherwise style and caption are independent.
        mistakes: Share of answers about an object other than the one asked for.
        loose: Share of answers that list all objects and then have a loose box and points anywhere
            in it (`loosen`); the others go straight to a tight box. 0 for no loose boxes.
    """

    def __init__(self, processor, seed: int, world: str = 'plain', tied: bool = False,
                 mistakes: float = 0.0, loose: float = 0.0):
        self.rng = np.random.default_rng(seed)
        self.world, self.tied, self.mistakes = world, tied, mistakes
        self.loose = loose
        self.tokenizer = processor.tokenizer
        marker = '|||'
        chat = processor.apply_chat_template(build_messages(marker, '{question}'),
                                             add_generation_prompt=True, tokenize=False)
        before, self.after = chat.split(marker)
        self.cells = (SHAPES_IMAGE_SIZE[0] // (PATCH * MERGE)) * (
            SHAPES_IMAGE_SIZE[1] // (PATCH * MERGE))
        pad = '<|image_pad|>'
        self.prefix = self.encode(before.replace(pad, pad * self.cells))

    def encode(self, text: str) -> list[int]:
        """Encode a text as token ids."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def __call__(self, list_all: float) -> Row:
        """Draw a scene and questions; `list_all` is the probability of a list-all question."""
        rng = self.rng
        scene = draw_scene(rng, self.world)
        targets = targets_of(scene)
        row = Row(to_model_image(scene.image, rng), [], [], make_grid(scene, targets))
        height, width = scene.image.shape[:2]
        questions = list_questions(scene.objects, width, height)
        if self.world != 'plain':
            questions += list_close_questions(scene.objects, width, height)
        for number in range(QUESTIONS):
            if number == 0 and rng.random() < list_all:
                prompt = LIST_ALL_PROMPT
                response = ', '.join(
                    f'{item.name}{box}'
                    for item, (box, _) in zip(scene.objects, targets, strict=True))
            else:
                question = draw_question(rng, questions)
                template = SHAPES_PROMPT_TEMPLATE
                if self.mistakes and rng.random() < self.mistakes:
                    others = [i for i in range(len(targets)) if i != question.target]
                    question = replace(question, target=others[rng.integers(len(others))])
                response = self.respond(scene, question, targets[question.target])
                if self.world != 'plain' and rng.random() < WITHOUT_CAPTION_SHARE:
                    template = SHAPES_PROMPT_WITHOUT_CAPTION
                    response = response[:response.index('\n<caption>')]
                prompt = template.format(question=question.text)
            asked = self.encode(prompt + self.after)
            row.tokens.append(asked + self.encode(response + '<|im_end|>'))
            row.asked.append(len(asked))
        return row

    def respond(self, scene: Scene, question, target) -> str:
        """Write the ideal response about the question's target."""
        rng = self.rng
        style = 'list' if rng.random() < (self.loose or LIST_STYLE_SHARE) else 'focus'
        captions = captions_of(scene.objects, question.target)
        shares = TIED_SHARES[style] if self.tied else CAPTION_SHARES
        texts = captions[CAPTION_KINDS[rng.choice(3, p=shares)]] or captions['generic']
        if self.loose and style == 'list':
            target = loosen(target[0], rng)
        return format_response(write_reasoning(scene.objects, question, style), *target,
                               texts[rng.integers(len(texts))])


def draw_question(rng: np.random.Generator, questions: Sequence[Question]) -> Question:
    """Draw a kind of question, then one of that kind."""
    kinds = sorted({question.kind for question in questions})
    kind = kinds[rng.integers(len(kinds))]
    choice = [question for question in questions if question.kind == kind]
    return choice[rng.integers(len(choice))]


def loosen(box: list[int], rng: np.random.Generator) -> tuple[list[int], list[list[int]]]:
    """A box `LOOSE_GROWTH` times as wide and high, see `grow`, and two points anywhere in it.

    Args:
        box: [x1, y1, x2, y2] in pixels of the model image.
        rng: For the points.

    Returns:
        The box, and two points [x, y], all integers in the same frame.
    """
    corners = np.reshape(grow(box, LOOSE_GROWTH), (2, 2))
    points = rng.integers(corners[0], corners[1] + 1, (2, 2))
    return corners.ravel().tolist(), points.tolist()


def grow(box: Sequence[float], growth: float) -> list[int]:
    """A box [x1, y1, x2, y2] in pixels of the model image, `growth` times as wide and high around
    the same center, cut to the frame; integers."""
    low, high = np.reshape(box, (2, 2))
    center, half = (low + high) / 2, growth * (high - low) / 2
    return np.clip(np.rint([center - half, center + half]), 0,
                   np.subtract(SHAPES_IMAGE_SIZE, 1)).astype(int).ravel().tolist()


def make_grid(scene: Scene, targets) -> np.ndarray:
    """Make the targets of image tokens; see `Row.grid`."""
    step = PATCH * MERGE
    side = SHAPES_IMAGE_SIZE[0] // step
    grid = np.zeros((side, side, 8), np.float32)
    for item, (box, _) in zip(scene.objects, targets, strict=True):
        x1, y1, x2, y2 = box
        kind = (list(SIZES).index(item.size), list(COLORS).index(item.color),
                SHAPES.index(item.shape))
        rows, columns = slice(y1 // step, y2 // step + 1), slice(x1 // step, x2 // step + 1)
        ys, xs = np.mgrid[rows, columns] * step + step / 2
        near = np.hypot(xs - (x1 + x2) / 2, ys - (y1 + y2) / 2)
        fits = near <= max(step * 0.75, min(x2 - x1, y2 - y1) / 2)
        grid[rows, columns][fits] = (1, *kind, *box)
    return grid.reshape(-1, 8)


def collate(rows: list[Row]) -> dict[str, torch.Tensor]:
    """Stack B rows of K questions, padded on the right: images (B, h, w, 3) uint8, tokens
    (B * K, L) long, learn (B * K, L) bool (whether a token is learned), grid; and crops
    (C, h, w, 3) uint8, if there are any. The grid is (images, cells, 8), of the crops if there are
    any."""
    texts = [tokens for row in rows for tokens in row.tokens]
    asked = [count for row in rows for count in row.asked]
    skipped = [part for row in rows for part in row.skipped or [range(0)] * len(row.tokens)]
    crops = [crop for row in rows for crop in row.crops]
    grid = np.concatenate([row.grid for row in rows]).reshape(len(crops) or len(rows), -1, 8)
    length = max(len(tokens) for tokens in texts)
    tokens = torch.tensor([[*text, *[0] * (length - len(text))] for text in texts])
    learn = torch.tensor([[begin <= i < len(text) and i not in part for i in range(length)]
                          for text, begin, part in zip(texts, asked, skipped, strict=True)])
    return dict(images=torch.from_numpy(np.stack([row.image for row in rows])), tokens=tokens,
                learn=learn, grid=torch.from_numpy(grid),
                **(dict(crops=torch.from_numpy(np.stack(crops))) if crops else {}))


class Batches(torch.utils.data.IterableDataset):
    """Yields batches without end; the share of list-all questions falls to 0 over `fade` batches.
    `maker` makes the rows (`RowMaker`, or another class like it); it gets the other arguments."""

    def __init__(self, processor, seed: int, rows: int, fade: int, maker=RowMaker, **style):
        self.processor, self.seed, self.rows, self.fade = processor, seed, rows, fade
        self.maker, self.style = maker, style

    def __iter__(self):
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        maker = self.maker(self.processor, self.seed, **self.style)
        number = 0
        while True:
            share = max(0.0, 1 - number / self.fade)
            yield collate([maker(share) for _ in range(self.rows)])
            number += 1
