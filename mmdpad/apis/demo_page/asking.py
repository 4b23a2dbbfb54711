# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Turns a question into what the page shows for each model, step by step; independent of gradio."""

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
from mmdpad.visualization.regions import draw_regions
from mmdpad.visualization.text_panel import Swatch, printable, shorten

from .inputs import UnusableInput, check_question, read_upload

INTERVAL = 0.1
"""Seconds between two checks of the text while it is being written."""
NO_SIMILARITIES = 'No similarities: the caption or the box is missing or cannot be used.'


@dataclass(frozen=True)
class Model:
    """A checkpoint that answers questions.

    Attributes:
        name: Its name on the page.
        infer: The inferencer.
        discriminator: Compares captions and images, see :func:`caption_fit`; None if there is
            none, and then ``note`` says why.
        region_margin: See :func:`caption_fit`.
        note: Why there is no discriminator.
    """

    name: str
    infer: ReasonSegInferencer
    discriminator: Callable[..., Any] | None = None
    region_margin: float = 0.0
    note: str = ''


@dataclass(frozen=True)
class Shown:
    """What the page shows for one model. Every text may contain anything, markup included.

    Attributes:
        status: One line: the progress, or what went wrong.
        failed: Whether the status reports a failure.
        reasoning, caption, response: The model's text; the reasoning so far while it is writing.
        picture: (H, W, 3) uint8 RGB, the image with mask, boxes and points; None without an answer.
        legend: Of the picture.
        facts: Name -> value, for the finished answer.
        objects: Label, score and description of each object, if they have labels.
        samples: Of each of several answers its number, with a mark if it was chosen, its value, and
            its caption or response.
        similarities: Of the caption with the region and with the whole image; None if unavailable.
        note: Why there are no similarities.
    """

    status: str = ''
    failed: bool = False
    reasoning: str = ''
    caption: str = ''
    response: str = ''
    picture: np.ndarray | None = None
    legend: Sequence[Swatch] = ()
    objects: Sequence[tuple[str, float, str]] = ()
    samples: Sequence[tuple[str, str, str]] = ()
    facts: dict[str, str] = field(default_factory=dict)
    similarities: tuple[float, float] | None = None
    note: str = ''


def ask(models: Sequence[Model], path: str | None, question: str | None,
        max_pixels: int, task: str | None = None, samples: int = 1,
        select: str | None = None) -> Iterator[tuple[str, list[Shown]]]:
    """Ask all models the same question, one after the other.

    Closing the iterator stops the sampling.

    Args:
        models: At least one.
        path, question: See :func:`read_upload` and :func:`check_question`.
        max_pixels: The most pixels an image may have.
        task: One of :func:`shared_tasks`; None for the first of each model.
        samples, select: See :meth:`.ReasonSegInferencer.__call__`; a single answer is as the
            model's config says.

    Yields:
        The problem with the image or question ('' if none), and what to show for each model.
    """
    columns = [Shown() for _ in models]
    try:
        image, question = read_upload(path, max_pixels), check_question(question)
    except UnusableInput as problem:
        yield str(problem), columns
        return
    columns = [Shown('Waiting for its turn ...') for _ in models]
    for number, model in enumerate(models):
        with closing(answer(model, image, question, task, samples, select)) as steps:
            for shown in steps:
                columns[number] = shown
                yield '', list(columns)


def shared_tasks(models: Sequence[Model]) -> list[str]:
    """The tasks that all models have, in the order of the first, if there is a choice; else none.
    """
    first, *others = (getattr(model.infer.model, 'tasks', {}) for model in models)
    shared = [name for name in first if all(name in other for other in others)]
    return shared if len(shared) > 1 else []


def answer(model: Model, image: np.ndarray, question: str, task: str | None = None,
           samples: int = 1, select: str | None = None) -> Iterator[Shown]:
    """One model's answer, from 'Looking at the image' to the result or a short error.

    Args:
        image: (H, W, 3) uint8 RGB.
        task, samples, select: See :func:`ask`.
    """
    shown = Shown('Looking at the image ...')
    yield shown
    started = seen = time.perf_counter()
    try:
        several: dict[str, Any] = dict(samples=samples, select=select) if samples > 1 else {}
        with closing(model.infer.stream(image, question, task, **several)) as pieces:
            for piece in pieces:
                now = time.perf_counter()
                if isinstance(piece, Answer):
                    shown = finish(model, image, piece, now - started)
                elif now - seen >= INTERVAL or not shown.response:
                    text, seen = printable(piece), now
                    shown = Shown(f'Writing ... {now - started:.0f} s', response=text,
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
    """What to show for an answer.

    Args:
        image: The image it is about.
        seconds: Time from question to answer.
    """
    response = printable(found['response'])
    shown = Shown(f'Answered in {seconds:.1f} s', response=response,
                  reasoning=printable(found['reasoning'] or reasoning_in(response)),
                  caption=printable(found['caption'] or ''),
                  samples=[_describe_sample(number, one) for number, one in enumerate(
                      found.get('samples', ()), start=1)])
    facts = {'Seconds': ', '.join(f'{name} {spent:.2f}'
                                  for name, spent in found['seconds'].items())}
    if talk := found.get('conversation'):
        shown_parts = ', '.join(map(str, talk['crops'])) or 'none'
        facts |= {'Turns': str(len(talk['turns'])), 'Parts shown': shown_parts}
    if found['failure']:
        return replace(shown, failed=True, facts=facts, status=printable(
            f'The response cannot be used: {shorten(found["failure"], 200)}'))
    objects = found['objects']
    picture, legend = draw_regions(image, found.regions)
    shown = replace(
        shown, picture=picture, legend=legend,
        objects=[(printable(item['label']), item['score'], printable(item['description']))
                 for item in objects if 'label' in item])
    if found.get('answer') is not None:
        facts = {'Answer': printable(found['answer']), **facts}
    elif not objects:
        return replace(shown, facts=facts,
                       status=f'{shown.status}: the question refers to nothing here')
    if found['mask'] is not None:
        facts = {'Decoder score': ', '.join(f'{item["score"]:.3f}' for item in objects), **facts}
    similarities, note = None, model.note
    if model.discriminator is not None:
        if objects:
            similarities = caption_fit(
                model.discriminator, image, union_box([item['box'] for item in objects]),
                found['caption'], model.region_margin)
        note = '' if similarities else NO_SIMILARITIES
    return replace(shown, facts=facts, similarities=similarities, note=note)


def _describe_sample(number: int, sample: dict[str, Any]) -> tuple[str, str, str]:
    """One of the :attr:`Shown.samples`."""
    text = sample['response'].partition('<caption>')[2].partition('</caption>')[0]
    return (f'{number}' + ' (chosen)' * sample['chosen'],
            'unusable' if not sample['usable'] else
            'none' if sample['value'] is None else f'{sample["value"]:.3g}',
            printable(shorten(text or sample['response'], 200)))


def reasoning_in(text: str) -> str:
    """The reasoning in a response that may be unfinished: the text between the think tags. If the
    opening tag is missing it starts at the beginning; if the closing one is, it runs to the end."""
    return text.partition('<think>')[2 if '<think>' in text else 0].partition('</think>')[0].strip()
