# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""gIoU and cIoU of reasoning segmentation, and what the responses were like."""

from __future__ import annotations

import json
import logging
import os.path as osp
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import MessageHub, MMLogger, print_log

from mmdpad.evaluation.functional import (
    IGNORE_REGIONS,
    apply_protocol,
    giou_and_ciou,
    mask_iou,
)
from mmdpad.registry import METRICS
from mmdpad.structures import ParseFailure
from mmdpad.utils import jsonable, write_atomically, write_jsonl
from mmdpad.utils.masks import encode_mask

from .ignore_regions import IgnoreRegionsMetric


@METRICS.register_module()
class ReasonSegMetric(IgnoreRegionsMetric):
    """Scores each answer's mask against the target; no sample is ever left out.

    Metrics (prefix ``reasonseg``):

    - ``giou``, ``ciou``, in percent, see :func:`mmdpad.evaluation.functional.giou_and_ciou`; the
      same with ``short_`` and ``long_`` over samples whose ``is_sentence`` is False or True;
      ``n``, ``n_short``, ``n_long``. A part without samples has its ``n_`` (0) only.
    - ``parse_failure_rate`` in [0, 1], and ``failed_<reason>``, a count for each reason that
      occurred. A failed sample has IoU 0, intersection 0 and the target's area as union.
    - ``think_tokens``, ``caption_tokens``: mean length by the model's tokenizer over the responses
      that have a chain or caption; absent if none has. ``truncated_rate`` in [0, 1].

    With a log file (any run of mmengine's Runner) or an ``out_file``, each evaluation writes one
    JSON line per sample, and beside it a ``.json`` with the protocol and the metrics; earlier files
    are kept, a taken name gets a number. Lines are in the order of the data set where samples tell
    their ``index`` in it (mmengine's ``sample_idx``, in the metainfo).

    Args:
        ignore_regions: 'target' counts ReasonSeg's 'ignore' regions as target (the prepared data
            that DPAD and Seg-Zero report on); 'exclude' leaves them out of intersection and union,
            and an empty union gives IoU 1 (LISA); refused for data that cannot tell them apart.
        out_file: Where the JSON lines go; None for ``reasonseg[_iter_N].jsonl`` beside the log.
        save_masks: Put the predicted mask into its line, as COCO RLE.
        collect_device, prefix, collect_dir: As in mmengine.

    Raises:
        ValueError: An unknown ``ignore_regions``.
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
        if ignore_regions not in IGNORE_REGIONS:
            raise ValueError(f'`ignore_regions` should be one of {IGNORE_REGIONS}, but got '
                             f'{ignore_regions!r}')
        self.ignore_regions = ignore_regions
        self.out_file = out_file
        self.save_masks = save_masks

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Score samples as ``DetDataSample.to_dict()`` gives them: ``gt_instances``,
        ``ignored_instances`` (optional), ``pred_instances`` with masks bool (n, H, W), and
        ``reasoning`` as :class:`ReasoningSegmentor` writes it."""
        self.results.extend(self._score(sample) for sample in data_samples)

    def _score(self, sample: dict) -> dict:
        predicted = sample['pred_instances']
        reasoning = sample.get('reasoning', {})
        parsed = reasoning.get('parsed')
        mask, failure, overlap = score_mask(sample, self.ignore_regions)
        row = dict(
            index=sample.get('sample_idx'), id=sample.get('img_id'), image=sample.get('img_path'),
            question=sample.get('question'), is_sentence=sample.get('is_sentence'),
            **overlap,
            failure=failure and failure.reason, failure_detail=failure and failure.detail,
            boxes=_plain(predicted.get('bboxes')), points=_plain(predicted.get('points')),
            scores=_plain(predicted.get('scores')),
            think=getattr(parsed, 'think', None), caption=getattr(parsed, 'caption', None),
            think_tokens=reasoning.get('think_tokens'),
            caption_tokens=reasoning.get('caption_tokens'),
            truncated=reasoning.get('truncated', False), response=reasoning.get('response'))
        if self.save_masks:
            row['mask'] = encode_mask(mask)
        return row

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Average over all samples and write the files."""
        results = in_order(results)
        metrics = summarise(results)
        protocol = dict(ignore_regions=self.ignore_regions,
                        failed_samples='IoU 0, union = target area')
        out_file = self.out_file or _default_out_file(self.prefix)
        if out_file is None:
            where = 'not written: no log file and no `out_file`'
        else:
            where = write_jsonl(out_file, results)
            summary = dict(protocol=protocol, metrics=metrics, samples=osp.basename(where))
            write_atomically(osp.splitext(where)[0] + '.json',
                             json.dumps(jsonable(summary), indent=2).encode())
        print_log(f'{self.prefix} protocol: {protocol}; samples: {where}', logger='current',
                  level=logging.INFO)
        return metrics


def score_mask(sample: dict, ignore_regions: str
               ) -> tuple[np.ndarray, ParseFailure | None, dict[str, float]]:
    """Compare a sample's mask with its target, see :class:`ReasonSegMetric`.

    Several objects count by the union of their masks. Where nothing is meant, the IoU is 1 if the
    predicted mask is empty and 0 if not (gRefCOCO, arXiv 2306.00968).

    Returns:
        The predicted mask, bool (H, W), empty after a failure; the failure or None; and ``iou`` in
        [0, 1], ``intersection`` and ``union`` in pixels of the original frame.
    """
    target = _union(sample['gt_instances']['masks'])
    ignored = sample.get('ignored_instances', {}).get('masks', ())
    predicted = sample['pred_instances']['masks']
    parsed = sample.get('reasoning', {}).get('parsed')
    failure = parsed if isinstance(parsed, ParseFailure) else None
    if not len(predicted) and failure is None and getattr(parsed, 'objects', ()):
        failure = ParseFailure('no_mask', 'the decoder gave no mask')
    mask = np.zeros_like(target) if failure else _union(predicted)
    kept, wanted = apply_protocol(
        mask, target, _union(ignored) if len(ignored) else np.zeros_like(target), ignore_regions)
    intersection, union = int((kept & wanted).sum()), int((kept | wanted).sum())
    if failure:
        iou = 0.0
    elif not len(sample['gt_instances']['masks']):
        iou = float(not kept.any())
    else:
        iou = mask_iou(intersection, union, ignore_regions)
    return mask, failure, dict(iou=iou, intersection=intersection, union=union)


def in_order(rows: Sequence[dict]) -> list[dict]:
    """Rows by ``index``, whatever order a sampler had; as they are where that tells no order."""
    indices = {row['index'] for row in rows}
    if None in indices or len(indices) < len(rows):
        return list(rows)
    return sorted(rows, key=lambda row: row['index'])


def summarise(rows: Sequence[dict]) -> dict[str, float]:
    """The metrics of :class:`ReasonSegMetric` from its per-sample rows (or lines of its file).

    Raises:
        ValueError: No rows.
    """
    metrics: dict[str, float] = {}
    parts = (('', rows), ('short', [r for r in rows if r['is_sentence'] is False]),
             ('long', [r for r in rows if r['is_sentence'] is True]))
    for name, part in parts:
        if part or not name:
            giou, ciou = giou_and_ciou([r['iou'] for r in part], [r['intersection'] for r in part],
                                       [r['union'] for r in part])
            metrics[f'{name}_giou'.strip('_')] = giou
            metrics[f'{name}_ciou'.strip('_')] = ciou
        metrics[f'n_{name}'.strip('_')] = len(part)
    failures = Counter(r['failure'] for r in rows if r['failure'] is not None)
    metrics['parse_failure_rate'] = failures.total() / len(rows)
    metrics.update({f'failed_{reason}': count for reason, count in sorted(failures.items())})
    for name in ('think_tokens', 'caption_tokens'):
        lengths = [r[name] for r in rows if r[name] is not None]
        if lengths:
            metrics[name] = sum(lengths) / len(lengths)
    metrics['truncated_rate'] = sum(bool(r['truncated']) for r in rows) / len(rows)
    return metrics


def _union(masks: Any) -> np.ndarray:
    """(n, H, W) masks of any kind (tensor, array, mmdet's mask structures) -> bool (H, W)."""
    if hasattr(masks, 'to_ndarray'):
        masks = masks.to_ndarray()
    masks = torch.as_tensor(masks).cpu().numpy()
    return masks.astype(bool).any(axis=0)


def _plain(values: Any) -> list:
    """A row of plain numbers for each predicted object; none where the model gives none."""
    return [] if values is None else values.tolist()


def _default_out_file(prefix: str) -> str | None:
    """Beside the log file of the current run, named by the training iteration if there is one."""
    files = [handler.baseFilename for handler in MMLogger.get_current_instance().handlers
             if isinstance(handler, logging.FileHandler)]
    if not files:
        return None
    iteration = MessageHub.get_current_instance().get_info('iter')
    # mmengine stores the last finished iteration, counted from 0.
    suffix = '' if iteration is None else f'_iter_{iteration + 1}'
    return osp.join(osp.dirname(files[0]), f'{prefix}{suffix}.jsonl')
