# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Data sets inside wrappers (``dataset``) and lists (``datasets``), as configs and as objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmengine.dataset import BaseDataset


def base_datasets(dataset: Any) -> Iterator[BaseDataset]:
    """The data sets behind wrappers (``dataset``) and concatenations (``datasets``)."""
    if isinstance(dataset, BaseDataset):
        yield dataset
        return
    inner = [dataset.dataset] if hasattr(dataset, 'dataset') else getattr(dataset, 'datasets', ())
    for part in inner:
        yield from base_datasets(part)


def change_parts(dataset: Any, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Any:
    """A changed copy of a data set's config; also changes the data sets inside wrappers
    (``dataset``), concatenations (``datasets``) and lists. Anything else is returned as is."""
    if isinstance(dataset, list | tuple):
        return [change_parts(part, change) for part in dataset]
    if not isinstance(dataset, Mapping):
        return dataset
    dataset = dict(change(dataset))
    for name in ('dataset', 'datasets'):
        if name in dataset:
            dataset[name] = change_parts(dataset[name], change)
    return dataset


def open_wrappers(dataset: Any) -> Iterator[dict]:
    """Yield the configs of the data sets inside wrappers; ``dataset`` may be a list."""
    if isinstance(dataset, (list, tuple)):
        for part in dataset:
            yield from open_wrappers(part)
    elif inner := dataset.get('dataset', dataset.get('datasets')):
        yield from open_wrappers(inner)
    else:
        yield dataset
