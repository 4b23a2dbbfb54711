# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""From a question to what the page shows of each model, step by step; knows nothing of gradio."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mmdpad.apis.answer import Answer
from mmdpad.apis.reason_seg_inferencer import ReasonSegInferencer
from mmdpad.geometry.boxes import union_box
from mmdpad.models.discriminators.caption_fit import caption_fit
from mmdpad.visualization.answer import draw_regions
from mmdpad.visualization.text_panel import printable, shorten

from .inputs import UnusableInput, check_question, read_upload

INTERVAL = 0.1
"""Seconds between two looks at the text while it is written."""
NO_SIMILARITIES = 'No similarities: the description or the box is missing or cannot be used.'


@dataclass(frozen=True)
class Model:
    """A checkpoint that is asked.

    Attributes:
        name: What the page calls it.
        infer: The inferencer.
        discriminator: What compares descriptions and pictures, see :func:`caption_fit`; None
            without one, then ``note`` says why.
        region_margin: As of :func:`caption_fit`.
        note: Why there is no discriminator.
    """

    name: str
    infer: ReasonSegInferencer
    discriminator: Callable[..., Any] | None = None
    region_margin: float = 0.0
    note: str = ''


@dataclass(frozen=True)
class Shown:
    """What the page shows of one model. Every text may hold anything, markup too.

    Attributes:
        status: One line: how far it is, or what went wrong.
        failed: Whether the status is bad news.
        reasoning, caption, response: What the model wrote; the reasoning so far while it writes.
        picture: (H, W, 3) uint8 RGB, the image with mask, box and points; None without an answer.
        facts: Name -> value, of the finished answer.
        similarities: Of the description with region and whole image; None without.
        note: Why there are no similarities.
    """

    status: str = ''
    failed: bool = False
    reasoning: str = ''
    caption: str = ''
    response: str = ''
    picture: np.ndarray | None = None
    facts: dict[str, str] = field(default_factory=dict)
    similarities: tuple[float, float] | None = None
    note: str = ''


def ask(models: Sequence[Model], path: str | None, question: str | None,
        max_pixels: int) -> Iterator[tuple[str, list[Shown]]]:
    """Ask all models the same question, one after the other.

    A closed iterator ends the sampling.

    Args:
        models: At least one.
        path, question: See :func:`read_upload` and :func:`check_question`.
        max_pixels: Of the image.

    Yields:
        What is wrong with image or question ('' if nothing is), and what to show of each model.
    """
    columns = [Shown() for _ in models]
    try:
        image, question = read_upload(path, max_pixels), check_question(question)
    except UnusableInput as problem:
        yield str(problem), columns
        return
    columns = [Shown('Waits for its turn ...') for _ in models]
    for number, model in enumerate(models):
        with closing(answer(model, image, question)) as steps:
            for shown in steps:
                columns[number] = shown
                yield '', list(columns)


def answer(model: Model, image: np.ndarray, question: str) -> Iterator[Shown]:
    """One model's answer, from 'looks at the image' to the result or an error in short.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    shown = Shown('Looks at the image ...')
    yield shown
    started = seen = time.perf_counter()
    try:
        with closing(model.infer.stream(image, question)) as pieces:
            for piece in pieces:
                now = time.perf_counter()
                if isinstance(piece, Answer):
                    shown = finish(model, image, piece, now - started)
                elif now - seen >= INTERVAL or not shown.response:
                    text, seen = printable(piece), now
                    shown = Shown(f'Writes ... {now - started:.0f} s', response=text,
                                  reasoning=reasoning_in(text))
                else:
                    continue
                yield shown
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        reason = ': '.join([type(error).__name__, *lines[:1]])
        yield replace(shown, failed=True,
                      status=printable(f'The model failed. {shorten(reason, 200)}'))


def finish(model: Model, image: np.ndarray, found: Answer, seconds: float) -> Shown:
    """What to show of an answer.

    Args:
        image: The image that it is about.
        seconds: From question to answer.
    """
    response = printable(found['response'])
    shown = Shown(f'Answered in {seconds:.1f} s', response=response,
                  reasoning=printable(found['reasoning'] or reasoning_in(response)),
                  caption=printable(found['caption'] or ''))
    facts = {'Seconds': ', '.join(f'{name} {spent:.2f}'
                                  for name, spent in found['seconds'].items())}
    if found['failure']:
        return replace(shown, failed=True, facts=facts, status=printable(
            f'The response cannot be used: {shorten(found["failure"], 200)}'))
    objects = found['objects']
    boxes = [item['box'] for item in objects]
    picture = draw_regions(image, found['mask'], boxes,
                           [point for item in objects for point in item['points']])
    if not objects:
        return replace(shown, facts=facts, picture=picture,
                       status=f'{shown.status}: nothing in the image is meant')
    facts = {'Decoder score': ', '.join(f'{item["score"]:.3f}' for item in objects), **facts}
    similarities, note = None, model.note
    if model.discriminator is not None:
        similarities = caption_fit(model.discriminator, image, union_box(boxes), found['caption'],
                                   model.region_margin)
        note = '' if similarities else NO_SIMILARITIES
    return replace(shown, facts=facts, picture=picture, similarities=similarities, note=note)


def reasoning_in(text: str) -> str:
    """The reasoning of a response that may be unfinished: what stands between the think tags; all
    from the start, or to the end, where a tag is not there (yet)."""
    return text.partition('<think>')[2 if '<think>' in text else 0].partition('</think>')[0].strip()
