# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Samples the responses of several batches of questions at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from mmdet.structures import DetDataSample
from torch import Tensor

from mmdpad.models.non_finite import naming_samples
from mmdpad.models.rollouts.sampling import Responses

if TYPE_CHECKING:
    from .reasoning_segmentor import ReasoningSegmentor

Inputs = dict[str, list[Tensor]]
Batch = dict[str, Any]


def answer_ahead(model: ReasoningSegmentor, batches: Iterable[Batch]
                 ) -> Generator[Batch, None, None]:
    """See :meth:`.ReasoningSegmentor.answer_ahead`."""
    if model.conversations is not None:  # each asks for what the next turn shows
        yield from batches
        return
    held: deque[tuple[Batch, list[DetDataSample]]] = deque()
    asked: list[DetDataSample] = []  # of all batches that are held
    watch = _Stopwatch()
    count = model.test_cfg.get('group_size')

    def ask() -> Iterator[tuple[list[Any], list[int]]]:
        for batch in watch.paused_by(batches):
            samples = batch['data_samples']
            rows = [row for row, sample in enumerate(samples) if sample.get(
                'cached_response' if count is None else 'cached_responses') is None]
            inputs, chosen, numbers = select_samples(batch['inputs'], samples, rows)
            held.append((batch, chosen))
            asked.extend(chosen)
            yield model.encode_prompts(inputs, chosen) if rows else [], numbers

    with closing(model.rollout_engine.stream(model.policy, ask(), **model.test_cfg)) as stream:
        while True:
            watch.restart()
            with naming_samples(asked):
                responses = model.next_responses(stream)
            if responses is None:
                return
            batch, samples = held.popleft()
            del asked[:len(samples)]
            seconds = watch.seconds() / max(len(samples), 1)
            drawn = read_responses(model.policy, responses, model.test_cfg['temperature'])
            for number, sample in enumerate(samples):
                sample.set_metainfo(
                    dict(sampled_response=(*drawn[number][:3], seconds)) if count is None else
                    dict(sampled_responses=(drawn[number * count:(number + 1) * count], seconds)))
            yield batch


class Drawn(NamedTuple):
    """A response of a rollout engine, or one that is stored.

    Attributes:
        response: Its text.
        truncated: Whether the length limit ended it.
        ids: (r,) long, its tokens, on the CPU; None if they were not stored.
        mean_logp: See :class:`mmdpad.structures.Candidate`.
    """

    response: str
    truncated: bool
    ids: Tensor | None = None
    mean_logp: float | None = None


def read_responses(policy: Any, responses: Responses, temperature: float) -> list[Drawn]:
    """N responses, with texts; ``temperature`` is the one at which they were sampled."""
    texts = policy.decode(responses.ids.where(responses.mask, policy.pad_token))
    means: list[float | None] = [None] * len(texts)
    if responses.logp is not None and temperature == 1:
        counts = responses.mask.sum(dim=1).clamp(min=1)
        means = (responses.logp.double().sum(dim=1) / counts).tolist()
    return [Drawn(*one) for one in zip(texts, responses.truncated.tolist(),
                                       own_tokens(responses.ids, responses.mask), means,
                                       strict=True)]


def own_tokens(ids: Tensor, mask: Tensor) -> list[Tensor]:
    """The tokens (r,) of each of N responses, on the CPU, from padded ones (N, R)."""
    return [row[own] for row, own in zip(ids.cpu(), mask.cpu(), strict=True)]


def select_samples(inputs: Inputs, data_samples: Sequence[DetDataSample], rows: Sequence[int]
                   ) -> tuple[Inputs, list[DetDataSample], list[int]]:
    """Some samples of a batch: their inputs, themselves, and their numbers for a rollout engine,
    which are their indices in the data set, or 0, as for a question that is asked alone."""
    samples = [data_samples[row] for row in rows]
    return ({name: [values[row] for row in rows] for name, values in inputs.items()}, samples,
            [sample.get('sample_idx', 0) for sample in samples])


class _Stopwatch:
    """Measures wall-clock time without what an iterator takes."""

    def restart(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def paused_by(self, items: Iterable[Batch]) -> Iterator[Batch]:
        """The same items; the time for each does not count."""
        items = iter(items)
        while True:
            start = time.perf_counter()
            item = next(items, None)
            self._start += time.perf_counter() - start
            if item is None:
                return
            yield item
