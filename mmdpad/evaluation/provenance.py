# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Where numbers come from: packages, machine, config and data, in a form that can be compared.

No compared value contains a folder of the machine. Only the command line is kept as typed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import MessageHub

from mmdpad.datasets.wrappers import base_datasets
from mmdpad.utils.files import jsonable, strip_folders

PACKAGES = ('mmdpad', 'torch', 'transformers', 'peft', 'mmengine', 'mmcv', 'mmdet', 'numpy',
            'scipy', 'pillow', 'opencv-python', 'opencv-python-headless', 'pycocotools',
            'segment-anything', 'open-clip-torch', 'pyarrow')
# Config entries, at any depth, about where and how a run proceeds, not what it computes.
_WHERE = ('work_dir', 'log_dir', 'load_from', 'resume', 'launcher', 'log_level', 'experiment_name',
          'out_file')
# Keys of an item about its question and target, besides its files.
_SAID = ('img_id', 'text', 'texts', 'text_index', 'question', 'is_sentence', 'solution',
         'instances')
# Settings of data sets (ours and mmdet's RefCocoDataset) that select the questions.
_CHOSEN = ('split', 'split_file', 'texts', 'text_mode', 'num_samples', 'sample_seed',
           'several_objects', 'source', 'questions')
# Image files, which are identified by name and size alone.
_IMAGES = ('img_path', 'shard')
_KEY = 'provenance'


def publish(record: dict[str, Any] | None) -> None:
    """Report the provenance of the evaluated answers to the metrics of this process.

    Args:
        record: ``protocol``, the options on which the numbers depend, and ``provenance``, the rest;
            None if unknown.
    """
    MessageHub.get_current_instance().update_info(_KEY, record, resumed=False)


def published() -> dict[str, Any]:
    """The last record of :func:`publish`; empty if unknown."""
    return MessageHub.get_current_instance().get_info(_KEY) or {}


def trained_iterations() -> int:
    """How many iterations the current run has trained; 0 if it only evaluates.

    Reading ``runner.iter`` instead would build the training loop and its data.
    """
    last = MessageHub.get_current_instance().get_info('iter')  # the last one, counted from 0
    return 0 if last is None else last + 1


def describe_environment(seed: int | None) -> dict[str, Any]:
    """``versions``, ``device``, ``seed`` and ``command`` of this process."""
    return dict(versions=package_versions(), device=device_name(), seed=seed,
                command=shlex.join(['python', *sys.argv]))


def package_versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Name -> version of Python and of the packages that are installed."""
    versions = dict(python=platform.python_version())
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def device_name() -> str:
    """The GPU's name, or the processor's if there is no GPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()


def processor_name() -> str:
    """The processor's name, as far as the system reports it."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()


def hash_config(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config's entries, whatever their order, without those about where a run is
    (``work_dir``, ``load_from``, ``out_file`` ...); absolute paths count by their last part."""
    # mmengine's Config is not a Mapping; a pure Python style config also holds its imports.
    imported = getattr(config, '_imported_names', ())
    return hash_json(_without_places({key: value for key, value in config.items()
                                      if key not in imported}))


def hash_file(path: str) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of plain data and of NumPy and torch numbers, whatever the order of dict keys."""
    text = json.dumps(value, sort_keys=True, default=_as_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def describe_data(dataset: Any) -> dict[str, Any]:
    """``data_root``, the last part of that folder's path (which identifies a prepared copy), or the
    name of ``ann_file`` if there is no folder; and ``data``, see :func:`fingerprint_dataset`.
    """
    roots = dict.fromkeys(Path(part.data_root or part.ann_file).name
                          for part in base_datasets(dataset))
    return dict(data_root=', '.join(roots), data=fingerprint_dataset(dataset))


def fingerprint_dataset(dataset: Any) -> dict[str, Any]:
    """Distinguishes versions of a data set; the same on every machine.

    Args:
        dataset: An mmengine ``BaseDataset``, or wrappers and concatenations of some.

    Returns:
        ``items``, their number; ``annotations``, the number of targets (``instances`` or
        ``num_targets`` of an item, else one each); ``files``, the number of different files that
        items (``img_path``, ``ann_path``, ``shard`` ...) and data set (``ann_file`` ...) name, and
        their ``bytes``; ``sha256`` of the names and sizes of all files, the content of those
        without images, and each item's id, question, texts, solution and instances.
    """
    items: list[dict] = []
    files: dict[str, int] = {}
    contents: dict[str, str] = {}
    for part in base_datasets(dataset):
        own = [part.get_data_info(i) for i in range(len(part))]
        named = [found for entries in (vars(part), *own) for found in _files_of(entries)]
        for name, path in dict.fromkeys(named):
            files[path] = os.path.getsize(path)
            if name not in _IMAGES and path not in contents:
                contents[path] = hash_file(path)
        items += own
    said = [{key: item[key] for key in _SAID if key in item} for item in items]
    return dict(
        items=len(items), annotations=sum(map(_count_targets, items)), files=len(files),
        bytes=sum(files.values()),
        sha256=hash_json([sorted((Path(path).name, size) for path, size in files.items()),
                          sorted(contents.values()), said]))


def hash_images(dataset: Any) -> set[str]:
    """:func:`hash_image` of each image of a data set."""
    items = (part.get_data_info(i) for part in base_datasets(dataset) for i in range(len(part)))
    return {hash_image(item.get('img_path'), item.get('img_id')) for item in items}


def hash_image(path: str | None, number: Any) -> str:
    """A short hash that tells an image from others, whatever folder its data set is in: of the last
    two parts of its path, or of its id if it has none."""
    name = str(number) if path is None else '/'.join(Path(path).parts[-2:])
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def dataset_switches(dataset: Any) -> dict[str, Any]:
    """The class of a data set and the settings that select its items; a list where several differ.
    """
    parts = [dict(dataset=type(part).__name__,
                  **{name: _file_name(name, getattr(part, name)) for name in _CHOSEN
                     if hasattr(part, name)}) for part in base_datasets(dataset)]
    switches = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        values = [part.get(name) for part in parts]
        switches[name] = values[0] if values.count(values[0]) == len(values) else values
    return switches


def _files_of(entries: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and paths of the entries of an item or data set that are files."""
    for name, value in entries.items():
        if (name.endswith(('_path', '_file')) or name == 'shard') and isinstance(value, str) and (
                os.path.isfile(value)):
            yield name, value


def _file_name(name: str, value: Any) -> Any:
    """A setting as it is reported: a file by its name, without its folder."""
    return Path(value).name if name.endswith('_file') else value


def _as_plain(value: Any) -> Any:
    """A value that JSON cannot represent: numbers and arrays as plain ones, others as text."""
    return (jsonable(value) if isinstance(value, np.generic | np.ndarray | torch.Tensor)
            else str(value))


def _count_targets(item: Mapping[str, Any]) -> int:
    return len(item['instances']) if 'instances' in item else item.get('num_targets', 1)


def _without_places(value: Any) -> Any:
    """A config's entries as plain data, without those in ``_WHERE``: absolute paths by their last
    part, classes and functions by name."""
    if isinstance(value, Mapping):
        return {str(key): _without_places(item) for key, item in value.items()
                if key not in _WHERE}
    if isinstance(value, list | tuple):
        return [_without_places(item) for item in value]
    if isinstance(value, str):
        return strip_folders(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return getattr(value, '__qualname__', type(value).__qualname__)
