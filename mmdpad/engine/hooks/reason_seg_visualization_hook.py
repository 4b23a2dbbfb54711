# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Pictures of some answers of each validation and test, always of the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from mmdpad.engine.unwrap import unwrap
from mmdpad.evaluation.measures import Row
from mmdpad.evaluation.metrics import (
    DetectionMetric,
    QuestionAnsweringMetric,
    ReasonSegMetric,
)
from mmdpad.evaluation.metrics.result_file import ResultFileMetric
from mmdpad.evaluation.provenance import trained_iterations
from mmdpad.evaluation.scoring import describe_response, identify
from mmdpad.models.segmentors import ReasoningSegmentor
from mmdpad.registry import HOOKS
from mmdpad.utils import spread
from mmdpad.visualization import draw_row
from mmdpad.visualization.answer import verdict


@HOOKS.register_module()
class ReasonSegVisualizationHook(Hook):
    """Passes pictures of answers to the visualizer: boxes with labels, points, mask, and the true
    mask or boxes on the image, next to it question, reasoning, caption or descriptions, and how
    good the answer is or why it cannot be used.

    With ``LocalVisBackend`` they are PNG files in ``TIME/vis_data/vis_image/`` of the work dir,
    ``val_answer_SAMPLE_ITERATION.png`` and ``test_answer_...``; other backends (TensorBoard, W&B)
    receive them, too. SAMPLE is the sample's position in the order of evaluation, from 0. Positions
    are evenly spaced and stay the same during a run, so that progress is visible. Of several
    processes only the first draws, and only samples that it evaluates itself; ``test_out_dir`` gets
    every answer of each process.

    An answer is scored as by the evaluator's first metric that can
    (:class:`ReasonSegMetric`, :class:`DetectionMetric`, :class:`QuestionAnsweringMetric`), or as by
    such a metric without arguments. That of another task is drawn without a judgement. Models other
    than :class:`ReasoningSegmentor` are skipped.

    Args:
        number: How many samples; 0 for none.
        show: Also show every answer of a test in a window (``--show`` of ``tools/test.py``).
        wait_time: Seconds to show each; 0 waits until a key is pressed.
        test_out_dir: Folder for every answer of a test, ``answer_SAMPLE.png``; a relative path is
            within ``TIME/`` of the work dir (``--show-dir``).

    Raises:
        ValueError: ``number`` or ``wait_time`` is negative.
    """

    def __init__(self, number: int = 8, show: bool = False, wait_time: float = 0.0,
                 test_out_dir: str | None = None) -> None:
        if number < 0:
            raise ValueError(f'`number` should be 0 (no pictures) or more, but got {number}')
        if wait_time < 0:
            raise ValueError(f'`wait_time` should be 0 (until a key is pressed) or more seconds, '
                             f'but got {wait_time}')
        self.number = number
        self.show = show
        self.wait_time = wait_time
        self.test_out_dir = test_out_dir

    def before_val(self, runner: Runner) -> None:
        """Choose the samples of a validation."""
        self._choose(runner, runner.val_loop)

    def before_test(self, runner: Runner) -> None:
        """Choose the samples of a test."""
        self._choose(runner, runner.test_loop)
        self._presents = isinstance(unwrap(runner.model), ReasoningSegmentor) and (
            self.test_out_dir is not None or self.show and is_main_process())

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                       outputs: Sequence[Any] | None = None) -> None:
        """Draw the chosen samples of a validation batch."""
        self._draw(runner, 'val', data_batch, outputs or ())

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                        outputs: Sequence[Any] | None = None) -> None:
        """Draw the chosen samples of a test batch."""
        self._draw(runner, 'test', data_batch, outputs or ())

    def _choose(self, runner: Runner, loop: Any) -> None:
        self._chosen: set[int] = set()
        self._presents = False
        self._evaluated = 0
        if is_main_process() and isinstance(unwrap(runner.model), ReasoningSegmentor):
            self._chosen = set(spread(range(len(loop.dataloader.sampler)), self.number))
        self._metrics = [metric for metric in loop.evaluator.metrics
                         if isinstance(metric, ResultFileMetric)]
        protocol = next((metric.ignore_regions for metric in loop.evaluator.metrics
                         if hasattr(metric, 'ignore_regions')), 'target')
        self._metrics += [ReasonSegMetric(protocol), DetectionMetric(), QuestionAnsweringMetric()]

    def _draw(self, runner: Runner, mode: str, data_batch: Any, outputs: Sequence[Any]) -> None:
        if not self._chosen and not self._presents:
            return
        first, self._evaluated = self._evaluated, self._evaluated + len(outputs)
        for number, sample in enumerate(outputs, first):
            if not (self._presents or number in self._chosen):
                continue
            image = data_batch['inputs']['image'][number - first].permute(1, 2, 0).cpu().numpy()
            row = self._row(sample.to_dict())
            step = trained_iterations()
            note = f'{verdict(row)} ({row["id"]}, iteration {step})'.strip()
            picture = draw_row(image, row, note)
            if number in self._chosen:
                runner.visualizer.add_image(f'{mode}_answer_{number:04}', picture, step)
            if self._presents:
                # Samples are distributed round-robin.
                self._present(runner, number * get_world_size() + get_rank(), picture)

    def _row(self, sample: dict) -> Row:
        """The row of a result file about a sample; one without a judgement if no metric reads it.
        """
        for metric in self._metrics:
            if metric.reads(sample):
                return metric.row_to_draw(sample)
        found = sample['pred_instances']
        return dict(
            identify(sample), boxes=found['bboxes'].tolist(), scores=found['scores'].tolist(),
            label_names=found.get('label_names', ()), descriptions=found.get('descriptions', ()),
            answer=getattr(sample['reasoning']['parsed'], 'answer', None),
            **describe_response(sample))

    def _present(self, runner: Runner, number: int, picture: np.ndarray) -> None:
        """Write the picture of a test answer to the folder, and show it."""
        name = f'answer_{number:04}'
        if self.test_out_dir is not None:
            folder = Path(runner.work_dir, runner.timestamp, self.test_out_dir)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f'{name}.png')
        if self.show and is_main_process():
            runner.visualizer.show(picture, name, self.wait_time)
