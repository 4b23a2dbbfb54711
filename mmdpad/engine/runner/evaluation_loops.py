# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Validation and test loops for models that need a long time per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import torch
from mmengine.runner import TestLoop, ValLoop
from mmengine.runner.amp import autocast

from mmdpad.datasets.reasoning_dataset import for_evaluation
from mmdpad.engine.strategies import gathered
from mmdpad.engine.unwrap import unwrap
from mmdpad.evaluation.readable import why_unreadable
from mmdpad.models.segmentors import ReasoningSegmentor
from mmdpad.registry import LOOPS

from .dataset_order import InDatasetOrder, record_batches
from .encoding import build_encoding_dataloader
from .progress import progress_bar


class _EncodingLoop:
    """Encodes prompts in the data loader's workers, answers some batches ahead, shows progress, and
    gives metrics their results in the order of the data set (:class:`InDatasetOrder`), whatever the
    sampler's order."""

    runner: Any
    dataloader: Any
    evaluator: Any
    fp16: bool

    def __init__(self, runner: Any, dataloader: Any, evaluator: Any, **kwargs: Any) -> None:
        if isinstance(dataloader, dict):
            dataloader = dict(dataloader, dataset=for_evaluation(dataloader['dataset']))
        super().__init__(  # type: ignore[call-arg]
            runner, build_encoding_dataloader(runner, dataloader, training=False), evaluator,
            **kwargs)
        if isinstance(unwrap(runner.model), ReasoningSegmentor):
            for metric in self.evaluator.metrics:
                if reason := why_unreadable(type(metric)):
                    raise ValueError(reason)
        self._batches = record_batches(self.dataloader)

    def run(self) -> dict:
        """Evaluate all samples, and return the metrics."""
        name = type(self).__name__.removeprefix('ReasonSeg').removesuffix('Loop')
        evaluator = self.evaluator
        with (progress_bar(len(self.dataloader.sampler), name, self.runner.logger) as self._bar,
              ExitStack() as self._stack):
            if self._batches is not None:
                self.evaluator = InDatasetOrder(evaluator, self._batches)
                self._stack.callback(setattr, self, 'evaluator', evaluator)
            self._stack.callback(setattr, self, 'dataloader', self.dataloader)
            self.dataloader = _Answered(self.dataloader, self._answer)
            return super().run()  # type: ignore[misc]

    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Evaluate one batch."""
        super().run_iter(idx, data_batch)  # type: ignore[misc]
        self._bar.update(len(data_batch['data_samples']))

    def _answer(self, dataloader: Any) -> Iterator[dict]:
        """Yield the batches, whose questions have answers, see
        :meth:`.ReasoningSegmentor.answer_ahead`. This starts after hooks have read the weights."""
        model = unwrap(self.runner.model)
        engine = getattr(model, 'rollout_engine', None)
        judges = (getattr(model, 'box_scorer', None), getattr(model, 'choice', None))
        if engine is not None and engine.samples_elsewhere:
            model.hand_over()  # even if this process has all its answers from an earlier test
            self._stack.enter_context(engine.holding_weights())
            needs_policy = any(judge is not None and judge.needs_policy for judge in judges)
        else:
            needs_policy = True
        if needs_policy:
            self._stack.enter_context(gathered(getattr(model, 'policy', model)))
        if not isinstance(model, ReasoningSegmentor):
            yield from dataloader
            return
        batches = model.answer_ahead(self._announced(dataloader))
        self._stack.enter_context(closing(batches))
        while True:
            with torch.no_grad(), autocast(enabled=self.fp16):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _announced(self, dataloader: Any) -> Iterator[dict]:
        """Yield the batches, and tell hooks before their questions are asked."""
        for idx, batch in enumerate(dataloader):
            self.runner.call_hook('before_answering', batch_idx=idx, data_batch=batch)
            yield batch


class _Answered:
    """A data loader whose batches come from a function of the loader.

    Args:
        dataloader: The loader, whose attributes this has.
        answer: Yields the batches.
    """

    def __init__(self, dataloader: Any, answer: Callable[[Any], Iterator[dict]]) -> None:
        self._dataloader = dataloader
        self._answer = answer

    def __iter__(self) -> Iterator[dict]:
        return self._answer(self._dataloader)

    def __len__(self) -> int:
        return len(self._dataloader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataloader, name)


@LOOPS.register_module()
class ReasonSegValLoop(_EncodingLoop, ValLoop):
    """mmengine's ``ValLoop``, with prompts encoded in the data loader's workers. Questions of the
    next batches are answered as soon as answers of the current one are complete, so that no batch
    waits for its longest answer; before that, hooks with a method ``before_answering`` (arguments
    as of ``before_val_iter``) get each batch. If stderr is a
    terminal, a progress bar counts the samples and shows the time left. Data sets are built with
    ``test_mode=True`` unless their config sets it. Metrics get their results in the order of the
    data set, without the items that a sampler repeats (:class:`InDatasetOrder`).

    Args:
        runner, dataloader, evaluator, fp16: As in mmengine.
    """


@LOOPS.register_module()
class ReasonSegTestLoop(_EncodingLoop, TestLoop):
    """mmengine's ``TestLoop`` with the additions of :class:`ReasonSegValLoop`.

    Args:
        runner, dataloader, evaluator, fp16: As in mmengine.
    """
