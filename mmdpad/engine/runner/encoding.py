# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Builds data loaders whose workers also run the model's processor."""

from __future__ import annotations

import os
from typing import Any, cast

from torch.utils.data import DataLoader

from mmdpad.datasets.checking import check_first_item
from mmdpad.datasets.reasoning_dataset import show_names
from mmdpad.datasets.transforms.model_image import model_image_sizes
from mmdpad.datasets.wrappers import base_datasets
from mmdpad.engine.unwrap import unwrap
from mmdpad.models.heads.prompt_encoder import EncodingCollate, check_prompt_lengths
from mmdpad.prompts import normalize_question


def build_encoding_dataloader(runner: Any, dataloader: DataLoader | dict,
                              training: bool = True) -> DataLoader:
    """Build a data loader as mmengine's loops do, and let it encode prompts as it collates.

    A loop must call this before it iterates over its loader, since workers copy ``collate_fn`` when
    they start. If the model's policy has no ``encoder``, the loader is not changed. Neither is that
    of an evaluation with prompts of its own (:attr:`.ReasoningSegmentor.test_templates`), whose
    lengths are checked.

    Args:
        runner: The runner, with its model.
        dataloader: A config, or a loader, whose ``collate_fn`` is replaced.
        training: Whether the loader is for training.

    Raises:
        ValueError: The data set's questions may mean several objects, but the model's answers only
            one; or the processor would change the size of a model image; or a prompt is too long.
        DatasetError: The first item of a data set cannot be loaded, or has no question.
    """
    if isinstance(dataloader, dict):
        dataloader = cast(DataLoader, runner.build_dataloader(
            dataloader, seed=runner.seed,
            diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False)))
    model = unwrap(runner.model)
    if getattr(dataloader.dataset, 'several_objects', False) and not getattr(
            model, 'several_objects', True):
        raise ValueError('`model.several_objects` should be True, as in the data set, but got '
                         'False; set it, with a prompt that asks for a list '
                         "(`policy.prompt_template='several_objects'`), or remove it from the data "
                         'set')
    encoder = getattr(getattr(model, 'policy', None), 'encoder', None)
    if encoder is None or isinstance(dataloader.collate_fn, EncodingCollate):
        return dataloader
    check_first_item(dataloader.dataset)
    templates = {} if training else getattr(model, 'test_templates', {})
    problems = check_prompt_lengths(encoder, *asked(dataloader.dataset), templates)
    if problems:
        raise ValueError('\n'.join(problems))
    if templates:
        return dataloader
    if dataloader.num_workers:
        # Workers run in parallel already; a tokenizer warns that its threads do not survive a fork.
        os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
    dataloader.collate_fn = EncodingCollate(encoder, dataloader.collate_fn)
    return dataloader


def check_training_data(dataset: Any) -> None:
    """Check that a data set has no items that training should leave out.

    Raises:
        ValueError: The data set keeps annotations that mark no target.
    """
    kept = [name for part in base_datasets(dataset) if part.test_mode
            for name in getattr(part, 'no_target', ())]
    if kept:
        raise ValueError(
            f'A data set to train on should leave out the {len(kept)} annotation(s) that mark no '
            f'target ({show_names(kept)}), but `test_mode=True` keeps them; remove it '
            'from the `dataset` of `train_dataloader`')


def asked(dataset: Any) -> tuple[list[str], set[tuple[int, int]]]:
    """The normalized questions of a data set, and (width, height) of its model images, for
    :func:`mmdpad.models.heads.prompt_encoder.check_prompt_lengths`. No image is read."""
    items = (part.get_data_info(i) for part in base_datasets(dataset) for i in range(len(part)))
    return ([normalize_question(item['question']) for item in items if 'question' in item],
            model_image_sizes(dataset))
