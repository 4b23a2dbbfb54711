# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Builds data loaders whose workers also run the model's processor."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch.utils.data import DataLoader

from mmdpad.datasets.checking import check_first_item
from mmdpad.datasets.reasoning_dataset import show_names
from mmdpad.datasets.transforms.model_image import model_image_sizes
from mmdpad.datasets.wrappers import base_datasets
from mmdpad.engine.unwrap import unwrap
from mmdpad.models.heads.prompt_encoder import (
    EncodingCollate,
    PromptEncoder,
    check_prompt_lengths,
)
from mmdpad.prompts import normalize_question
from mmdpad.tasks import Task, WrongTask, find_task


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
        ValueError: The model lacks the task of a question; a question may mean several objects, but
            its task's answers have only one; or the processor would change the size of a model
            image; or a prompt is too long.
        DatasetError: The first item of a data set cannot be loaded, or has no question.
    """
    if isinstance(dataloader, dict):
        dataloader = cast(DataLoader, runner.build_dataloader(
            dataloader, seed=runner.seed,
            diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False)))
    model = unwrap(runner.model)
    if tasks := getattr(model, 'tasks', None):
        check_tasks(tasks, dataloader.dataset)
    encoder = getattr(getattr(model, 'policy', None), 'encoder', None)
    if encoder is None or isinstance(dataloader.collate_fn, EncodingCollate):
        return dataloader
    check_first_item(dataloader.dataset)
    templates = {} if training else getattr(model, 'test_templates', {})
    problems = find_long_prompts(encoder, dataloader.dataset, templates)
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


def check_tasks(tasks: Mapping[str, Task], dataset: Any) -> None:
    """Check that a model can be asked the questions of a data set. No image is read.

    Args:
        tasks: The model's tasks.
        dataset: The data set, however wrapped.

    Raises:
        WrongTask: The model lacks the task of a question, or a question may mean several objects,
            but its task's answers have only one.
    """
    for part in base_datasets(dataset):
        for name in tasks_asked(part):
            task = find_task(name, tasks)
            if getattr(part, 'several_objects', False) and not task.several_objects:
                shown = name or next(iter(tasks))
                raise WrongTask(
                    f'`several_objects` of the task {shown!r} should be True, as in the data set '
                    f'({part.__class__.__name__}), but is False; set it in the model '
                    f'(`model.several_objects`, or that of `model.tasks.{shown}`), with a prompt '
                    f"that asks for a list (the template 'several_objects'), or remove it from the "
                    f'data set')


def tasks_asked(dataset: Any) -> list[str | None]:
    """The names of the tasks of a data set's questions, None for the model's first. No image is
    read."""
    return list(dict.fromkeys(item.get('task') for item in items_of(dataset)))


def find_long_prompts(encoder: PromptEncoder, dataset: Any,
                      templates: Mapping[str, str] | None = None) -> list[str]:
    """The problems of :func:`mmdpad.models.heads.prompt_encoder.check_prompt_lengths` with the
    questions of a data set. No image is read.

    Args:
        encoder: The policy's encoder.
        dataset: The data set, however wrapped.
        templates: Name -> template of each kind of prompt that is written for every question, see
            :attr:`.ReasoningSegmentor.test_templates`; a problem then says the name. Otherwise each
            question is written for its task.
    """
    asked: dict[str | None, list[str]] = {}
    for item in items_of(dataset):
        if 'question' in item:
            asked.setdefault(item.get('task'), []).append(normalize_question(item['question']))
    sizes = model_image_sizes(dataset)
    if not templates:
        return [problem for task, questions in asked.items()
                for problem in check_prompt_lengths(encoder, questions, sizes, task)]
    everything = [question for questions in asked.values() for question in questions]
    return [f'`{name}` prompt: {problem}' for name, template in templates.items()
            for problem in check_prompt_lengths(encoder.with_template(template), everything, sizes)]


def items_of(dataset: Any) -> Iterator[dict]:
    """The items of a data set, however wrapped, each once and before its pipeline."""
    return (part.get_data_info(i) for part in base_datasets(dataset) for i in range(len(part)))
