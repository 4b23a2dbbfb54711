# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Chooses the answer whose caption tells its own region apart from the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from mmdpad.geometry.boxes import union_box
from mmdpad.registry import MODELS
from mmdpad.rewards import DiscriminativeReward
from mmdpad.structures import RolloutBatch
from mmdpad.tasks import Task

from .selector import Asked, Selector, check_masks

CONTRASTS = ('image', 'masked')


@MODELS.register_module()
class DiscriminationSelector(Selector):
    """S1 - S2 at the answer's own box: how much better the caption matches the region that the
    answer names than the whole image; in [-2, 2].

    This is the margin of :class:`mmdpad.rewards.DiscriminativeReward` with
    ``region='predicted'``, before its form, without a ground truth. An answer has no value without
    a caption that the discriminator can use, without a box, or if its box may not be a region.

    Args:
        discriminator: Config of the discriminator, or a list of them, whose mean counts; with an
            equal config, a reward term and this share one model.
        contrast: What S2 compares with: 'image', or 'masked' (the image without the region).
        max_region, region_margin: See :class:`mmdpad.rewards.DiscriminativeOptions`.
        device: Where the discriminators run; default: mmengine's current device.

    Raises:
        ValueError: An argument is not one of these, or see
            :class:`mmdpad.rewards.DiscriminativeOptions`.
    """

    name = 'discrimination'

    def __init__(self, discriminator: dict | Sequence[dict],
                 contrast: str = 'image', max_region: float = 1.0, region_margin: float = 0.0,
                 device: str | None = None) -> None:
        if contrast not in CONTRASTS:
            raise ValueError(f'`contrast` should be one of {CONTRASTS}, since the objects in the '
                             f'data are not known, but got {contrast!r}; set one')
        self.reward = DiscriminativeReward(
            discriminator, device, region='predicted', contrast=contrast, max_region=max_region,
            region_margin=region_margin)

    def check_tasks(self, tasks: Mapping[str, Task]) -> None:
        """See :class:`Selector`."""
        check_masks(self.name, tasks)

    def prepare(self) -> None:
        """Build the discriminators."""
        self.reward.prepare()

    def measure(self, asked: Sequence[Asked], policy: Any) -> list[np.ndarray]:
        """See :class:`Selector`. All answers are compared in one call of each discriminator."""
        candidates = [own for one in asked for own in one.candidates]
        rollout = RolloutBatch(
            data_samples=[SimpleNamespace() for _ in asked],
            model_images=[one.model_image for one in asked],
            group_size=len(asked[0].candidates), texts=[own.response for own in candidates],
            parsed=[own.parsed for own in candidates])
        self.reward(rollout)
        margins = rollout.signals['s_margin'].double().numpy()
        return [np.where([own.usable for own in one.candidates], values, np.nan)
                for one, values in zip(asked, margins, strict=True)]

    def cost(self, asked: Asked) -> int:
        """The different regions, and the image or what is left of it without each of them."""
        shape = (asked.model_image.shape[-2], asked.model_image.shape[-1])
        boxes = {union_box([item.box for item in own.parsed.objects if item.box])
                 for own in asked.candidates}
        regions = sum(self.reward.options.allow(box, shape) for box in boxes if box)
        contrasts = min(regions, 1) if self.reward.options.contrast == 'image' else regions
        return (regions + contrasts) * len(self.reward.configs)
