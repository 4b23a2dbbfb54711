# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What metrics share that write a result: a line for each sample, and a summary."""

from __future__ import annotations

import logging
import os.path as osp
import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log

from mmdpad.evaluation.measures import ResultKind, Row
from mmdpad.evaluation.provenance import published, trained_iterations
from mmdpad.evaluation.results import in_order, summarize_result, write_result


class ResultFileMetric(BaseMetric):
    """Writes a JSON line for each sample and, next to it, a ``.json`` with protocol, metrics,
    intervals and provenance, see :func:`mmdpad.evaluation.results.summarize_result`.

    Args:
        protocol: Options on which the numbers depend.
        out_file: Where the JSON lines go; None for ``<prefix>[_iter_N].jsonl`` next to the log,
            after the name of the data set if there are several.
        collect_device, prefix, collect_dir: As in mmengine.

    Attributes:
        dataset: Name of the data set among several, which the loops of mmdpad set and the ``.json``
            then has; otherwise None.
        kind: How the rows are summed up.
        summary: The content of the last ``.json``, with the full path as ``samples`` (None if no
            file was written); only in the process that computed it.

    Raises:
        ValueError: ``out_file`` does not end in .jsonl.
    """

    kind: ClassVar[ResultKind]

    def __init__(self, protocol: dict[str, Any], out_file: str | None = None,
                 collect_device: str = 'cpu', prefix: str | None = None,
                 collect_dir: str | None = None) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        if out_file is not None and not out_file.endswith('.jsonl'):
            raise ValueError(f'`out_file` should end in .jsonl (a .json is written beside it), but '
                             f'got {out_file!r}')
        self.protocol = protocol
        self.out_file = out_file
        self.dataset: str | None = None
        self.summary: dict[str, Any] | None = None

    @staticmethod
    @abstractmethod
    def reads(sample: dict) -> bool:
        """Whether a sample has what :meth:`score` needs."""

    @abstractmethod
    def score(self, sample: dict) -> Row:
        """The row of a sample in the form of ``DetDataSample.to_dict()``."""

    def row_to_draw(self, sample: dict) -> Row:
        """:meth:`score`, with all that a picture shows."""
        return self.score(sample)

    def describe_protocol(self, rows: Sequence[Row]) -> dict[str, Any]:
        """``protocol``, and what :func:`mmdpad.evaluation.provenance.publish` was told."""
        return dict(self.protocol, **published().get('protocol', {}))

    def note(self, summary: dict[str, Any]) -> str:
        """What the log says about a summary besides the metrics."""
        return ''

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """:meth:`score` the samples."""
        self.results.extend(map(self.score, data_samples))

    def compute_metrics(self, results: list[Row]) -> dict[str, float]:
        """Sum up all samples, write the files, and log where they are."""
        rows = in_order(results)
        protocol = self.describe_protocol(rows)
        summary = summarize_result(rows, protocol, published().get('provenance'))
        if self.dataset is not None:
            summary['dataset'] = self.dataset
        out_file = self.out_file or _default_out_file('_'.join(
            filter(None, (self.dataset, self.prefix))))
        where = out_file and write_result(out_file, rows, summary)
        note = self.note(summary)
        print_log(f'{self.prefix} protocol: {protocol}; samples: '
                  f'{where or "not written: no log file and no `out_file`"}'
                  + (f'\n{note}' if note else ''), logger='current', level=logging.INFO)
        self.summary = dict(summary, samples=where)
        intervals = summary['intervals']
        return dict(summary['metrics'], **{
            f'{name}_{end}': value for name in self.kind.bounded if name in intervals
            for end, value in zip(('low', 'high'), intervals[name], strict=True)})


def _default_out_file(name: str) -> str | None:
    """A path next to the current run's log file, with the number of trained iterations, if any."""
    files = [handler.baseFilename for handler in MMLogger.get_current_instance().handlers
             if isinstance(handler, logging.FileHandler)]
    if not files:
        return None
    iterations = trained_iterations()
    suffix = f'_iter_{iterations}' if iterations else ''
    stem = re.sub(r'[^\w.-]+', '_', name)
    return osp.join(osp.dirname(files[0]), f'{stem}{suffix}.jsonl')
