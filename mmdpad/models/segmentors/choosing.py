# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Samples several answers to each question, and chooses one of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdpad.geometry.coordinates import shape_of
from mmdpad.geometry.mask_iou import pairwise_iou, union_of
from mmdpad.models.non_finite import naming_samples
from mmdpad.models.scorers.box_scorer import as_plain
from mmdpad.models.selectors import Asked, Selector
from mmdpad.models.selectors.building import build_selectors, distinct_parts
from mmdpad.models.selectors.selector import best_of
from mmdpad.prompts import read_choice
from mmdpad.prompts.short_answers import comparable
from mmdpad.structures import Candidate, ParseFailure, Selection
from mmdpad.structures.candidates import ABSTAINED
from mmdpad.tasks import Parsed, Task

from .answering_ahead import Drawn, Inputs, read_responses, select_samples
from .box_instances import box_instances

if TYPE_CHECKING:
    from .reasoning_segmentor import ReasoningSegmentor


@dataclass(frozen=True)
class Choice:
    """How to choose among several answers to a question, as `model.test_cfg` says.

    Attributes:
        num_samples: How many answers are sampled.
        selector: Gives each a value; the best one is the answer.
        abstain_below: If the value of the best one is not at least this, there is no answer; None:
            there always is one.
        abstain_by: Gives that value; None for ``selector``.
        compare_greedy: Whether the greedy answer is also asked for, for a comparison.
    """

    num_samples: int
    selector: Selector
    abstain_below: float | None = None
    abstain_by: Selector | None = None
    compare_greedy: bool = False

    @classmethod
    def of(cls, test_cfg: Mapping[str, Any], tasks: Mapping[str, Task]) -> Choice | None:
        """Build what a checked `test_cfg` says; None without ``num_samples``.

        Raises:
            ValueError: See :func:`mmdpad.models.selectors.building.build_selectors`.
        """
        if test_cfg.get('num_samples') is None:
            return None
        selectors = build_selectors(test_cfg, tasks)
        for selector in selectors.values():
            selector.prepare()
        return cls(int(test_cfg['num_samples']), selectors['select'],
                   test_cfg.get('abstain_below'), selectors.get('abstain_by'),
                   test_cfg.get('compare_greedy', False))

    @property
    def parts(self) -> list[Selector]:
        """The selectors that are measured."""
        return distinct_parts(filter(None, (self.selector, self.abstain_by)))

    @property
    def needs_policy(self) -> bool:
        """Whether a part needs the policy."""
        return any(part.needs_policy for part in self.parts)

    def describe(self) -> dict[str, Any]:
        """What the choice depends on, as plain data without folders of this machine."""
        return dict(num_samples=self.num_samples, select=as_plain(self.selector.config),
                    abstain_below=self.abstain_below,
                    **(dict(abstain_by=as_plain(self.abstain_by.config))
                       if self.abstain_by else {}))

    def make(self, selection: Selection) -> int:
        """Write the choice into a selection, and return the best candidate, chosen or not."""
        selection.scores = self.selector.values(selection)
        best = best_of(selection.scores, selection.usable)
        selection.value = selection.confidence = float(selection.scores[best])
        if self.abstain_by is not None:
            selection.confidence = float(self.abstain_by.values(selection)[best])
        rejected = (self.abstain_below is not None
                    and not selection.confidence >= self.abstain_below)
        selection.chosen = None if rejected else best
        return best


def choose_answers(model: ReasoningSegmentor, inputs: Inputs,
                   data_samples: Sequence[DetDataSample]) -> list[dict[str, Any]]:
    """Answer each of B questions with the best of N answers.

    Args:
        model: A model with a ``choice``.
        inputs, data_samples: See :meth:`.ReasoningSegmentor.predict`. Samples may have
            ``cached_responses``, the N sampled responses, the greedy one or None, and seconds, or
            ``sampled_responses``, the N responses and seconds.

    Returns:
        For each question what :func:`.answers.find_answers` returns, and ``instances``, None if all
        answers were rejected. Samples get their ``selection``.
    """
    choice = model.choice
    assert choice is not None
    drawn, greedy, seconds = _collect(model, inputs, data_samples)
    selections = []
    for row, sample in enumerate(data_samples):
        started = time.perf_counter()
        candidates = _decode(model, inputs, row, sample, [*drawn[row], *greedy[row]],
                             choice.num_samples)
        greedy_one = candidates.pop() if greedy[row] else None
        selections.append(Selection(
            candidates, {}, np.zeros((0, 0)), greedy_one,
            seconds=dict(sample=seconds[row], decode=time.perf_counter() - started)))
    started = time.perf_counter()
    parts = choice.parts
    prompts = (model.encode_prompts(inputs, [*data_samples]) if choice.needs_policy
               else [None] * len(data_samples))
    asked = [Asked(image, selection.candidates, prompt, sample)
             for image, selection, prompt, sample in zip(
                 inputs['model_image'], selections, prompts, data_samples, strict=True)]
    with naming_samples(data_samples):
        measured = {part.name: part.measure(asked, model.policy) for part in parts}
    answers = []
    for row, (sample, selection) in enumerate(zip(data_samples, selections, strict=True)):
        selection.values = {name: found[row] for name, found in measured.items()
                            if found is not None}
        selection.overlaps = overlaps_of(selection.candidates, model.task_of(sample),
                                         sample.get('choices') or ())
        selection.clip_calls = sum(part.cost(asked[row]) for part in parts)
        answers.append(_answer_of(model, choice, selection, choice.make(selection)))
        sample.selection = selection
    share = (time.perf_counter() - started) / max(len(selections), 1)
    for selection in selections:
        selection.seconds['select'] = share
    return answers


def _collect(model: ReasoningSegmentor, inputs: Inputs, data_samples: Sequence[DetDataSample]
             ) -> tuple[list[list[Drawn]], list[list[Drawn]], list[float]]:
    """The N sampled responses to each question, a list of its greedy one if it is wanted, and the
    seconds that they took."""
    choice = model.choice
    assert choice is not None
    cached = [sample.get('cached_responses') for sample in data_samples]
    given = [sample.pop('sampled_responses', None) for sample in data_samples]
    drawn = [one[0] if one is not None else ahead[0] if ahead is not None else []
             for one, ahead in zip(cached, given, strict=True)]
    seconds = [one[2] if one is not None else 0.0 if ahead is None else ahead[1]
               for one, ahead in zip(cached, given, strict=True)]
    greedy = [[one[1]] if one is not None and one[1] is not None and choice.compare_greedy else []
              for one in cached]
    wanted: list[tuple[list[list[Drawn]], dict[str, Any]]] = [(drawn, {})]
    if choice.compare_greedy:
        wanted.append((greedy, dict(temperature=0.0, group_size=1)))
    for found, settings in wanted:
        rows = [row for row, own in enumerate(found) if not own]
        started = time.perf_counter()
        if rows:
            new = _ask(model, inputs, data_samples, rows, model.test_cfg | settings)
            size = len(new) // len(rows)
            for place, row in enumerate(rows):
                found[row] = new[place * size:(place + 1) * size]
                if found is drawn:  # the greedy one is only for a comparison
                    seconds[row] += (time.perf_counter() - started) / len(rows)
    return drawn, greedy, seconds


def _ask(model: ReasoningSegmentor, inputs: Inputs, data_samples: Sequence[DetDataSample],
         rows: list[int], sampling: dict[str, Any]) -> list[Drawn]:
    """Sample responses to the questions of some rows."""
    some, samples, numbers = select_samples(inputs, data_samples, rows)
    started = model._start(some, samples, **sampling, prompt_numbers=numbers)
    with naming_samples(samples):
        responses = started.future.result()
    return read_responses(model.policy, responses, sampling['temperature'])


def _decode(model: ReasoningSegmentor, inputs: Inputs, row: int, sample: DetDataSample,
            drawn: Sequence[Drawn], num_samples: int) -> list[Candidate]:
    """Parse the responses to a question, and decode their masks."""
    model_image, image = inputs['model_image'][row], inputs['image'][row]
    shape, model_shape = shape_of(image), shape_of(model_image)
    parsed = [model._read(one.response, model_image, sample)[0] for one in drawn]
    usable = [() if isinstance(own, ParseFailure) else own.objects for own in parsed]
    found: list[tuple[InstanceData, int]]
    if model.task_of(sample).decodes_masks:
        captions = [own.caption for own in parsed]
        found = [(own, 0) for own in model.decode_group(
            [*zip(usable, captions, strict=True)], image, model_shape)]
    else:
        found = [box_instances(objects, sample, shape, model_shape) for objects in usable]
    return [Candidate(one.response, one.truncated, own, instances,
                      model.policy.count_tokens(one.response) if one.ids is None else len(one.ids),
                      one.ids, one.mean_logp, invented, greedy=number >= num_samples)
            for number, (one, own, (instances, invented)) in enumerate(
                zip(drawn, parsed, found, strict=True))]


def overlaps_of(candidates: Sequence[Candidate], task: Task,
                choices: Sequence[str] = ()) -> np.ndarray:
    """The :attr:`.Selection.overlaps` of answers to a question of a task, with its choices if there
    are any."""
    usable = np.array([own.usable for own in candidates])
    if task.decodes_masks:
        overlaps = pairwise_iou([union_of(own.instances.masks) for own in candidates])
    else:
        names = [_in_words(own.parsed, choices) for own in candidates]
        overlaps = np.array([[float(one is not None and one == other) for other in names]
                             for one in names])
    return overlaps * (usable[:, None] & usable)


def _in_words(parsed: Parsed, choices: Sequence[str]) -> Any:
    """What makes two answers in words the same."""
    if parsed.answer is None:
        return None
    chosen = read_choice(parsed.answer, choices) if choices else None
    return comparable(parsed.answer) if chosen is None else chosen


def _answer_of(model: ReasoningSegmentor, choice: Choice, selection: Selection,
               best: int) -> dict[str, Any]:
    """The best answer, or that there is none, as :func:`choose_answers` returns it."""
    candidate = choice.selector.answer(selection, best)
    parsed = candidate.parsed
    if selection.chosen is None:
        value = ('no value' if np.isnan(selection.confidence) else
                 f'the value {selection.confidence:.3g}')
        parsed = ParseFailure(
            ABSTAINED, f'the best of {len(selection)} answers has {value} by the selector '
            f'{(choice.abstain_by or choice.selector).name!r}, and should have at least '
            f'{choice.abstain_below}', parsed.think, parsed.caption)
    return dict(response=candidate.response, truncated=candidate.truncated,
                response_ids=candidate.response_ids, parsed=parsed,
                reasoning_tokens=model.policy.count_tokens(parsed.think),
                instances=None if selection.chosen is None else candidate.instances)
