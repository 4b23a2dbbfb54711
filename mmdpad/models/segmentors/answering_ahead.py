# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Samples the responses of several batches of questions at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from mmdet.structures import DetDataSample
from torch import Tensor

from mmdpad.models.non_finite import naming_samples

if TYPE_CHECKING:
    from .reasoning_segmentor import ReasoningSegmentor

Inputs = dict[str, list[Tensor]]
Batch = dict[str, Any]


def answer_ahead(model: ReasoningSegmentor, batches: Iterable[Batch]
                 ) -> Generator[Batch, None, None]:
    """See :meth:`.ReasoningSegmentor.answer_ahead`."""
    held: deque[tuple[Batch, list[DetDataSample]]] = deque()
    asked: list[DetDataSample] = []  # of all batches that are held
    watch = _Stopwatch()

    def ask() -> Iterator[tuple[list[Any], list[int]]]:
        for batch in watch.paused_by(batches):
            samples = batch['data_samples']
            rows = [row for row, sample in enumerate(samples)
                    if sample.get('cached_response') is None]
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
            texts = model.policy.decode(responses.ids.where(responses.mask, model.policy.pad_token))
            for sample, *answer in zip(samples, texts, responses.truncated.tolist(),
                                       own_tokens(responses.ids, responses.mask), strict=True):
                sample.set_metainfo(dict(sampled_response=(*answer, seconds)))
            yield batch


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
