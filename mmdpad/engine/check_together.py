# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks the parts of a config that are each valid but do not work together."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.hooks import CheckpointHook
from mmengine.runner import FlexibleRunner, Runner

from mmdpad.datasets.samplers import SelectiveSampler
from mmdpad.evaluation import MeanDatasetsEvaluator
from mmdpad.evaluation.mean_datasets_evaluator import MEAN
from mmdpad.evaluation.metrics.result_file import ResultFileMetric
from mmdpad.models import ConceptAgent, ConceptDecoder, ReasoningSegmentor, VLMReasoningHead
from mmdpad.models.heads.attention_support import SHARED_PREFIX, attention_names
from mmdpad.models.heads.quantization import NOT_SHARDED
from mmdpad.models.rollouts import SharedPrefixRollout
from mmdpad.models.segmentors.concept_agent import describe_unsuitable
from mmdpad.models.segmentors.mask_decoding import find_unsuited
from mmdpad.models.weights import first_line
from mmdpad.registry import EVALUATOR, HOOKS, PARAM_SCHEDULERS, is_kind, type_name
from mmdpad.rewards import ListedReward, list_rewards
from mmdpad.tasks import find_tasks
from mmdpad.utils import renamed
from mmdpad.utils.argument_types import find_wrong_types

from .check_effect import find_epochs, find_unreached_norms, inherited_arguments
from .config_nodes import Node

# Entries that mmengine's runners and the command line read.
ENTRIES = {name for runner in (Runner, FlexibleRunner)
            for name in inspect.signature(runner).parameters} - {'cfg'} | {
    'activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval',
    'find_unused_parameters', 'model_wrapper_cfg', 'strategy', 'sync_bn', 'work_dir'}
_CLOSE = 0.85
_COMPILE_ERRORS = (TypeError, ValueError, RuntimeError, AssertionError)


def find_misspelled_entries(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the top-level entries that mmengine would ignore but that look like one it reads.

    Other entries are variables of the config's author, as are those whose value is used elsewhere.
    """
    for name, value in config.items():
        close = difflib.get_close_matches(str(name), ENTRIES, n=1, cutoff=_CLOSE)
        if (name in ENTRIES or not close or close[0] in config and config[close[0]] == value
                or str(name).startswith(f'{close[0]}_')):
            continue
        fits = not [*find_wrong_types(Runner, {close[0]: value}, '')]
        rest = [other for key, other in config.items() if key != name]
        if fits and not any(_holds(other, value) for other in rest):
            yield (f'`{name}` is never read, and its value is not used elsewhere; did you mean '
                   f'`{close[0]}`? (A variable of your own needs another name)')


def _holds(place: Any, value: Any) -> bool:
    """Whether a non-empty dict, list or text occurs anywhere in another value."""
    if not isinstance(value, (dict, list, tuple, str)) or not value:
        return False
    if place == value or isinstance(place, str) and isinstance(value, str) and value in place:
        return True
    inner = [item for key, item in place.items() if key != '_scope_'] if isinstance(
        place, Mapping) else (place if isinstance(place, (list, tuple)) else ())
    return any(_holds(item, value) for item in inner)


def find_wrong_compile(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the problems with ``compile`` that torch would otherwise find only in training."""
    given = config.get('compile')
    if given is None or isinstance(given, bool):
        return
    if not isinstance(given, Mapping):
        yield (f'`compile` should be a bool or a dict of arguments of torch.compile, but got '
               f'{given!r}; correct it')
        return
    options = {key: value for key, value in given.items() if key != 'target'}
    try:
        torch.compile(_nothing, **options)
    except _COMPILE_ERRORS as error:
        yield f'`compile`: {first_line(error)}; correct it'


def _nothing() -> None:
    """A function to compile."""


def find_clashes(config: Mapping[str, Any], nodes: list[Node], training: bool) -> Iterator[str]:
    """Yield the conflicts between model, loop, hooks and evaluators of a config.

    Args:
        config: The complete config.
        nodes: The nodes that the run reads.
        training: Whether the run is for training.
    """
    from .runner import GRPOTrainLoop  # here, since loops import this module
    kinds = {node.path: node.kind for node in nodes if inspect.isclass(node.kind)}
    model, loop = kinds.get('model'), kinds.get('train_cfg')
    answers = model is not None and issubclass(model, ReasoningSegmentor)
    if training:
        of_ours = loop is not None and issubclass(loop, GRPOTrainLoop)
        if loop is not None and of_ours and model is not None and not hasattr(model, 'rollout'):
            yield (f'`train_cfg.type` should not be {loop.__name__} for a model that samples no '
                   f'responses, but `model.type` is {model.__name__}; use ReasoningSegmentor, or '
                   f"mmengine's EpochBasedTrainLoop or IterBasedTrainLoop")
        else:
            yield from find_epochs(config, nodes)
        if not of_ours:
            if issubclass(kinds.get('train_dataloader.sampler', object), SelectiveSampler):
                yield (f'`train_dataloader.sampler` should not be a SelectiveSampler, which '
                       f'GRPOTrainLoop tells about groups of responses, but `train_cfg.type` is '
                       f'{_loop_name(loop)}; use InfiniteSampler')
            yield from (_no_loop(one, loop) for one in list_rewards(config) if one.is_hook)
        elif answers and config['model'].get('decoder') is None:
            yield from (f'`{one.path}`: {_name(one)} decodes masks with `model.decoder`, '
                        f'which is None; configure one' for one in list_rewards(config)
                        if one.needs('decoder'))
        if issubclass(kinds.get('model.policy', object), VLMReasoningHead):
            yield from find_unreached_norms(config)
        yield from _check_metrics(config, nodes)
    policy = next((node.entry for node in nodes if node.path == 'model.policy'), {})
    split = 'val' if training else 'test'
    attention = policy.get('attn_implementation', SHARED_PREFIX)
    samples = answers and (config.get(f'{split}_cfg') or training and of_ours)
    other = attention != SHARED_PREFIX and attention in attention_names()
    if samples and other and issubclass(
            kinds.get('model.rollout_engine', SharedPrefixRollout), SharedPrefixRollout):
        yield (f'`model.rollout_engine` should not be SharedPrefixRollout with '
               f'`model.policy.attn_implementation={attention!r}`; set '
               f"`model.rollout_engine=dict(type='HFRollout')`")
    if answers:
        yield from find_unsuited(kinds.get('model.decoder'), find_tasks(config['model']))
        if config['model'].get('conversation') is None:
            yield from (f'`{node.path}`: {node.kind.__name__} scores conversations, but '
                        f'`model.conversation` is None; set it, or leave the term out'
                        for node in nodes if getattr(node.kind, 'needs_conversation', False))
    decoder = kinds.get('model.decoder', ConceptDecoder)
    if model and issubclass(model, ConceptAgent) and not issubclass(decoder, ConceptDecoder):
        yield f'`model.decoder`: {describe_unsuitable(decoder)}'
    if config.get('strategy') and (policy.get('quantization') or {}).get('load_in_8bit'):
        yield NOT_SHARDED
    if (answers and config['model'].get('decoder') is None and config.get(f'{split}_cfg')
            and any(task.decodes_masks for task in find_tasks(config['model']).values())):
        yield (f'`model.decoder` should be configured where `{split}_cfg` asks for masks, but it '
               f'is None; set it, or set `{split}_dataloader`, `{split}_cfg` and '
               f'`{split}_evaluator` to None')


def _name(reward: ListedReward) -> str:
    return type_name(reward.entry).rpartition('.')[2]


def _loop_name(loop: Any) -> str:
    return getattr(loop, '__name__', "mmengine's EpochBasedTrainLoop")


def _no_loop(reward: ListedReward, loop: Any) -> str:
    return (f'`{reward.path}`: {_name(reward)} adds a reward term to GRPOTrainLoop, but '
            f'`train_cfg.type` is {_loop_name(loop)}, which has no rewards; remove the hook, or '
            f'use that loop')


def _check_metrics(config: Mapping[str, Any], nodes: list[Node]) -> Iterator[str]:
    """Check ``save_best`` and ``monitor``: a metric that the evaluator does not compute would end
    the run at its first validation, or never have an effect."""
    metrics = [node for node in nodes if node.path.startswith('val_evaluator')
               and hasattr(node.kind, 'default_prefix')]
    if not config.get('val_cfg') or not metrics or not all(map(_prefix, metrics)):
        return
    prefixes = _prefixes(config['val_evaluator'], metrics)
    for path, name, rule in _named_metrics(nodes):
        prefix, _, own = name.rpartition('/')
        if prefix not in prefixes:
            known = ', '.join(f"'{one}/...'" for one in sorted(prefixes))
            yield (f'`{path}` should be a metric of `val_evaluator` ({known}), but got {name!r}; '
                   f'correct it')
        elif issubclass(prefixes[prefix], ResultFileMetric) and not prefixes[prefix].kind.has(own):
            close = difflib.get_close_matches(own, prefixes[prefix].kind.columns, n=1)
            advice = renamed.advice('metric', name) or (
                f"did you mean '{prefix}/{close[0]}'?" if close else 'correct it')
            yield (f'`{path}` should be a metric of {prefixes[prefix].__name__}, but got {name!r}; '
                   f'{advice}')
        elif (issubclass(prefixes[prefix], ResultFileMetric) and rule == 'greater'
              and prefixes[prefix].kind.less_is_better(own)):
            yield (f"`rule` beside `{path}` should be 'less' for {name!r}, of which less is "
                   f"better, but got 'greater'; set it")


def _prefixes(evaluator: Any, metrics: Sequence[Node]) -> dict[str, Any]:
    """Prefix of the names that an evaluator gives -> class of the metric."""
    parts = evaluator.get('dataset_prefixes') if isinstance(evaluator, Mapping) else None
    if not parts:
        return {_prefix(node): node.kind for node in metrics}
    means = is_kind(evaluator, MeanDatasetsEvaluator, EVALUATOR)
    prefixes = {}
    for node in metrics:  # at val_evaluator.metrics.PART or val_evaluator.metrics.PART.NUMBER
        own, (place, ) = _prefix(node), node.path.split('.')[2:3] or ['0']
        if int(place) >= len(parts):  # over all data sets
            prefixes[own] = node.kind
            continue
        prefixes[f'{parts[int(place)]}/{own}'] = node.kind
        if means:
            prefixes[f'{MEAN}/{own}'] = node.kind
    return prefixes


def _named_metrics(nodes: list[Node]) -> Iterator[tuple[str, str, Any]]:
    """Path, name and ``rule`` of each metric of a validation that a hook or a scheduler reads."""
    for node in nodes:
        best = node.entry.get('save_best') if node.is_kind(CheckpointHook) else None
        for name in [best] if isinstance(best, str) else best or ():
            if name != 'auto':
                yield f'{node.path}.save_best', name, node.entry.get('rule')
        if node.registry in (HOOKS, PARAM_SCHEDULERS) and inspect.isclass(node.kind):
            defaults = inherited_arguments(node.kind)
            name = node.entry.get('monitor', defaults['monitor']) if 'monitor' in defaults else None
            if isinstance(name, str):
                yield f'{node.path}.monitor', name, node.entry.get('rule')


def _prefix(node: Node) -> str:
    """The prefix of a metric's names; empty if its names have various prefixes."""
    return node.entry.get('prefix') or node.kind.default_prefix or ''
