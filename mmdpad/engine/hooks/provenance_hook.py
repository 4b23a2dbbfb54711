# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Records protocol and provenance in result files."""

from __future__ import annotations

import os.path as osp
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmdpad.datasets.transforms.model_image import model_image_sizes
from mmdpad.engine.unwrap import unwrap
from mmdpad.evaluation.provenance import (
    dataset_switches,
    describe_data,
    describe_environment,
    hash_config,
    hash_images,
    publish,
    trained_iterations,
)
from mmdpad.models.segmentors import ReasoningSegmentor
from mmdpad.registry import HOOKS
from mmdpad.tasks import describe_tasks
from mmdpad.utils import jsonable

from .response_cache_hook import digest_weights


@HOOKS.register_module()
class ProvenanceHook(Hook):
    """Reports to the metrics of a validation or test what they evaluate
    (:func:`mmdpad.evaluation.provenance.publish`); :class:`ReasonSegMetric` writes it into its
    files.

    - ``protocol``: ``dataset``, ``split``, ``texts`` and other options that select the data;
      ``model_image_size`` (width, height); and for a :class:`ReasoningSegmentor` ``decoder``
      ('SAM2Decoder(sam2-hiera-large)'), ``coordinates``, its task
      (:func:`mmdpad.tasks.describe_tasks`: ``several_objects``, ``prompt_template`` and so on, or
      ``tasks`` if there are several), ``test_cfg`` (``temperature`` 0 is greedy), with several
      answers to a question ``choice`` (:class:`mmdpad.models.segmentors.choosing.Choice`) and, if
      it has one, ``box_scorer``: options and calibration, with ``common_images``, how many images
      of the data the calibration was fitted on. A warning names them, or another policy that it was
      fitted to.
    - ``provenance``: ``checkpoint``, the name of the file that was loaded (None: the weights that
      the config names), and ``iter``, how long this run has trained them; ``weights``, SHA-256 of
      the policy's and the decoder's; ``config``; ``data_root`` and ``data``
      (:func:`mmdpad.evaluation.provenance.describe_data`); versions of packages, device, seed and
      command.

    The weights are also hashed before each validation, so that the result that selects a checkpoint
    names them. This takes about 20 s for 15 GB, little compared to answering a validation set. The
    decoder and the data do not change and are hashed once per run. :class:`ResponseCacheHook` takes
    the policy's hash from here. Without this hook, results say that their provenance is unknown.
    """

    priority = 'ABOVE_NORMAL'  # before ResponseCacheHook

    def __init__(self) -> None:
        self._decoder: str | None = None
        self._data: dict[int, dict[str, Any]] = {}
        self._images: dict[int, set[str]] = {}

    def before_val(self, runner: Runner) -> None:
        """Describe a validation."""
        self._describe(runner, runner.val_loop)

    def before_test(self, runner: Runner) -> None:
        """Describe a test."""
        self._describe(runner, runner.test_loop)

    def after_val(self, runner: Runner) -> None:
        """Clear the record."""
        publish(None)

    after_test = after_val

    def _describe(self, runner: Runner, loop: Any) -> None:
        model, dataset = unwrap(runner.model), loop.dataloader.dataset
        weights = self._weights(model)
        if id(loop) not in self._data:
            self._data[id(loop)] = describe_data(dataset)
        publish(jsonable(dict(
            protocol=dict(dataset_switches(dataset), model_image_size=_model_image_size(dataset),
                          **_model_switches(model),
                          **self._describe_scorer(runner, model, loop, weights.get('policy'))),
            provenance=dict(
                checkpoint=osp.basename(runner.cfg.get('load_from') or '') or None,
                iter=trained_iterations(), weights=weights,
                config=hash_config(runner.cfg), **self._data[id(loop)],
                **describe_environment(runner.seed)))))

    def _describe_scorer(self, runner: Runner, model: nn.Module, loop: Any,
                         policy: str | None) -> dict[str, Any]:
        """``box_scorer``, if the model has one, whose policy has this SHA-256."""
        scorer = getattr(model, 'box_scorer', None)
        if scorer is None:
            return {}
        described = scorer.describe()
        if scorer.calibration is not None:
            if id(loop) not in self._images:
                self._images[id(loop)] = hash_images(loop.dataloader.dataset)
            images = self._images[id(loop)]
            common = len(images.intersection(scorer.calibration.images))
            described['calibration']['common_images'] = common
            if common:
                runner.logger.warning(
                    f'`model.box_scorer.calibration` {scorer.calibration.file!r} was fitted on '
                    f'{common} of the {len(images)} images of this evaluation, so `ece` and '
                    '`brier` are better than on new images; fit it on another split')
            if scorer.calibration.fitted_on.get('policy') not in (None, policy):
                runner.logger.warning(
                    f'`model.box_scorer.calibration` {scorer.calibration.file!r} was fitted to the '
                    'boxes of a policy with other weights, so scores may not be probabilities for '
                    'this one; evaluate this one on a validation split and fit it again')
        return dict(box_scorer=described)

    def _weights(self, model: nn.Module) -> dict[str, str | None]:
        if not isinstance(model, ReasoningSegmentor):
            return dict(model=digest_weights(model))
        if self._decoder is None and model.decoder is not None:
            self._decoder = digest_weights(model.decoder)
        return dict(policy=digest_weights(model.policy), decoder=self._decoder)


def _model_switches(model: nn.Module) -> dict[str, Any]:
    """The options that a number depends on besides weights and data."""
    if not isinstance(model, ReasoningSegmentor):
        return dict(model=type(model).__name__)
    return dict(decoder=model.decoder and _kind(model.decoder),
                **describe_tasks(model.tasks), coordinates=model.policy.coordinates,
                test_cfg=dict(model.test_cfg),
                **(dict(choice=model.choice.describe()) if model.choice else {}),
                **(dict(conversation=model.conversations.describe()) if model.conversations
                   else {})
                ) | getattr(model, 'protocol', {})


def _kind(decoder: nn.Module) -> str:
    """'SAMDecoder(vit_h)': the class and, if it has one, the variant."""
    variant = getattr(decoder, 'variant', None)
    return type(decoder).__name__ + (f'({variant})' if variant else '')


def _model_image_size(dataset: Any) -> tuple[int, int] | None:
    """Width and height of the model images; None if the pipelines do not fix the size."""
    sizes = model_image_sizes(dataset)
    return sizes.pop() if len(sizes) == 1 else None
