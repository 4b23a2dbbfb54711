# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Where numbers come from: packages, machine, config and data, in a form that two runs compare by.

Nothing that is compared names a folder of the machine. Only the command line is kept as typed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
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
from mmdpad.utils.files import jsonable

PACKAGES = ('mmdpad', 'torch', 'transformers', 'peft', 'mmengine', 'mmcv', 'mmdet', 'numpy',
            'scipy', 'pillow', 'opencv-python', 'opencv-python-headless', 'pycocotools',
            'segment-anything', 'open-clip-torch', 'pyarrow')
# Entries of a config, at any depth, that say where and how a run goes on, not what it computes.
_WHERE = ('work_dir', 'log_dir', 'load_from', 'resume', 'launcher', 'log_level', 'experiment_name',
          'out_file')
# What an item says of its question and target, besides its files.
_SAID = ('img_id', 'text', 'texts', 'text_index', 'question', 'is_sentence', 'solution',
         'instances')
# Settings of data sets, ours and mmdet's RefCocoDataset, that choose what is asked.
_CHOSEN = ('split', 'split_file', 'texts', 'text_mode', 'num_samples', 'sample_seed',
           'several_objects', 'source', 'questions')
# Files that hold images; their names and sizes have to do.
_IMAGES = ('img_path', 'shard')
_FOLDERS = re.compile(r'(?<![\w.])/(?:[^/\s]+/)+')  # of an absolute path, also within a text
_KEY = 'provenance'


def publish(record: dict[str, Any] | None) -> None:
    """Tell the metrics of this process where what they see comes from; None: it is unknown.

    Args:
        record: ``protocol``, switches on which the numbers hang, and ``provenance``, the rest.
    """
    MessageHub.get_current_instance().update_info(_KEY, record, resumed=False)


def published() -> dict[str, Any]:
    """What :func:`publish` was told last; empty if unknown."""
    return MessageHub.get_current_instance().get_info(_KEY) or {}


def trained_iterations() -> int:
    """How many iterations the current run has trained; 0 if it only evaluates.

    Runner's own ``iter`` builds the training, its data included, to say so.
    """
    last = MessageHub.get_current_instance().get_info('iter')  # the last one, counted from 0
    return 0 if last is None else last + 1


def describe_environment(seed: int | None) -> dict[str, Any]:
    """``versions``, ``device``, ``seed`` and ``command`` of this process."""
    return dict(versions=package_versions(), device=device_name(), seed=seed,
                command=shlex.join(['python', *sys.argv]))


def package_versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Name -> version of Python and of those packages that are installed."""
    versions = dict(python=platform.python_version())
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def device_name() -> str:
    """The GPU's name, without one the processor's."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()


def processor_name() -> str:
    """The processor's name, where the system tells it."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()


def hash_config(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config's entries, in any order, without those about the place of a run
    (``work_dir``, ``load_from``, ``out_file`` ...); absolute paths count by their last part."""
    # mmengine's Config is no Mapping; in its pure Python style it has what was imported, too.
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
    """SHA-256 of plain data, numbers of NumPy and torch among it, in any order of a dict's keys."""
    text = json.dumps(value, sort_keys=True, default=_as_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def describe_data(dataset: Any) -> dict[str, Any]:
    """``data_root``, the last part of that folder's path (of prepared copies it says which one it
    is), without a folder the name of ``ann_file``; and ``data``, see :func:`fingerprint_dataset`.
    """
    roots = dict.fromkeys(Path(part.data_root or part.ann_file).name
                          for part in base_datasets(dataset))
    return dict(data_root=', '.join(roots), data=fingerprint_dataset(dataset))


def fingerprint_dataset(dataset: Any) -> dict[str, Any]:
    """What tells a data set from another version of it, the same on every machine.

    Args:
        dataset: An mmengine ``BaseDataset``, or wrappers and concatenations of some.

    Returns:
        ``items``; ``annotations``, their targets (``instances`` or ``num_targets`` of an item, else
        one each); ``files``, how many different ones items (``img_path``, ``ann_path``, ``shard``
        ...) and data set (``ann_file`` ...) name, and their ``bytes``; ``sha256`` of the names and
        sizes of all files, the content of those without images, and, item by item, id, question,
        texts, solution and instances.
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


def dataset_switches(dataset: Any) -> dict[str, Any]:
    """What was chosen of a data set: its class and its settings; a list where several differ."""
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
    """A setting as it is told: a file by its name, not by its folder."""
    return Path(value).name if name.endswith('_file') else value


def _as_plain(value: Any) -> Any:
    """What JSON has no form for: numbers and arrays as plain ones, anything else by its text."""
    return (jsonable(value) if isinstance(value, np.generic | np.ndarray | torch.Tensor)
            else str(value))


def _count_targets(item: Mapping[str, Any]) -> int:
    return len(item['instances']) if 'instances' in item else item.get('num_targets', 1)


def _without_places(value: Any) -> Any:
    """A config's entries as plain data: absolute paths by their last part, classes and functions
    by name, and none of ``_WHERE``."""
    if isinstance(value, Mapping):
        return {str(key): _without_places(item) for key, item in value.items()
                if key not in _WHERE}
    if isinstance(value, list | tuple):
        return [_without_places(item) for item in value]
    if isinstance(value, str):
        return _FOLDERS.sub('', value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return getattr(value, '__qualname__', type(value).__qualname__)
