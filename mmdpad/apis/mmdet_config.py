# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Our models in mmdet's own interface for inference."""

from __future__ import annotations

import copy
import os

from mmengine.config import Config

from mmdpad.utils import find_config, open_config

from .reason_seg_inferencer import inference_steps


def config_for_mmdet(model_config: str | os.PathLike | Config) -> Config:
    """A config with which mmdet's ``inference_detector`` and ``DetInferencer`` ask questions: their
    text prompt. :class:`ReasonSegInferencer` does more.

    A sample or prediction is mmdet's; arrays are BGR, as there. mmdet changes the config of a model
    that ``inference_detector`` is called on with an array: from then on it takes arrays only.

    Args:
        model_config: As of :class:`ReasonSegInferencer`.

    Returns:
        A copy with another test pipeline.

    Raises:
        FileNotFoundError: There is no such config.

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
    # mmengine's inference would look it up as a name, but loaders have a dict; without it items are
    # collated as here.
    config.test_dataloader.pop('collate_fn', None)
    # By these names mmdet finds the step that it replaces for images in memory.
    config.test_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'), dict(type='QuestionFromTextPrompt'),
        *inference_steps(config)]
    return config
