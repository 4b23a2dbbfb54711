# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What metrics share that write a result: a line for each sample, and a summary."""

from __future__ import annotations

import logging
import os.path as osp
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log

from mmdpad.evaluation.provenance import trained_iterations
from mmdpad.evaluation.results import write_result
from mmdpad.evaluation.summary import Row


class ResultFileMetric(BaseMetric):
    """A metric whose :meth:`compute_metrics` ends with :meth:`finish`.

    Args:
        out_file: Where the JSON lines go; None for ``<prefix>[_iter_N].jsonl`` next to the log.
        collect_device, prefix, collect_dir: As in mmengine.

    Attributes:
        summary: What the last evaluation found, see :meth:`finish`; None before one.

    Raises:
        ValueError: ``out_file`` does not end in .jsonl.
    """

    def __init__(self, out_file: str | None = None, collect_device: str = 'cpu',
                 prefix: str | None = None, collect_dir: str | None = None) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        if out_file is not None and not out_file.endswith('.jsonl'):
            raise ValueError(f'`out_file` should end in .jsonl (a .json is written beside it), but '
                             f'got {out_file!r}')
        self.out_file = out_file
        self.summary: dict[str, Any] | None = None

    def finish(self, rows: Sequence[Row], summary: dict[str, Any], bounded: Sequence[str],
               note: str = '') -> dict[str, float]:
        """Write the files of an evaluation, log where they are, and keep the summary, with
        ``samples``, the file of the lines.

        Args:
            rows: Of the samples.
            summary: With ``protocol``, ``metrics`` and ``intervals``, see
                :func:`mmdpad.evaluation.results.summarize_result`.
            bounded: Metrics whose intervals are metrics, too, if they have any.
            note: Follows in the log.

        Returns:
            The metrics, with ``<name>_low`` and ``<name>_high`` of those in ``bounded``.
        """
        out_file = self.out_file or _default_out_file(self.prefix)
        where = out_file and write_result(out_file, rows, summary)
        print_log(f'{self.prefix} protocol: {summary["protocol"]}; samples: '
                  f'{where or "not written: no log file and no `out_file`"}{note}',
                  logger='current', level=logging.INFO)
        self.summary = dict(summary, samples=where)
        intervals = summary['intervals']
        return dict(summary['metrics'], **{
            f'{name}_{end}': value for name in bounded if name in intervals
            for end, value in zip(('low', 'high'), intervals[name], strict=True)})


def _default_out_file(prefix: str | None) -> str | None:
    """A path next to the current run's log file, with the number of trained iterations, if any."""
    files = [handler.baseFilename for handler in MMLogger.get_current_instance().handlers
             if isinstance(handler, logging.FileHandler)]
    if not files:
        return None
    iterations = trained_iterations()
    suffix = f'_iter_{iterations}' if iterations else ''
    return osp.join(osp.dirname(files[0]), f'{prefix}{suffix}.jsonl')
