# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Reward terms of responses on held-out data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch

from mmdpad.evaluation.results import in_order
from mmdpad.evaluation.scoring import ORIGIN, identify
from mmdpad.geometry.mask_iou import check_ignore_regions, score_mask
from mmdpad.registry import METRICS
from mmdpad.rewards import RewardComposition
from mmdpad.structures import RolloutBatch
from mmdpad.utils import write_jsonl

from .ignore_regions import IgnoreRegionsMetric


@METRICS.register_module()
class RewardMetric(IgnoreRegionsMetric):
    """Mean of every reward term and of their weighted sum, one response per sample.

    Args:
        rewards: Name -> config of a reward term, at least one, see :class:`RewardComposition`;
            includes :class:`DiscriminativeReward`, but not :class:`MaskReward`.
        ignore_regions: As in :class:`ReasonSegMetric`.
        out_file: Where to write a JSON line for each sample: ``index`` in the data set, ``id``,
            ``image``, ``question`` and all values below, null where a signal is missing. If the
            name is taken, a number is added. None writes no file.
        collect_device, prefix: As in mmengine.

    Returns (of ``evaluate``): ``<name of a term>`` in the term's own range (over the samples that
    it scores; absent if there are none), ``total`` (weighted), ``signal_<name>``, the mean of what
    a term wrote into ``rollout.signals`` (over responses that have a value), and
    ``iou_correlation_<term>`` (also for ``total``): Pearson's correlation in [-1, 1] of a term with
    the mask's IoU over the samples that have both. A term that does not correlate with the IoU can
    be earned without being right. The correlation is absent if either is constant, or if the data
    have boxes but no masks. If a second term writes a signal of the same name, its signal is called
    ``signal_<term>_<name>``.

    Raises:
        ValueError: There is no term, one has the name of a column of the lines or needs the trained
            model, or ``ignore_regions`` is unknown.
    """

    default_prefix = 'reward'

    def __init__(self, rewards: dict[str, dict], ignore_regions: str = 'target',
                 out_file: str | None = None, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        check_ignore_regions(ignore_regions)
        if not rewards:
            raise ValueError(f'`rewards` should have at least one term, but got {rewards!r}; add '
                             f'those of `train_cfg.rewards`, or leave the metric out')
        if taken := rewards.keys() & {*ORIGIN, 'iou'}:
            raise ValueError(f'`rewards` should have names other than {sorted(taken)}, which are '
                             f'columns of the result lines; rename them')
        self.ignore_regions = ignore_regions
        self.out_file = out_file
        self.composition = RewardComposition(rewards)
        self.composition.prepare()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Score one batch. ``data_batch`` comes from the data loader, before any device move."""
        # Data with boxes only have no masks to compare, nor have answers of some tasks; a results
        # file has lost them.
        has_masks = [data_batch is None or 'gt_instances' in sample
                     and 'masks' in sample['pred_instances'] for sample in data_samples]
        self.check_samples(list(compress(data_samples, has_masks)))
        if data_batch is None:
            raise ValueError('`data_batch` should be the answered batch, with its model images and '
                             'targets, but got none, as from `offline_evaluate` without `data`; '
                             'score responses with tools/analysis_tools/score_responses.py')
        for own, sample in zip(data_batch['data_samples'], data_samples, strict=True):
            if own.get('task') is None and 'task' in sample:  # as the model named it
                own.set_metainfo(dict(task=sample['task']))
        said = [sample['reasoning'] for sample in data_samples]
        records = [one['conversation'] for one in said if 'conversation' in one] or None
        rollout = RolloutBatch(
            data_samples=data_batch['data_samples'],
            model_images=data_batch['inputs']['model_image'], group_size=1,
            texts=[one['conversation'].texts[-1] if records else one['response'] for one in said],
            parsed=[one['parsed'] for one in said], conversations=records,
            reasoning_tokens=torch.tensor([float('nan' if n is None else n) for n in (
                one['reasoning_tokens'] for one in said)]))
        self.composition.score(rollout)
        columns = {'total': self.composition.total(rollout), **rollout.rewards,
                   **{f'signal_{name}': values for name, values in rollout.signals.items()}}
        self.results.extend(
            dict(identify(sample), iou=score_mask(sample, self.ignore_regions)[2]['iou']
                 if has_masks[row] else math.nan,
                 **{name: float(values[row, 0]) for name, values in columns.items()})
            for row, sample in enumerate(data_samples))

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Means over all samples; NaN entries (no usable caption, another task) are left out."""
        if self.out_file is not None:
            write_jsonl(self.out_file, in_order(results))
        names = dict.fromkeys(name for row in results for name in row if name not in ORIGIN)
        columns = {name: torch.tensor([row.get(name, math.nan) for row in results],
                                      dtype=torch.float64) for name in names}
        iou = columns.pop('iou')
        metrics = {name: float(values.nanmean()) for name, values in columns.items()
                   if name not in self.composition.weights or not values.isnan().all()}
        for name in ('total', *self.composition.weights):
            both = torch.stack([columns[name], iou])
            both = both[:, ~both.isnan().any(dim=0)]
            correlation = float(torch.corrcoef(both)[0, 1]) if both.shape[1] > 1 else math.nan
            if math.isfinite(correlation):
                metrics[f'iou_correlation_{name}'] = correlation
        return metrics
