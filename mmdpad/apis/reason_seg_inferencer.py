# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Inference: from an image and a question to a mask and the reasoning."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from torch import nn

from mmdpad.apis.mmengine_inferencer import BaseInferencer  # before what imports mmengine.optim
from mmdpad.datasets.transforms import pixel_limit
from mmdpad.datasets.wrappers import open_wrappers
from mmdpad.registry import INFERENCERS, MODELS, TRANSFORMS, resolve
from mmdpad.tasks import find_task
from mmdpad.utils import find_config, open_config
from mmdpad.utils.number_checks import check_number
from mmdpad.utils.threads import follow_free_cores

from .answer import Answer, new_log
from .choosing import Choosing, build_choosing, check_choice, choosing_by
from .inputs import ImageInput, Query, pair_queries
from .streaming import Streamer, stream
from .turns import Turns

_HINT = ('`weights` should be a checkpoint that tools/train.py wrote for this config; leave it out '
         'to use the weights that the config names')


@INFERENCERS.register_module()
class ReasonSegInferencer(BaseInferencer):
    """Answers questions about images with a mask, a box, two points, a caption and the reasoning,
    or with whatever another task asks for.

    Threads may share one; they take turns, also within a call for many questions. As a context
    manager (``with``) it frees its memory on exit.

    Args:
        model_config: A ``Config``, or an argument of :func:`find_config`: the path of a config
            file, or the name of one shipped with mmdpad. Images are prepared by its
            ``inference_pipeline``; if it has none, by the pipeline of its test data (the first of
            several data sets) without the steps that need annotations.
        weights: A training checkpoint; None for the weights that the config names.
        device: Where the model runs; None for a GPU if available.
        show_progress: Whether to show a progress bar.

    Raises:
        FileNotFoundError, ValueError: The config or the weights do not exist or do not fit.

    Example:
        >>> infer = ReasonSegInferencer('tiny_shapes')  # doctest: +SKIP
        >>> answer, = infer('photo.jpg', 'What keeps the rain off?')  # doctest: +SKIP
        >>> answer['mask'].sum(), answer['reasoning']  # doctest: +SKIP
    """

    def __init__(self,
                 model_config: str | os.PathLike | Config,
                 weights: str | None = None,
                 device: str | None = None,
                 show_progress: bool = False) -> None:
        if not isinstance(model_config, Config):
            model_config = open_config(find_config(model_config))
        self._turns = Turns()
        # mmengine resolves a config's types in the current default scope.
        with DefaultScope.overwrite_default_scope('mmdpad'):
            super().__init__(model_config, weights, device, scope='mmdpad',
                             show_progress=show_progress)
        self._choosings: dict[str, Choosing] = {}
        self._cores = follow_free_cores(self.model)

    def __call__(self,  # type: ignore[override]
                 images: ImageInput | Sequence[ImageInput],
                 questions: str | Sequence[str],
                 batch_size: int = 1,
                 return_vis: bool = False,
                 out_dir: str | None = None,
                 task: str | None = None,
                 samples: int | None = None,
                 select: Any = None,
                 abstain_below: float | None = None,
                 abstain_by: Any = None) -> list[Answer]:
        """Answer one question about each image, several about one image, or one per image.

        Args:
            images: A path, uint8 RGB array (H, W, 3) or PIL image, or a list of them; a folder's
                path stands for the images in it.
            questions: A question or a list; as many as images, or one of either for all.
            batch_size: Pairs per forward pass: the largest number of questions that are answered at
                a time. Where one ends, the next one enters
                (:class:`.continuous_batching.ContinuousBatch`), and so the images of a few batches
                are in memory. The answers do not depend on it, up to rounding.
            return_vis: Whether to add the answer's picture to its result.
            out_dir: Folder for one picture per answer and ``results.jsonl`` (masks as COCO RLE),
                one line as soon as the answers up to those of its batch are ready; existing files
                are kept, and a number is added to a name that is taken.
            task: Name of the questions' task, one of the config's ``model.tasks``; None for the
                first.
            samples, select, abstain_below, abstain_by: How many answers to sample to each question,
                which of them to choose, and when none, as ``num_samples``, ``select``,
                ``abstain_below`` and ``abstain_by`` of the config's ``model.test_cfg``
                (docs/choosing.md); None for what that says. The selector 'discrimination' uses the
                discriminator of the config's reward, if there is one. If the config's temperature
                is 0, it is 1 for several answers.

        Returns:
            One dict per pair, in order: ``image`` (path or None), ``question``, ``mask`` (H, W)
            bool, ``box`` (XYXY) and ``points`` (two (x, y)) in pixels of the original image,
            ``score`` (the decoder's), ``caption``, ``reasoning``, ``response`` (the model's full
            text), ``seconds`` (for ``prepare``, ``answer``, ``draw``; the first two are shares of
            those of a batch, whose ``answer`` begins with the end of the batch before, so that
            all add up to the time of the call) and ``failure``: None, or why the response could
            not be used; then ``mask`` is empty and ``box``, ``points`` and ``score`` are None. If
            an answer may name several objects, ``mask`` covers all of them, ``objects`` has a dict
            of ``box``, ``points`` and ``score`` for each (with ``negative_points`` if there are
            any), and the three keys above belong to the first. If the task decodes no masks,
            ``mask`` is None, and each of ``objects`` also has ``label`` and ``description``;
            ``answer`` is the answer in words, None if the task asks for none. Where one of several
            answers was chosen, ``samples`` has a dict of ``response``, ``value`` (None without
            one), ``usable``, ``chosen`` and ``mask`` for each, and ``abstained`` says whether all
            were rejected. Of a conversation, ``response`` has all turns, and ``conversation`` is
            what :meth:`mmdpad.structures.ConversationRecord.describe` returns.
            With ``return_vis``, also ``visualization`` (h, w, 3) uint8 RGB;
            :meth:`Answer.draw` makes it on request.

        Raises:
            ValueError, TypeError: The input cannot be used, see :func:`pair_queries`, the model
                lacks the task, or the batch size is below 1; raised before any work. An image that
                cannot be read after all is an error once the answers of the batches before it are
                ready.
            RuntimeError: The inferencer was closed.
        """
        queries = pair_queries(images, questions, pixel_limit(self.pipeline), task)
        batch_size = check_number('batch_size', batch_size, 'at least 1', lambda n: n >= 1,
                                  whole=True)
        self._check_open()
        self._check_task(task)
        choosing = self._choosing(num_samples=samples, select=select, abstain_below=abstain_below,
                                  abstain_by=abstain_by)
        log = None if out_dir is None else new_log(out_dir)
        answers: list[Answer] = []
        with closing(self._answer(queries, batch_size, choosing=choosing)) as found:
            for answer in self._tracked(found, len(queries)):
                picture = answer.draw() if return_vis or log is not None else None
                if log is not None:
                    answer.write(log, picture)
                if return_vis:
                    answer['visualization'] = picture
                answers.append(answer)
        return answers

    def stream(self, image: ImageInput, question: str, task: str | None = None,
               samples: int | None = None, select: Any = None,
               abstain_below: float | None = None, abstain_by: Any = None
               ) -> Iterator[str | Answer]:
        """Yield the response to one question while it is being written.

        Args:
            image, question, task: As in :meth:`__call__`, one of each.
            samples, select, abstain_below, abstain_by: As there.

        Yields:
            The response so far, longer each time; finally the :class:`Answer`. Closing the
            iterator (``break``) stops the sampling. An engine that samples elsewhere (vLLM), a
            model that writes several responses (:class:`mmdpad.models.ConceptAgent`, or one with
            ``conversation``) and a choice among several answers yield the answer only.

        Raises:
            ValueError, TypeError, RuntimeError: As in :meth:`__call__`, at once.
        """
        queries = pair_queries(image, question, pixel_limit(self.pipeline), task)
        if len(queries) > 1:
            raise ValueError(f'`stream` should get one image and one question, but got '
                             f'{len(queries)} pairs; call the inferencer for several')
        self._check_open()
        self._check_task(task)
        choosing = self._choosing(num_samples=samples, select=select, abstain_below=abstain_below,
                                  abstain_by=abstain_by)
        writes_one = getattr(self.model, 'writes_one_response', True) and (
            choosing.choice if choosing else getattr(self.model, 'choice', None)) is None and (
            getattr(self.model, 'conversations', None) is None)

        def answer(streamer: Streamer) -> Answer:
            found, = self._answer(queries, streamer=streamer, choosing=choosing)
            return found

        return stream(answer, self.model.policy.decode if writes_one else None)

    def close(self) -> None:
        """Release the model and its memory; the inferencer cannot be used afterwards."""
        with self._turns:
            self.model = None
            self._choosings.clear()
        torch.cuda.empty_cache()

    def __enter__(self) -> ReasonSegInferencer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self.model is None:
            raise RuntimeError('The inferencer should be open, but it was closed; make a new one')

    def _check_task(self, task: str | None) -> None:
        if task is not None:  # a model of another kind has no tasks
            find_task(task, getattr(self.model, 'tasks', {}))

    def _choosing(self, **asked: Any) -> Choosing | None:
        """What these arguments of a call mean; None for the config's way. Kept, since a
        discriminator takes long to load."""
        asked = {name: value for name, value in asked.items() if value is not None}
        if not asked:
            check_choice(getattr(self.model, 'choice', None))
            return None
        if repr(asked) not in self._choosings:
            self._choosings[repr(asked)] = build_choosing(self.cfg, self.model, asked)
        return self._choosings[repr(asked)]

    def _tracked(self, answers: Iterator[Answer], total: int) -> Iterable[Answer]:
        if not self.show_progress:
            return answers
        from rich.progress import track
        return track(answers, 'Inference', total)

    def _answer(self, queries: Sequence[Query], batch_size: int = 1,
                streamer: Streamer | None = None,
                choosing: Choosing | None = None) -> Generator[Answer, None, None]:
        """Yield the answers in order. While this thread has its turn, questions of the next batches
        are asked before a batch is complete; if another one waits, only what was asked is."""
        waiting = deque(queries)
        while waiting:
            with self._turns:
                self._check_open()
                with (choosing_by(self.model, choosing), nullcontext() if streamer is None
                      else self.model.rollout_engine.streaming(streamer)):
                    yield from self._answer_until_wanted(waiting, batch_size)

    def _answer_until_wanted(self, waiting: deque[Query], batch_size: int) -> Iterator[Answer]:
        """Take at least one batch from the queries, and yield its answers."""
        asked: deque[tuple[list[Query], float]] = deque()
        failures: list[Exception] = []

        def prepare() -> Iterator[dict[str, Any]]:
            while waiting:
                queries = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
                started = time.perf_counter()
                try:
                    batch, = self.preprocess([_item(query) for query in queries], len(queries))
                except Exception as error:
                    failures.append(error)  # raised below, once the batches before are complete
                    return
                asked.append((queries, (time.perf_counter() - started) / len(queries)))
                yield batch
                if self._turns.wanted:
                    return

        # A model of another kind answers in its forward pass.
        with closing(getattr(self.model, 'answer_ahead', iter)(prepare())) as answered:
            while True:
                with nullcontext() if self._cores is None else self._cores.adapted():
                    if (batch := next(answered, None)) is None:
                        break
                    samples = self.forward(batch)
                queries, seconds = asked.popleft()
                for sample, query in zip(samples, queries, strict=True):
                    yield Answer.of(sample, query, seconds)
        if failures:
            raise failures[0]

    def visualize(self, inputs: list, preds: list[Answer],  # type: ignore[override]
                  **kwargs: Any) -> list[np.ndarray]:
        """:meth:`Answer.draw` of each."""
        return [answer.draw() for answer in preds]

    def postprocess(self, preds: list[Answer], *args: Any,  # type: ignore[override]
                    **kwargs: Any) -> list[Answer]:
        """Return the answers unchanged: they are already plain data."""
        return preds

    def _init_model(self, cfg: Config, weights: str | None, device: str = 'cpu') -> nn.Module:
        # transformers is imported when a model is built, not with this class.
        from mmdpad.engine.short_selectors import write_out_selectors
        from mmdpad.models.weights import load_strictly, read_state_dict

        write_out_selectors(cfg)
        # Check the checkpoint first: a wrong path fails at once, a large model takes minutes.
        state = None if weights is None else read_state_dict(weights, _HINT)
        model = MODELS.build(cfg.model)
        if weights is not None:
            load_strictly(model, state, weights, _HINT)
        model.cfg = cfg
        return model.to(device).eval()

    def _init_pipeline(self, cfg: Config) -> Callable:
        return build_pipeline(cfg)

    def _init_collate(self, cfg: Config) -> Callable:
        return pseudo_collate  # images of different sizes stay lists

    def _init_visualizer(self, cfg: Config) -> None:
        return None  # `Answer.draw` makes the pictures; the config's visualizer logs training


def inference_steps(cfg: Config) -> list:
    """Configs of the steps that prepare an image and a question, see
    :class:`ReasonSegInferencer`. Without annotations, steps of the test pipeline whose class has
    ``reads_truth`` are left out."""
    steps = cfg.get('inference_pipeline')
    if steps is None:
        steps = [step for step in next(open_wrappers(cfg.test_dataloader.dataset)).pipeline
                 if not getattr(resolve(step, TRANSFORMS, 'mmdpad'), 'reads_truth', False)]
    return list(steps)


def build_pipeline(cfg: Config) -> Compose:
    """:func:`inference_steps`, built."""
    with DefaultScope.overwrite_default_scope('mmdpad'):
        return Compose([TRANSFORMS.build(step) for step in inference_steps(cfg)])


def _item(query: Query) -> dict[str, Any]:
    """The input of a pipeline's first step."""
    image = dict(img_path=query.image) if query.path else dict(img=query.image)
    asked = dict(image, question=query.question, texts=[query.question], img_id=query.path)
    return asked if query.task is None else dict(asked, task=query.task)
