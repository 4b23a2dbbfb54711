# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Keeps the lines of the text log readable; scalars.json and TensorBoard have every number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mmengine.runner import LogProcessor, Runner

from mmdpad.registry import LOG_PROCESSORS

DETAILS = ('reward_std/', 'signal/', 'failed/', 'empty_think', 'distinct_2', 'repetition',
           'caption_words', 'pg', 'approx_kl', 'rollout_time', 'data_time',
           'skipped_steps', 'speculation/')


@LOG_PROCESSORS.register_module()
class ShortLogProcessor(LogProcessor):
    """mmengine's, but with details left out of the text log, and with the numbers of each
    validation as they are. mmengine averages those that match ``mean_pattern`` over the last
    ``window_size`` validations.

    Args:
        details: Prefixes of the names to leave out.
        **kwargs: As in mmengine.
    """

    mean_pattern: re.Pattern

    def __init__(self, details: Sequence[str] = DETAILS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.details = tuple(details)

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict, str]:
        """The numbers, and the line: ``name: number`` separated by two spaces."""
        numbers, line = super().get_log_after_iter(runner, batch_idx, mode)
        parts = [part for part in line.split('  ') if not part.startswith(self.details)]
        return numbers, '  '.join(parts)

    def get_log_after_epoch(self, *args: Any, **kwargs: Any) -> tuple[dict, str]:
        """The numbers of a validation or test, and the line."""
        pattern, self.mean_pattern = self.mean_pattern, re.compile('^(data_)?time$')
        try:
            return super().get_log_after_epoch(*args, **kwargs)
        finally:
            self.mean_pattern = pattern
