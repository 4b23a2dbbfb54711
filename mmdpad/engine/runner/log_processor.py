# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A training line that a person can read; every number is in scalars.json and TensorBoard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mmengine.runner import LogProcessor, Runner

from mmdpad.registry import LOG_PROCESSORS

DETAILS = ('reward_std/', 'signal/', 'failed/', 'empty_think', 'distinct_2', 'repetition',
           'caption_words', 'pg', 'approx_kl', 'rollout_time', 'data_time',
           'skipped_steps')


@LOG_PROCESSORS.register_module()
class ShortLogProcessor(LogProcessor):
    """mmengine's, with details left out of the text log, and with a validation's own numbers where
    ``mean_pattern`` asks for means: mmengine would average them over the last ``window_size``
    validations.

    Args:
        details: Beginnings of the names that are left out.
        **kwargs: As in mmengine.
    """

    mean_pattern: re.Pattern

    def __init__(self, details: Sequence[str] = DETAILS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.details = tuple(details)

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict, str]:
        """The numbers, and the line: ``name: number`` parted by two blanks."""
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
