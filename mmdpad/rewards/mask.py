# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The IoU of the decoded mask, as a reward. Beyond DPAD."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mmdpad.geometry.mask_iou import check_ignore_regions, score_mask
from mmdpad.registry import REWARDS
from mmdpad.structures import ParseFailure, RolloutBatch


@REWARDS.register_module()
class MaskReward:
    """Decodes the mask of each response with the model's decoder and scores its IoU.

    Masks are compared in the original frame. With a decoder that takes captions, the signal
    ``fallback`` is the share of a response's objects that were decoded without, in [0, 1].

    Args:
        tiers: Thresholds of :func:`tiered`; None for the IoU itself.
        ignore_regions: As in :class:`ReasonSegMetric`.

    Raises:
        ValueError: A threshold outside of [0, 1), or an unknown protocol.
    """

    needs_model = needs_decoder = True

    def __init__(self, tiers: Sequence[float] | None = None,
                 ignore_regions: str = 'target') -> None:
        if tiers is not None and not all(0 <= tier < 1 for tier in tiers):
            raise ValueError(f'`tiers` should be thresholds in [0, 1), but got {tiers}')
        check_ignore_regions(ignore_regions)
        self.tiers = tiers
        self.ignore_regions = ignore_regions
        self.model: Any = None

    def prepare(self, model: Any, dataset: Any) -> None:
        """Keep the model, which decodes the masks.

        Raises:
            ValueError: There is no model, it has no decoder, or the training data have no masks.
        """
        if model is None:
            raise ValueError('`MaskReward` decodes masks with the trained model, and there is none '
                             'here; use it in `train_cfg.rewards`, and measure masks with '
                             '`ReasonSegMetric`')
        if model.decoder is None:
            raise ValueError('`MaskReward` needs `model.decoder`, which is None; configure one')
        if 'gt_instances' not in dataset[0]['data_samples']:
            raise ValueError(
                '`MaskReward` needs masks in the training data, but the first sample that it '
                'would score has none; train on data with masks (`LoadReasonSegMask` or '
                '`LoadInstanceMasks` in its pipeline), or limit the term to tasks with masks '
                '(`tasks`). Boxes alone (`TargetsFromBoxes`) suffice only for the box and point '
                'rewards')
        self.model = model

    def __call__(self, rollout: RolloutBatch) -> Tensor:
        """Returns a (B, G) tensor in [0, 1]; 0 for an unusable answer."""
        ious: list[float] = []
        fallbacks: list[float] = []
        for prompt in range(rollout.num_prompts):
            for iou, fallback in self._score_group(rollout, prompt):
                ious.append(iou)
                fallbacks.append(fallback)
        signal = rollout.per_response(fallbacks)
        if not signal.isnan().all():
            rollout.signals['fallback'] = signal
        return rollout.per_response([tiered(iou, self.tiers) for iou in ious])

    def _score_group(self, rollout: RolloutBatch, prompt: int) -> Iterator[tuple[float, float]]:
        """IoU of each response to one prompt, and its ``fallback``, NaN without any."""
        assert rollout.images is not None  # the loop's rollouts have them
        first = prompt * rollout.group_size
        group = rollout.parsed[first:first + rollout.group_size]
        sample = rollout.data_samples[prompt].to_dict()
        found = self.model.decode_group(
            [(() if isinstance(parsed, ParseFailure) else parsed.objects, parsed.caption)
             for parsed in group], rollout.images[prompt],
            tuple(rollout.model_images[prompt].shape[-2:]),
            *([] if rollout.conversations is None else [self.model.windows_of(
                rollout.conversations[first:first + rollout.group_size])]))
        for parsed, own in zip(group, found, strict=True):
            answer = dict(pred_instances=dict(masks=own.masks), reasoning=dict(parsed=parsed))
            yield (score_mask(sample | answer, self.ignore_regions)[2]['iou'],
                   float(own.fallback.float().mean()) if 'fallback' in own else torch.nan)


def tiered(iou: float, tiers: Sequence[float] | None) -> float:
    """The share of thresholds that an IoU exceeds, or the IoU itself without thresholds.

    SAM-R1 (arXiv 2505.22596) and later work use both; the number of tiers and their values are a
    free choice.

    >>> tiered(0.8, (0.5, 0.7, 0.9, 0.95))
    0.5

    Args:
        iou: In [0, 1].
        tiers: Thresholds in [0, 1), or None.

    Returns:
        A value in [0, 1].
    """
    if not tiers:
        return iou
    return sum(iou > tier for tier in tiers) / len(tiers)
