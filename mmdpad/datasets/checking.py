# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Check the data sets of a config before a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmcv.transforms import LoadImageFromFile

from mmdpad.registry import DATASETS, type_name
from mmdpad.utils import LOADERS

from .class_annotations import label_names
from .errors import DatasetError, collecting, show_names
from .reasoning_dataset import for_evaluation
from .transforms.questions import QuestionFromLabel
from .wrappers import base_datasets, open_wrappers


def find_datasets(config: Mapping[str, Any]) -> Iterator[tuple[str, dict]]:
    """Yield the data sets of a config's data loaders, each with the names of the loaders that use
    it. A data set used for both training and evaluation is yielded twice.

    Wrappers (mmengine's ``RepeatDataset``, ``ConcatDataset`` and the like) are replaced by the
    contents of their ``dataset`` or ``datasets``.
    """
    found: list[tuple[list[str], dict]] = []
    for name in LOADERS:
        loader = config.get(name)
        for dataset in open_wrappers(loader['dataset'] if loader else []):
            same = [names for names, earlier in found
                    if earlier == dataset and names != ['train_dataloader']]
            if same:
                same[0].append(name)
            else:
                found.append(([name], dataset))
    yield from ((', '.join(names), dataset) for names, dataset in found)


def as_built(loaders: str, config: dict) -> dict:
    """The config, found by :func:`find_datasets`, in the form in which the loops build it."""
    return config if loaders == 'train_dataloader' else for_evaluation(config)


def check_dataset(config: dict, load: int = 0, take: Callable[[Any], None] | None = None,
                  asks: bool = False) -> str:
    """Build a data set, which checks its files, and load some of its items.

    Args:
        config: Of the data set.
        load: How many items to run through the pipeline, evenly spaced; -1 for all. Building reads
            only image headers; loading decodes the pixels.
        take: Called with each loaded item.
        asks: Whether the model answers questions. If so, at least one item is loaded, see
            :func:`check_first_item`.

    Returns:
        One line that summarizes the content, and a second one that lists the annotations without a
        target, if any.

    Raises:
        DatasetError: Lists every problem.
        ImportError: The data set needs a package that is not installed.
    """
    return check_items(DATASETS.build(config), type_name(config), load, take, asks)


def check_first_item(dataset: Any) -> None:
    """Load one item of each data set for a model that answers questions. This reports a pipeline
    that does not match its data set before a run, and names the missing transform.

    Args:
        dataset: A built data set, which may be wrapped.

    Raises:
        DatasetError: An item lacks what a step needs, or its pipeline packs no question.
    """
    for part in base_datasets(dataset):
        name = type(part).__name__
        steps = part.pipeline.transforms
        problems: list[DatasetError] = []
        with collecting(problems):
            if any(isinstance(step, LoadImageFromFile) for step in steps):
                raise DatasetError(
                    "The pipeline has mmdet's `LoadImageFromFile`, which gives BGR; replace it "
                    'with `LoadReasoningImage`', 'wrong pipeline')
            if any(isinstance(step, QuestionFromLabel) and not step.classes for step in steps):
                _check_names(part)
            sample = part[0].get('data_samples') if len(part) else None
            if len(part) and 'question' not in (sample or ()):
                raise DatasetError(
                    f'The pipeline should end with `PackReasoningInputs`, which packs `question`, '
                    f'but has {[type(step).__name__ for step in steps]}; see docs/data.md for '
                    'a pipeline that matches the data set', 'wrong pipeline')
        if problems:
            raise DatasetError.listing(getattr(part, 'where', name), problems)


def _check_names(dataset: Any) -> None:
    """Check that ``classes`` of a data set are the names of its labels."""
    names, given = list(label_names(dataset) or ()), dataset.metainfo.get('classes')
    if given is not None and names != list(given)[:len(names)]:
        raise DatasetError(
            f'`metainfo.classes` of {type(dataset).__name__} should list the categories of '
            f'{dataset.ann_file} in the order of the file, by which mmdet numbers labels, but '
            f'starts with {list(given)[:3]} instead of {names[:3]}; set '
            f'`metainfo=dict(classes=(...))`, or use a `QuestionDataset`', 'wrong classes')


def check_items(dataset: Any, name: str, load: int = 0,
                take: Callable[[Any], None] | None = None, asks: bool = False) -> str:
    """:func:`check_dataset` for a built data set; ``name`` is its class."""
    dataset.full_init()
    if asks:
        check_first_item(dataset)
    number = len(dataset)
    loaded = number if load < 0 else min(load, number)
    problems: list[DatasetError] = []
    for i in range(loaded):
        with collecting(problems):
            item = dataset[i * number // loaded]
            if take is not None:
                take(item)
    if problems:
        raise DatasetError.listing(getattr(dataset, 'where', name), problems)
    images = {dataset.get_data_info(i).get('img_path') for i in range(number)}
    report = f'ok: {number} items, {len(images)} images' + (f', {loaded} loaded' if loaded else '')
    if bad := getattr(dataset, 'bad_entries', None):
        report += (f'\n  note: {sum(bad.values())} bad entries are left out (`on_bad_entry`): '
                   + ', '.join(f'{kind} ({count})' for kind, count in bad.items()))
    if names := getattr(dataset, 'no_target', ()):
        report += (f'\n  note: {len(names)} annotation(s) mark no target and '
                   + ('are scored by the protocol: ' if dataset.test_mode else
                      'are not used in training: ')
                   + show_names(names))
    return report
