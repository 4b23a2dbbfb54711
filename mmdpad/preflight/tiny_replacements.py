# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Replace a config's models by tiny random ones and its data by synthetic data, in files of the
real formats."""

from __future__ import annotations

import importlib.util
import os.path as osp
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import Resize
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from safetensors.torch import load_file, save_file
from torch import nn

from mmdpad.datasets.samplers import VarianceSampler
from mmdpad.datasets.wrappers import open_wrappers
from mmdpad.engine.config_nodes import find_nodes
from mmdpad.engine.short_selectors import write_out_selectors
from mmdpad.models import BoxScorer, VLMReasoningHead
from mmdpad.models.cost.shapes import read_policy_config
from mmdpad.models.decoders import ConceptDecoder, DetectorDecoder, HFSAMDecoder, SAMDecoder
from mmdpad.models.discriminators import CLIPDiscriminator
from mmdpad.models.feature_cache import content_key
from mmdpad.models.heads.quantization import check_prequantized, check_trainable
from mmdpad.registry import (
    DATA_SAMPLERS,
    MODELS,
    REWARDS,
    TRANSFORMS,
    is_kind,
    resolve,
    scope_of,
    type_name,
)
from mmdpad.toy import WEIGHTS_DIR
from mmdpad.toy.policy_folder import MODEL_TYPES, make_policy_folder
from mmdpad.toy.sam import SHAPES_SAM_NAME, build_sam_shapes
from mmdpad.toy.sam_folders import SAM_FOLDERS
from mmdpad.toy.seeding import seeded
from mmdpad.utils import LOADERS, open_config

from .check_weights import FILE_ARGUMENTS
from .synthetic_data import write_synthetic_data
from .tiny_detectors import find_pretrained, shrinking_options

Notes = list[str]
_KEPT = 'kept as it is, with its own weights; --smoke has no tiny replacement for its class'


def replace_models(config: Config, folder: Path) -> Notes:
    """Replace every model of a config by a tiny random one of the same class.

    Args:
        config: Changed in place.
        folder: Where to write the weights; existing files are reused.

    Returns:
        One line for each model: what replaced it, or that it was kept.
    """
    notes = []
    folder.mkdir(parents=True, exist_ok=True)
    write_out_selectors(config)
    with DefaultScope.overwrite_default_scope(scope_of(config)):
        for node in find_nodes(config):
            for kind, replace in _MODELS.items():
                if node.is_kind(kind):
                    notes.append(f'{node.path} ({type_name(node.entry)}): '
                                 f'{replace(node.entry, folder)}')
                    break
            else:
                if node.is_kind(BoxScorer) and node.entry.get('calibration'):
                    notes.append(f'{node.path}.calibration: none, in place of '
                                 f'{node.entry["calibration"]}, which belongs to other weights')
                    node.entry['calibration'] = None
                elif node.path == 'model' and node.entry.get('backbone'):
                    notes.append(f'model ({type_name(node.entry)}): {_shrink_detector(node.entry)}')
                elif (node.registry in (MODELS, REWARDS)
                      and node.entry.keys() & set(FILE_ARGUMENTS)):
                    notes.append(f'{node.path} ({type_name(node.entry)}): {_KEPT}')
    if config.get('load_from'):
        notes.append(f'load_from: nothing, in place of {config.load_from}')
        config.load_from = None
    return notes


def replace_data(config: Config, folder: Path) -> Notes:
    """Point every data set of a config to synthetic samples, and metrics to their annotations.

    Arguments and return value are as in :func:`replace_models`.
    """
    notes, moved = [], {}
    for name in LOADERS:
        for number, dataset in enumerate(open_wrappers(
                (config.get(name) or {}).get('dataset') or [])):
            before, annotations, root = dict(dataset), _annotations(dataset), _root(dataset)
            with DefaultScope.overwrite_default_scope(
                    dataset.get('_scope_', scope_of(config))):
                changes = write_synthetic_data(dataset, _empty(folder / f'{name}_{number}'))
            where = f'{name}.dataset' + f' {number}' * bool(number)
            if changes is None:
                notes.append(f'{where} ({type_name(before)}): kept as it is; --smoke cannot write '
                             f'synthetic samples in its format')
                continue
            dataset.update(changes)
            if dataset.pop('difficulty', None):
                notes.append(f'{where}: without `difficulty`, which knows other questions')
            moved |= {annotations: _annotations(dataset)}
            notes.append(f'{where} ({type_name(before)}): synthetic samples in '
                         f'{_root(dataset)} in place of {root}')
        sampler = (config.get(name) or {}).get('sampler')
        if sampler and is_kind(sampler, VarianceSampler, DATA_SAMPLERS):
            config[name]['sampler'] = dict(type='InfiniteSampler', shuffle=True)
            notes.append(f'{name}.sampler: InfiniteSampler in place of VarianceSampler')
    for node in find_nodes({key: config.get(key) for key in ('val_evaluator', 'test_evaluator')}):
        path = node.entry.get('ann_file')
        if path and osp.normpath(path) in moved:
            node.entry['ann_file'] = moved[osp.normpath(path)]
            notes.append(f'{node.path}.ann_file: the file of the synthetic samples')
    return notes


def _root(dataset: dict) -> str:
    dataset = dataset.get('source', dataset)  # the source of a QuestionDataset
    return dataset.get('data_root') or dataset.get('ann_file')


def _annotations(dataset: dict) -> str:
    dataset = dataset.get('source', dataset)
    return osp.normpath(osp.join(dataset.get('data_root') or '', dataset.get('ann_file') or ''))


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _policy(entry: dict, folder: Path) -> str:
    before = entry['pretrained']
    config, _ = read_policy_config(before)
    family, stored = config.model_type, getattr(config, 'quantization_config', None)
    if family not in MODEL_TYPES:  # registered by the user
        return _KEPT
    if stored:  # the replacement is quantized on loading
        check_trainable(before, entry.get('lora'))
        check_prequantized(before, entry.get('quantization'), entry.get('lora'))
        entry['quantization'] = {
            key: value for key, value in stored.items()
            if key.startswith(('load_in', 'bnb_4bit', 'llm_int8')) and 'skip' not in key}
    path = folder / family
    if not path.exists():
        make_policy_folder(path, family)
    # A small vocabulary has few whole words, so the same text takes more tokens.
    entry.update(pretrained=str(path), max_prompt_tokens=4096)
    notes = [f'a random {family} of 2 layers with 512 tokens, max_prompt_tokens=4096, in place of '
             f'{before}']
    for name, package in (('lora', 'peft'), ('quantization', 'bitsandbytes')):
        if entry.get(name) and importlib.util.find_spec(package) is None:
            entry[name] = None
            notes.append(f'without its `{name}`, since {package} is not installed')
    return '; '.join(notes)


def _sam(entry: dict, folder: Path) -> str:
    before, path = entry.get('model', 'vit_h'), folder / 'sam.pth'
    if not path.exists():
        with seeded():
            torch.save(build_sam_shapes().state_dict(), path)
    entry.update(model=SHAPES_SAM_NAME, checkpoint=str(path))
    return f'a random {SHAPES_SAM_NAME} in place of {before}'


def _sam_folder(entry: dict, folder: Path) -> str:
    kind = resolve(entry, MODELS).model_types[0]
    if kind not in SAM_FOLDERS:
        return _KEPT
    before, path = entry['pretrained'], folder / kind
    if not path.exists():
        SAM_FOLDERS[kind](path)
    entry['pretrained'] = str(path)
    note = f'a random model of a few thousand weights in place of {before}'
    if not is_kind(entry, ConceptDecoder, MODELS):
        return note
    entry.update(score_thr=0.0, min_iou=1e-6)
    return f'{note}; score_thr=0.0 and min_iou=1e-06, so that it finds instances'


def _clip(entry: dict, folder: Path) -> str:
    before = entry['model_name']
    # One folder for each, so that the CLIPs of an ensemble stay separate models.
    path = folder / f'clip_{content_key(np.array([before, str(entry.get("pretrained"))])).hex()}'
    if not path.exists():
        shutil.copytree(WEIGHTS_DIR / 'clip', path)
        with seeded():
            state = load_file(path / 'open_clip_model.safetensors')
            save_file({name: torch.randn(value.shape).mul(0.1).to(value.dtype)
                       for name, value in state.items()}, path / 'open_clip_model.safetensors')
    for name in ('context_length', 'quick_gelu'):  # set by the weights
        entry.pop(name, None)
    entry.update(model_name=f'local-dir:{path}', pretrained=None)
    return f'a random CLIP of 0.2 million weights in place of {before}'


def _detector_decoder(entry: dict, folder: Path) -> str:
    before = entry['config']
    if isinstance(before, str):
        config = get_config(before) if '::' in before else open_config(before)
    else:
        config = Config(dict(before))
    config.merge_from_dict(entry.get('cfg_options') or {})
    note = _shrink_detector(config.model)
    path = folder / f'{type_name(config.model)}.pth'
    if not path.exists():
        with seeded(), DefaultScope.overwrite_default_scope(
                config.get('default_scope', 'mmdet')):
            torch.save(MODELS.build(config.model).state_dict(), path)
    for step in config.test_dataloader.dataset.pipeline:
        if is_kind(step, Resize, TRANSFORMS, 'mmdet'):
            step.scale = (128, 128)
    entry.update(config=dict(model=config.model.to_dict(), default_scope='mmdet',
                             test_dataloader=config.test_dataloader.to_dict()),
                 cfg_options=None, checkpoint=str(path), score_thr=0.0)
    return f'{note}, on images of 128 pixels, in place of {before}'


def _shrink_detector(model: dict) -> str:
    """Shrink the config of a detector, and return a note about it."""
    options, parts = shrinking_options(model), find_pretrained(model)
    small = Config(dict(model=dict(model)))
    small.merge_from_dict({f'model.{key}': value for key, value in
                           {**parts, **(options or {})}.items()})
    model.update(small.model)
    if options is None:
        return (f'random weights at full size; --smoke cannot shrink '
                f'{type_name(model)} with this backbone')
    return 'a random model of a few thousand weights'


# Class of a model (or its base class) -> function that replaces it and returns a note.
_MODELS: dict[type[nn.Module], Callable[[dict, Path], str]] = {
    VLMReasoningHead: _policy,
    SAMDecoder: _sam,
    HFSAMDecoder: _sam_folder,
    DetectorDecoder: _detector_decoder,
    CLIPDiscriminator: _clip,
}
