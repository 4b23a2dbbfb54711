# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Scores the objects of an answer by how well their descriptions tell them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from mmdpad.registry import MODELS
from mmdpad.rewards import DISCRIMINATIVE_FORMS, DiscriminativeReward
from mmdpad.rewards.described_instances import DescribedInstances
from mmdpad.structures import ReasoningOutput, RolloutBatch

from .box_scorer import BoxScorer, GivenAnswer, ScoredObjects, as_plain


@MODELS.register_module()
class DiscriminationScorer(BoxScorer):
    """How much better a description matches its own box (S1) than the best match among the other
    boxes of the answer and the image (S2); in [0, 1].

    This is the discriminative term with ``per_instance=True`` and ``region='predicted'``, for each
    object and without a ground truth (:class:`mmdpad.rewards.DiscriminativeOptions`). An object
    without a description is described by its label. Of several boxes without others in the answer,
    or a single one, S2 is that of the image. A description that the discriminator cannot use, or a
    box that may not be a region, has the score 0 and unknown features.

    Features: ``s_roi`` (S1), ``s_image`` (S2), ``s_margin`` (S1 - S2), and ``s_rank``, 1 + the
    number of contrasts that fit at least as well as the box.

    Args:
        discriminator: Config of the discriminator, or a list of them, as in
            :class:`mmdpad.rewards.DiscriminativeReward`. With an equal config, the term and this
            share one model.
        contrast: 'others', 'image' or 'masked'.
        region: 'predicted'; others need a ground truth.
        form: One of :data:`mmdpad.rewards.DISCRIMINATIVE_FORMS`, whose values above 1 count as 1.
        temperature, alpha, max_region, region_margin, combine: See
            :class:`mmdpad.rewards.DiscriminativeOptions`.
        device: Where the discriminators run; default: mmengine's current device.
        calibration: See :class:`BoxScorer`.

    Raises:
        ValueError: An argument is not one of these, or see
            :class:`mmdpad.rewards.DiscriminativeOptions` and :meth:`.Calibration.read`.
    """

    name = 'discrimination'
    feature_names = ('s_roi', 's_image', 's_margin', 's_rank')

    def __init__(self, discriminator: dict | Sequence[dict], contrast: str = 'others',
                 region: str = 'predicted', form: str = 'sigmoid', temperature: float = 0.1,
                 alpha: float = 100.0, max_region: float = 1.0, region_margin: float = 0.0,
                 combine: str = 'mean', device: str | None = None,
                 calibration: str | None = None) -> None:
        if region != 'predicted':
            raise ValueError(f"`region` should be 'predicted', since an answer is scored without a "
                             f'ground truth, but got {region!r}')
        if form not in DISCRIMINATIVE_FORMS:
            raise ValueError(f'`form` should be one of {DISCRIMINATIVE_FORMS}, but got {form!r}')
        super().__init__(calibration)
        self.reward = DiscriminativeReward(
            discriminator, device, form=form, temperature=temperature, alpha=alpha, region=region,
            max_region=max_region, region_margin=region_margin, contrast=contrast, combine=combine,
            per_instance=True)
        self.check_calibration()

    def prepare(self, policy: Any) -> None:
        """Build the discriminators."""
        self.reward.prepare()

    def options(self) -> dict[str, Any]:
        options = asdict(self.reward.options)
        unused = ('per_instance', 'match_iou')
        return dict(type='DiscriminationScorer', discriminator=as_plain(self.reward.configs),
                    **{name: value for name, value in options.items() if name not in unused})

    def score(self, answers: Sequence[GivenAnswer], policy: Any = None) -> list[ScoredObjects]:
        """See :class:`BoxScorer`. All answers are compared in one call of each discriminator."""
        described = DescribedInstances(_as_rollout(answers), self.reward.options)
        found, values = self.reward.score_instances(described)
        rows = [torch.full((len(answer.objects), len(self.feature_names) + 1), torch.nan,
                           dtype=torch.float64) for answer in answers]
        for instance, (s1, s2, rank), value in zip(
                described.instances, found, values, strict=True):
            if (s1 - s2).isfinite():
                rows[instance.row][instance.number] = torch.stack(
                    [s1, s2, s1 - s2, rank, value.clamp(max=1)])
        scored = []
        for row in rows:
            *features, score = row.numpy().T
            scored.append(ScoredObjects(np.nan_to_num(score), dict(
                zip(self.feature_names, features, strict=True), score=score)))
        return scored


def _as_rollout(answers: Sequence[GivenAnswer]) -> RolloutBatch:
    """The answers as the term gets them: about data without targets, with a description each."""
    return RolloutBatch(
        data_samples=[SimpleNamespace() for _ in answers],
        model_images=[answer.model_image for answer in answers], group_size=1,
        texts=[answer.response for answer in answers],
        parsed=[ReasoningOutput(None, None, tuple(
            replace(item, description=item.description or item.label) for item in answer.objects))
            for answer in answers])
