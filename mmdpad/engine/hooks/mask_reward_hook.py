# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Adds the mask's IoU, drawn by the decoder in the loop, to every rollout. Beyond DPAD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.runner import Runner
from torch import Tensor

from mmdpad.evaluation.scoring import score_mask
from mmdpad.geometry.mask_iou import check_ignore_regions
from mmdpad.registry import HOOKS
from mmdpad.rewards.mask import tiered
from mmdpad.structures import ParseFailure, RolloutBatch

from .reward_hook import RewardHook


@HOOKS.register_module()
class MaskRewardHook(RewardHook):
    """Draws the mask of each response at the loop's ``after_rollout`` and scores its IoU.

    Writes ``rollout.rewards[name]``, (B, G) in [0, 1]; 0 for an unusable answer. The
    decoder is the model's own; masks are compared in the original frame.

    Args:
        tiers: Thresholds of :func:`mmdpad.rewards.mask.tiered`; None for the IoU itself.
        weight: Weight of the term in the sum of rewards.
        ignore_regions: As in :class:`ReasonSegMetric`.
        name: Of the term; a further hook of a config needs another one.
    """

    term = 'mask_iou'
    needs_decoder = True

    def __init__(self, tiers: Sequence[float] | None = None, weight: float = 1.0,
                 ignore_regions: str = 'target', name: str = term) -> None:
        if tiers is not None and not all(0 <= tier < 1 for tier in tiers):
            raise ValueError(f'`tiers` should be thresholds in [0, 1), but got {tiers}')
        check_ignore_regions(ignore_regions)
        self.tiers = tiers
        self.term, self.weight = name, weight
        self.ignore_regions = ignore_regions

    def prepare(self, runner: Runner) -> None:
        """See whether there is what it takes.

        Raises:
            ValueError: The model has no decoder, or the training data no masks.
        """
        loop = runner.train_loop
        if loop.model.decoder is None:
            raise ValueError('`MaskRewardHook` should find a `decoder` in the model, but it is '
                             'None; configure one')
        if 'gt_instances' not in loop.dataloader.dataset[0]['data_samples']:
            raise ValueError(
                f'`MaskRewardHook` should find masks in the training data, but '
                f'{type(loop.dataloader.dataset).__name__} gives none; train on data with masks '
                f'(`LoadReasonSegMask` or `LoadInstanceMasks` in its pipeline). Boxes alone '
                f'(`TargetsFromBoxes`) serve the rewards of boxes and points')

    def score(self, runner: Runner, rollout: RolloutBatch) -> Tensor:
        """The term, (B, G) in [0, 1]."""
        ious = [iou for prompt in range(rollout.num_prompts)
                for iou in self._ious(runner.train_loop.model, rollout, prompt)]
        return rollout.per_response([tiered(iou, self.tiers) for iou in ious])

    def _ious(self, model: Any, rollout: RolloutBatch, prompt: int) -> list[float]:
        """IoU of each response to one prompt; the decoder sees its image once."""
        first = prompt * rollout.group_size
        group = rollout.parsed[first:first + rollout.group_size]
        found = [() if isinstance(parsed, ParseFailure) else parsed.objects for parsed in group]
        masks = model.decode_masks([item for objects in found for item in objects],
                                   rollout.images[prompt],
                                   tuple(rollout.model_images[prompt].shape[-2:])).masks
        sample, ious = rollout.data_samples[prompt].to_dict(), []
        for parsed, own in zip(group, masks.split([len(objects) for objects in found]),
                               strict=True):
            answer = dict(pred_instances=dict(masks=own), reasoning=dict(parsed=parsed))
            ious.append(score_mask(sample | answer, self.ignore_regions)[2]['iou'])
        return ious
