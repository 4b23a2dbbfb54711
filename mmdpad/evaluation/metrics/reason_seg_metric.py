# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""gIoU and cIoU of reasoning segmentation, and what the responses were like."""

from __future__ import annotations

import logging
import os.path as osp
from collections.abc import Sequence
from typing import Any

from mmengine.logging import MMLogger, print_log

from mmdpad.evaluation.provenance import published, trained_iterations
from mmdpad.evaluation.results import in_order, summarise_result, write_result
from mmdpad.evaluation.scoring import FAILED_SAMPLES, score_sample
from mmdpad.geometry.mask_iou import check_ignore_regions
from mmdpad.registry import METRICS

from .ignore_regions import IgnoreRegionsMetric


@METRICS.register_module()
class ReasonSegMetric(IgnoreRegionsMetric):
    """Scores each answer's mask against the target; no sample is ever left out.

    Metrics (prefix ``reasonseg``):

    - ``giou``, the mean IoU of the samples, and ``ciou``, total intersection / total union (0 if
      all unions are empty), as LISA defines them, in percent; the same with ``short_`` and
      ``long_`` over samples whose ``is_sentence`` is False or True; ``n``, ``n_short``, ``n_long``.
      A part without samples has its ``n_`` (0) only. ``giou_low``, ``giou_high``, ``ciou_low`` and
      ``ciou_high`` bound 95 % bootstrap intervals.
    - ``pointing_accuracy``: the share of a response's points that lie on the target, mean over
      samples; ``box_accuracy``: samples with as many boxes as targets and, matched one to one, each
      with IoU > 0.5. Both in percent; absent if the model gives no points or boxes. Where nothing
      is meant, only an answer without points or boxes is right.
    - ``no_target_accuracy``, ``target_accuracy`` (N-acc and T-acc of gRefCOCO, arXiv 2306.00968),
      in percent, where the data has questions that mean nothing: how many of these got a usable
      answer with an empty mask, and how many of the others one with a mask. ``n_no_target``: how
      many samples have no target; also where each should have one, but some annotations mark none
      (:class:`mmdpad.datasets.ReasoningDataset`). These count by ``ignore_regions``, and there are
      no such accuracies.
    - ``parse_failure_rate`` in [0, 1], and ``failed_<reason>``, a count for each reason that
      occurred. A failed sample has IoU 0, intersection 0 and the target's area as union; its points
      and boxes are wrong.
    - ``reasoning_tokens``, ``caption_tokens``: mean length by the model's tokenizer over the
      responses that have a chain or caption; ``repetition`` of the chains in [0, 1), see
      :func:`mmdpad.rewards.repetition`; absent if none has one. ``truncated_rate`` in [0, 1].

    With a log file (any run of mmengine's Runner) or an ``out_file``, each evaluation writes one
    JSON line per sample (:func:`mmdpad.evaluation.scoring.score_sample`), and beside it a ``.json``
    with the protocol, the metrics, an interval for each that is a mean or ratio, and where all this
    comes from, as far as :class:`ProvenanceHook` (or another caller of
    :func:`mmdpad.evaluation.provenance.publish`) told. Earlier files are kept, a taken name gets a
    number. Lines are in the order of the data set where samples tell their ``index`` in it
    (mmengine's ``sample_idx``, in the metainfo).

    Attributes:
        summary: What the last ``.json`` holds, its ``samples`` with the whole path (None if no
            file was written); in the process that computed it.

    Args:
        ignore_regions: 'target' counts ReasonSeg's 'ignore' regions as target (the prepared data
            that DPAD and Seg-Zero report on); 'exclude' leaves them out of intersection and union,
            and an empty union gives IoU 1 (LISA), not 0; refused for data that cannot tell them
            apart.
        out_file: Where the JSON lines go; None for ``reasonseg[_iter_N].jsonl`` beside the log.
        save_masks: Put the predicted mask and the target into the sample's line, as COCO RLE.
        collect_device, prefix, collect_dir: As in mmengine.

    Raises:
        ValueError: An unknown ``ignore_regions``, or an ``out_file`` that is no .jsonl.
    """

    default_prefix = 'reasonseg'

    def __init__(self,
                 ignore_regions: str = 'target',
                 out_file: str | None = None,
                 save_masks: bool = False,
                 collect_device: str = 'cpu',
                 prefix: str | None = None,
                 collect_dir: str | None = None) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        check_ignore_regions(ignore_regions)
        if out_file is not None and not out_file.endswith('.jsonl'):
            raise ValueError(f'`out_file` should end in .jsonl (beside it a .json is written), but '
                             f'got {out_file!r}')
        self.ignore_regions = ignore_regions
        self.out_file = out_file
        self.save_masks = save_masks
        self.summary: dict[str, Any] | None = None

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Score samples as ``DetDataSample.to_dict()`` gives them: ``gt_instances``,
        ``ignored_instances`` (optional), ``pred_instances`` with masks bool (n, H, W), and
        ``reasoning`` as :class:`ReasoningSegmentor` writes it."""
        self.check_samples(data_samples)
        self.results.extend(score_sample(sample, self.ignore_regions, self.save_masks)
                            for sample in data_samples)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Average over all samples and write the files."""
        rows = in_order(results)
        known = published()
        protocol = dict(ignore_regions=self.ignore_regions, failed_samples=FAILED_SAMPLES,
                        **known.get('protocol', {}))
        summary = summarise_result(rows, protocol, known.get('provenance'))
        out_file = self.out_file or _default_out_file(self.prefix)
        where = out_file and write_result(out_file, rows, summary)
        print_log(f'{self.prefix} protocol: {protocol}; samples: '
                  f'{where or "not written: no log file and no `out_file`"}', logger='current',
                  level=logging.INFO)
        self.summary = dict(summary, samples=where)
        return dict(summary['metrics'], **{
            f'{name}_{end}': value for name in ('giou', 'ciou')
            for end, value in zip(('low', 'high'), summary['intervals'][name], strict=True)})


def _default_out_file(prefix: str) -> str | None:
    """Beside the log file of the current run, named by how far it has trained, if it has."""
    files = [handler.baseFilename for handler in MMLogger.get_current_instance().handlers
             if isinstance(handler, logging.FileHandler)]
    if not files:
        return None
    iterations = trained_iterations()
    suffix = f'_iter_{iterations}' if iterations else ''
    return osp.join(osp.dirname(files[0]), f'{prefix}{suffix}.jsonl')
