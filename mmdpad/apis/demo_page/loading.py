# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What the page asks: a model, and the CLIP that its config names."""

from __future__ import annotations

from pathlib import Path

from mmengine.registry import DefaultScope

from mmdpad.apis.reason_seg_inferencer import ReasonSegInferencer
from mmdpad.evaluation.caption_scores import find_reward
from mmdpad.models.discriminators import DiscriminativeReward

from .asking import Model


def load_model(config: str, weights: str | None, device: str | None) -> Model:
    """The inferencer and the discriminator of a config.

    Args:
        config, weights, device: See :class:`ReasonSegInferencer`.

    Raises:
        SystemExit: The inferencer cannot be made. Without a discriminator the page works, and
            says so.
    """
    try:
        infer = ReasonSegInferencer(config, weights, device)
    except (OSError, RuntimeError, ValueError) as error:
        raise SystemExit(f'{config} cannot be loaded: {error}') from error
    name = f'{Path(config).stem}, {Path(weights).name if weights else "start weights"}'
    try:
        settings = find_reward(infer.cfg)
    except ValueError:
        return Model(name, infer, note='No similarities: the config names no discriminator.')
    try:
        with DefaultScope.overwrite_default_scope('mmdpad'):
            reward = DiscriminativeReward(**settings, device=next(infer.model.parameters()).device)
    except (OSError, RuntimeError, ValueError) as error:
        print(f'{config}: the discriminator cannot be loaded: {error}')
        return Model(name, infer, note='No similarities: the discriminator cannot be loaded; the '
                                       'terminal says why.')
    return Model(name, infer, reward.discriminator, reward.options.region_margin)
