# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What the page needs for each config: the model, and the CLIP that the config names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import DefaultScope
from torch import Tensor

from mmdpad.analysis.caption_scores import find_rewards
from mmdpad.apis.reason_seg_inferencer import ReasonSegInferencer
from mmdpad.rewards import DiscriminativeReward

from .asking import Model

# What wrong types, arguments and files raise.
_FAULTS = (OSError, RuntimeError, KeyError, TypeError, ValueError)


def _mean_cosines(reward: DiscriminativeReward, images: Sequence[np.ndarray],
                  captions: Sequence[str | None]) -> Tensor:
    """(P, N) cosines; with several discriminators, their mean."""
    return torch.stack(reward.compare(images, captions)).mean(0)


def load_model(config: str, weights: str | None, device: str | None) -> Model:
    """The inferencer and the discriminator of a config.

    Args:
        config, weights, device: See :class:`ReasonSegInferencer`.

    Raises:
        SystemExit: The inferencer cannot be made. Without a discriminator the page still works
            and says so.
    """
    try:
        infer = ReasonSegInferencer(config, weights, device)
    except _FAULTS as error:
        raise SystemExit(f'{config} cannot be loaded: {error}') from error
    name = f'{Path(config).stem}, {Path(weights).name if weights else "start weights"}'
    terms = find_rewards(infer.cfg)
    if not terms:
        return Model(name, infer, note='No similarities: the config names no discriminator.')
    try:
        settings = next(iter(terms.values()))  # the first of several terms
        with DefaultScope.overwrite_default_scope('mmdpad'):
            reward = DiscriminativeReward(**settings)
            reward.prepare(infer.model)
    except _FAULTS as error:
        print(f'{config}: the discriminator cannot be loaded: {error}')
        return Model(name, infer, note='No similarities: the discriminator cannot be loaded; see '
                                       'the terminal for the reason.')
    return Model(name, infer, partial(_mean_cosines, reward), reward.options.region_margin)
