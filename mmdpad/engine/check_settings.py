# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks the arguments of our own classes that configure something else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from mmengine.dataset import BaseDataset

from mmdpad.geometry.mask_cleaning import check_areas
from mmdpad.models import ConceptAgent, ReasoningSegmentor, VLMReasoningHead
from mmdpad.models.decoders import ConceptDecoder, DetectorDecoder, HFSAMDecoder, SAMDecoder
from mmdpad.models.decoders.concept_decoder import check_concept
from mmdpad.models.decoders.hf_sam_decoder import check_dtype
from mmdpad.models.decoders.prompted_decoder import PromptedDecoder
from mmdpad.models.decoders.sam_decoder import check_name
from mmdpad.models.discriminators import CLIPDiscriminator
from mmdpad.models.discriminators.open_clip_loading import check_precision
from mmdpad.models.heads.attention_support import check_attention
from mmdpad.models.heads.lora import lora_config
from mmdpad.models.heads.prompt_encoder import check_max_prompt_tokens
from mmdpad.models.heads.quantization import quantization_config
from mmdpad.models.heads.recomputation import check_memory_budget
from mmdpad.models.precision import find_wrong_dtype
from mmdpad.models.rollouts import RolloutEngine, VLLMServerRollout
from mmdpad.models.rollouts.weight_transfer import WeightTransfer
from mmdpad.models.scorers.box_scorer import BoxScorer, not_a_scorer
from mmdpad.models.segmentors.box_scores import check_labels
from mmdpad.models.segmentors.concept_agent import check_limits
from mmdpad.models.segmentors.settings import (
    CHOICE,
    TRAIN_CFG,
    conversation_settings,
    evaluation_sampling,
    not_a_policy_loss,
    training_sampling,
)
from mmdpad.models.selectors.building import build_selectors
from mmdpad.registry import MODELS, ROLLOUTS, resolve
from mmdpad.rewards import DiscriminativeOptions, DiscriminativeReward
from mmdpad.rl import PolicyLoss
from mmdpad.tasks import check_task_arguments, find_tasks, task_arguments
from mmdpad.utils.argument_types import find_wrong_types, read_defaults

from .check_shape import check_place
from .refusals import REFUSALS, describe_refusal, unknown_keys
from .signatures import TAKEN_OUT


def find_wrong_settings(kind: type, entry: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield the problems with the arguments of a class that configure something else; their types
    are right."""
    for part, check in _SETTINGS.items():
        if issubclass(kind, part):
            yield from check(entry, path)


def _check_policy(entry: Mapping[str, Any], path: str) -> Iterator[str]:
    if 'dtype' in entry and (problem := find_wrong_dtype(f'{path}.dtype', entry['dtype'])):
        yield problem
    yield from _refusal(lambda name: check_attention(name, entry.get('dtype', 'float32')),
                        'attn_implementation')(entry, path)
    yield from _refusal(check_memory_budget, 'memory_budget')(entry, path)
    yield from _refusal(check_max_prompt_tokens, 'max_prompt_tokens')(entry, path)
    lora, quantization = entry.get('lora'), entry.get('quantization')
    if lora is not None and find_spec('peft'):
        from peft import LoraConfig
        if wrong := list(find_wrong_types(LoraConfig, lora, f'{path}.lora')):
            yield from wrong
            return
    for name, given, read in (('lora', lora, lora_config),
                              ('quantization', quantization,
                               lambda given: quantization_config(given, lora))):
        if given is not None:
            try:
                read(given)
            except REFUSALS as error:
                own = f'`{name}' in str(error)
                yield describe_refusal(path if own else f'{path}.{name}', entry if own else given,
                                       error)
            except ImportError:
                pass  # a missing package is reported elsewhere


def _check_segmentor(entry: Mapping[str, Any], path: str) -> Iterator[str]:
    for name in ('policy', 'decoder', 'rollout_engine', 'loss', 'box_scorer'):
        if name in entry and not (name in ('decoder', 'box_scorer') and entry[name] is None):
            default = read_defaults(ReasoningSegmentor)[name]
            yield from check_place(entry[name], f'{path}.{name}', example=(
                default['type'] if isinstance(default, dict) else 'NAME'))
    tasks = entry.get('tasks')
    for name, task in tasks.items() if isinstance(tasks, Mapping) else ():
        yield from check_place(task, f'{path}.tasks.{name}', example='SegmentationTask')
    try:
        check_task_arguments(tasks, **task_arguments(entry))
    except REFUSALS as error:
        yield describe_refusal(path, entry, error)
    if entry.get('box_scorer') is not None and (tasks := find_tasks(entry)):
        try:
            check_labels(tasks)
        except REFUSALS as error:
            yield describe_refusal(path, entry, error)
    for name, base, describe in (('box_scorer', BoxScorer, not_a_scorer),
                                 ('loss', PolicyLoss, not_a_policy_loss)):
        part = entry.get(name)
        kind = resolve(part, MODELS) if isinstance(part, Mapping) else None
        if inspect.isclass(kind) and not issubclass(kind, base):
            yield describe(f'{path}.{name}', kind)
    train, test = entry.get('train_cfg') or {}, entry.get('test_cfg') or {}
    known = set(inspect.signature(RolloutEngine.__call__).parameters) - {
        'self', 'head', 'prompts', 'group_size', 'prompt_numbers'}
    yield from unknown_keys(test, {*known, *CHOICE}, f'{path}.test_cfg', 'sampling')
    yield from unknown_keys(train, TRAIN_CFG, f'{path}.train_cfg', 'sampling', 'sampling')
    train = {name: value for name, value in train.items() if name in TRAIN_CFG}
    for name, given, read in (('train_cfg', train, training_sampling),
                              ('test_cfg', test, evaluation_sampling)):
        wrong = list(find_wrong_types(RolloutEngine.__call__, given, f'{path}.{name}'))
        yield from wrong
        if not wrong:
            try:
                read(given)
                if given.get('select') is not None and (tasks := find_tasks(entry)):
                    build_selectors(given, tasks)
            except REFUSALS as error:
                yield describe_refusal(path, entry, error)
    yield from _refusal(lambda _: conversation_settings(entry), 'conversation')(entry, path)


def _check_engine(entry: Mapping[str, Any], path: str) -> Iterator[str]:
    kind = resolve(entry, ROLLOUTS)
    for name in sorted(entry.get('engine_options') or ()):
        if name in inspect.signature(kind).parameters:
            yield (f'`{path}.engine_options.{name}` should be an argument of `{kind.__name__}` '
                   f'itself; move it to `{path}.{name}`')
    if issubclass(kind, VLLMServerRollout) and (given := entry.get('transfer')):
        yield from unknown_keys(given, inspect.signature(WeightTransfer).parameters,
                                f'{path}.transfer', 'WeightTransfer')
        yield from find_wrong_types(WeightTransfer, given, f'{path}.transfer')


def _check_discriminative(entry: Mapping[str, Any], path: str) -> Iterator[str]:
    given = {name: value for name, value in entry.items()
             if name not in (*TAKEN_OUT, 'tasks', 'discriminator', 'device')}
    known = inspect.signature(DiscriminativeOptions).parameters
    wrong = [*unknown_keys(given, {*known, 'discriminator', 'device'}, path,
                           'DiscriminativeReward'),
             *find_wrong_types(DiscriminativeOptions, given, path)]
    yield from wrong
    if not wrong:
        try:
            DiscriminativeOptions(**given)
        except REFUSALS as error:
            yield describe_refusal(path, entry, error)


def _check_dataset(entry: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, folder in (entry.get('data_prefix') or {}).items():
        if not isinstance(folder, str | None):
            yield (f'`{path}.data_prefix.{name}` should be a folder, but got {folder!r}; '
                   'correct it')


def _check_detector(entry: Mapping[str, Any], path: str) -> Iterator[str]:
    config = entry.get('config')
    if isinstance(config, Mapping):
        for name in ('model', 'test_dataloader'):
            if not isinstance(config.get(name), Mapping):
                yield (f'`{path}.config.{name}` should be a dict, as in the config of a detector, '
                       f'but got {config.get(name)!r}; use such a config instead')


def _refusal(check: Callable[..., object], *names: str) -> Callable[..., Iterator[str]]:
    """Make a check of one argument, or of several by their names, from a function that raises."""
    def problems(entry: Mapping[str, Any], path: str) -> Iterator[str]:
        if given := {name: entry[name] for name in names if name in entry}:
            try:
                check(**given) if len(names) > 1 else check(*given.values())
            except REFUSALS as error:
                yield describe_refusal(path, entry, error)
            except ImportError:
                pass  # a missing package is reported elsewhere
    return problems


_SETTINGS: dict[type, Callable[[Mapping[str, Any], str], Iterator[str]]] = {
    BaseDataset: _check_dataset, VLMReasoningHead: _check_policy, RolloutEngine: _check_engine,
    ReasoningSegmentor: _check_segmentor, DiscriminativeReward: _check_discriminative,
    DetectorDecoder: _check_detector, SAMDecoder: _refusal(check_name, 'model'),
    PromptedDecoder: _refusal(check_areas, 'max_hole_area', 'max_sprinkle_area'),
    HFSAMDecoder: _refusal(check_dtype, 'dtype'),
    ConceptAgent: _refusal(check_limits, 'max_rounds', 'max_instances', 'test_cfg',
                           'conversation'),
    ConceptDecoder: _refusal(check_concept, 'text', 'score_thr', 'min_iou'),
    CLIPDiscriminator: _refusal(check_precision, 'precision')}
