# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Run mmdpad models through mmdet's own inference interface."""

from __future__ import annotations

import copy
import os

from mmengine.config import Config

from mmdpad.utils import find_config, open_config

from .reason_seg_inferencer import inference_steps


def config_for_mmdet(model_config: str | os.PathLike | Config) -> Config:
    """A config with which mmdet's ``inference_detector`` and ``DetInferencer`` ask questions,
    passed as their text prompt. :class:`ReasonSegInferencer` offers more.

    Samples and predictions are mmdet's; arrays are BGR, as there. Calling ``inference_detector``
    with an array makes mmdet change the model's config: from then on it accepts arrays only.

    Args:
        model_config: See :class:`ReasonSegInferencer`.

    Returns:
        A copy with another test pipeline.

    Raises:
        FileNotFoundError: The config does not exist.

    Example:
        >>> config = config_for_mmdet('tiny_shapes')  # doctest: +SKIP
        >>> model = init_detector(config, weights, cfg_options={})  # doctest: +SKIP
        >>> inference_detector(model, 'a.jpg', text_prompt='What is red?')  # doctest: +SKIP
        >>> infer = DetInferencer(config, weights, scope='mmdpad')  # doctest: +SKIP
        >>> infer('a.jpg', texts='What is red?')  # doctest: +SKIP
    """
    if not isinstance(model_config, Config):
        model_config = open_config(find_config(model_config))
    config = copy.deepcopy(model_config)
    # mmengine's inferencer would look it up by name, but loaders have a dict; without it, items are
    # collated the same way as here.
    config.test_dataloader.pop('collate_fn', None)
    # mmdet finds the step to replace for in-memory images by these names.
    config.test_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'), dict(type='QuestionFromTextPrompt'),
        *inference_steps(config)]
    return config
