# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Check everything about a config that needs no weights, and report it in one list."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.registry import DefaultScope

import mmdpad
from mmdpad.datasets import DatasetError
from mmdpad.datasets.checking import as_built, check_items, find_datasets
from mmdpad.datasets.samplers import SelectiveSampler
from mmdpad.datasets.samplers.selective_sampler import find_short_delay
from mmdpad.datasets.table_dataset import TableDataset
from mmdpad.datasets.wrappers import base_datasets
from mmdpad.engine.check_config import Findings, check_config
from mmdpad.engine.config_nodes import Node, find_nodes
from mmdpad.engine.hooks import SafeCheckpointHook
from mmdpad.engine.hooks.sync_reference_hook import SyncReferenceHook, check_reference
from mmdpad.engine.refusals import REFUSALS, describe_refusal
from mmdpad.engine.runner import GRPOTrainLoop
from mmdpad.engine.runner.encoding import check_tasks, find_long_prompts, tasks_asked
from mmdpad.engine.runner.group_comparison import check_comparison
from mmdpad.engine.runner.settings import find_wrong_settings
from mmdpad.models import ReasoningSegmentor, VLMReasoningHead
from mmdpad.models.cost.memory import trained_weights
from mmdpad.models.heads.families import find_family
from mmdpad.models.heads.policy_source import check_policy
from mmdpad.models.heads.processor_files import describe_files
from mmdpad.models.heads.prompt_encoder import PromptEncoder
from mmdpad.models.heads.quantization import check_trainable, describe_quantization
from mmdpad.models.heads.recomputation import GB
from mmdpad.models.rollouts import (
    HFRollout,
    SharedPrefixRollout,
    VLLMRollout,
    VLLMServerRollout,
)
from mmdpad.models.segmentors.settings import (
    TRAIN_CFG,
    build_loss,
    check_loss,
    conversation_limits,
    training_sampling,
)
from mmdpad.models.sources import find_folder
from mmdpad.registry import (
    DATASETS,
    WEIGHT_INITIALIZERS,
    is_kind,
    scope_of,
    type_name,
)
from mmdpad.rewards import list_rewards
from mmdpad.rewards.composition import (
    check_name,
    check_weight,
    describe_unrewarded,
    find_unrewarded,
)
from mmdpad.rewards.composition import check_tasks as check_term_tasks
from mmdpad.tasks import WrongTask, find_tasks
from mmdpad.utils import LOADERS
from mmdpad.utils.argument_types import read_defaults
from mmdpad.utils.files import nearest_folder
from mmdpad.utils.vllm_versions import describe_conflict, find_conflicts, find_vllm

from .check_detector import build_model, check_sample, find_wrong_filters
from .check_weights import check_weights, handover_problems, server_problems
from .cost import configured_memory, read_config_cost, with_response_tokens

_TYPICAL_GPU = 80 * GB
_RESPONSES = 1000


def dry_run(config: Config, training: bool = True) -> tuple[list[str], list[str]]:
    """Check a config. No weights are loaded, and nothing is started or written.

    Args:
        config: The config of a run.
        training: Whether it is for ``tools/train.py``. ``tools/test.py`` needs less.

    Returns:
        The problems, each with its hint, and the notes. Each is one line, except that the problems
        of a data set may span several.
    """
    notes: list[str] = []
    found = check_config(config, training)
    problems = list(found.problems)
    faulty = set(found.misnamed)
    with DefaultScope.overwrite_default_scope(scope_of(config)):
        # A training of mmdet's models begins with `init_cfg`; a test does without.
        starts = training and not _is(config.get('model'), ReasoningSegmentor, found.nodes)
        for node in found.nodes:
            if node.registry is WEIGHT_INITIALIZERS and not starts:
                continue
            if id(node.entry) not in found.unreadable and (wrong := list(check_weights(node))):
                problems += wrong
                faulty.add(id(node.entry))
            problems += _check_packages(node)
        if not found.readable:  # the checks below read the arguments
            return list(dict.fromkeys(problems)), notes
        policy = (config.get('model') or {}).get('policy')
        encoder = None
        if policy and id(policy) not in faulty:
            encoder, wrong = _read_processor(config.model)
            problems += wrong
            if encoder is not None:
                notes += [f'model.policy: {encoder.responses.describe()}', 'model.policy: '
                          f'{describe_files(encoder.source, encoder.processor).text}']
                notes += _describe_quantization(policy)
                problems += _check_handover(config.model, found.nodes, faulty)
                problems += _check_trainable(policy) if training else []
        model = None
        if not _is(config.model, ReasoningSegmentor, found.nodes):
            model, wrong = build_model(config.model)
            problems += wrong
        problems += find_wrong_filters(found.nodes)
        problems += _check_data(config, training, found, encoder, model, notes)
        if training:
            problems += _check_loop(config, found.nodes)
            problems += _check_checkpoints(config, found.nodes)
            problems += _check_cost(config, found.nodes, notes)
    return list(dict.fromkeys(problems)), notes


def _describe_quantization(policy: Mapping[str, Any]) -> list[str]:
    if policy.get('quantization') is None:
        return []
    source, settings = check_policy(policy)
    return ['model.policy: ' + describe_quantization(
        find_family(source).model_class, source, settings, policy.get('dtype', 'float32'))]


def format_findings(problems: list[str], notes: list[str]) -> str:
    """Format the findings of :func:`dry_run` as text."""
    lines = [f'  {note}' for note in notes]
    if not problems:
        return '\n'.join(['dry run: no problem found; no weights were loaded', *lines])
    return '\n'.join([*lines, f'dry run: {len(problems)} problem(s):',
                      *('- ' + problem.replace('\n', '\n  ') for problem in problems)])


def _check_packages(node: Node) -> Iterator[str]:
    """Find optional packages that a part needs but that are not installed."""
    # If the package is missing, the class may be, too.
    name = getattr(node.kind, '__name__', type_name(node.entry).rpartition('.')[2])
    needed = {
        'pyarrow': node.is_kind(TableDataset),
        'peft': bool(node.entry.get('lora')),
        'bitsandbytes': name.endswith('8bit') or bool(
            node.entry.get('quantization') or node.entry.get('load_in_4bit')),
        'vllm': node.is_kind(VLLMRollout),
        'tensorboard': name.startswith('Tensorboard')}
    for package, is_needed in needed.items():
        if is_needed and importlib.util.find_spec(package) is None:
            yield f'`{node.path}` ({name}) needs {package}; install it: `pip install {package}`'
    if needed['vllm'] and (vllm := find_vllm()) is not None:
        for conflict in find_conflicts(vllm, mmdpad.installed_version):
            yield f'`{node.path}`: {describe_conflict(vllm, *conflict)}'


def _check_data(config: Config, training: bool, found: Findings, encoder: PromptEncoder | None,
                model: Any, notes: list[str]) -> Iterator[str]:
    """Build every data set, which checks its files, load one item, and check that a detector can
    read it and that the prompts fit. Data sets with a wrong type or argument are skipped."""
    wanted = LOADERS if training else ('test_dataloader', )
    policy = (config.get('model') or {}).get('policy')
    kind = next((node.kind for node in found.nodes if node.path == 'model'), None)
    test_templates = getattr(kind, 'test_templates', {})
    for where, entry in find_datasets({name: config.get(name) for name in wanted}):
        if found.misnamed.intersection(map(id, (entry, *(entry.get('pipeline') or ())))):
            continue
        try:
            dataset = DATASETS.build(as_built(where, entry))
            name = type_name(entry)
            report = check_items(dataset, name, 1, asks=bool(policy))
            notes.append(f'{where} ({name}): {report}')
            if model is not None and len(dataset):
                yield from check_sample(model, dataset[0], where, found.nodes)
            if encoder is not None:
                check_tasks(find_tasks(config.model), dataset)
                if where.startswith('train_dataloader'):
                    yield from _check_rewarded(config, dataset, found.nodes)
                templates = {} if where.startswith('train') else test_templates
                yield from (f'`{where}`: {problem}'
                            for problem in find_long_prompts(encoder, dataset, templates))
                yield from (f'`{where}`: {problem}'
                            for problem in _check_responses(encoder, dataset))
        except (DatasetError, WrongTask) as error:
            yield f'`{where}`: {error}'
        except ImportError as error:
            if not is_kind(entry, TableDataset, DATASETS):  # already reported
                yield f'`{where}` ({type_name(entry)}): {error}'
        except (*REFUSALS, OSError) as error:
            yield (f'`{where}` ({type_name(entry)}) cannot be read: '
                   f'{type(error).__name__}: {error}; correct its paths or arguments')
    for node in find_nodes({f'{name}_evaluator': config.get(f'{name}_evaluator')
                            for name in (('val', 'test') if training else ('test', ))}):
        path = node.entry.get('ann_file')
        if path and not isinstance(path, (str, os.PathLike)):
            yield f'`{node.path}.ann_file` should be str, but got {path!r}; correct it'
        elif path and not os.path.isfile(path):
            yield f'`{node.path}.ann_file`: {path} does not exist; download it or correct the path'


def _check_rewarded(config: Config, dataset: Any, nodes: list[Node]) -> Iterator[str]:
    """Find tasks of the training data that no reward term scores."""
    if not _is(config.get('train_cfg'), GRPOTrainLoop, nodes):
        return
    asked = [name or next(iter(find_tasks(config.model))) for name in tasks_asked(dataset)]
    rewards = list_rewards(config)
    if rewards and (without := find_unrewarded([one.tasks for one in rewards], asked)):
        yield describe_unrewarded(without)


def _read_processor(model: Any) -> tuple[PromptEncoder | None, list[str]]:
    """Build the prompt encoder of a model whose policy's folder exists; also return its
    problems."""
    policy = model['policy']
    folder = find_folder(policy['pretrained']) if policy.get('pretrained') else None
    templates = {name: task.template for name, task in find_tasks(model).items()}
    if folder is None or not (folder / 'config.json').is_file() or not templates:
        return None, []  # not one of this plugin's policies, or wrong tasks
    try:
        coordinates = policy.get('coordinates') or find_family(str(folder)).coordinates
        return PromptEncoder(str(folder), templates,
                             policy.get('max_prompt_tokens', 1300), coordinates), []
    except (OSError, ValueError) as error:
        return None, [f'`model.policy`: {error}']


def _check_trainable(policy: Any) -> Iterator[str]:
    try:
        check_trainable(str(find_folder(policy['pretrained'])), policy.get('lora'))
    except ValueError as error:
        yield f'`model.policy`: {error}'


def _check_handover(model: Any, nodes: list[Node], faulty: Collection[int]) -> Iterator[str]:
    """Check that an engine with a copy of the policy's weights can take over new ones; servers are
    asked."""
    policy = model['policy']
    if _is(policy, VLMReasoningHead, nodes):
        for node in nodes:
            if getattr(node.kind, 'copies_weights', False):
                yield from handover_problems(policy, node.path)
            if node.is_kind(VLLMServerRollout) and id(node.entry) not in faulty:
                yield from server_problems(node, policy, *conversation_limits(model))


def _check_responses(encoder: PromptEncoder, dataset: Any) -> Iterator[str]:
    """Report the first problem with the SFT targets: the one that the pipeline composes for the
    first item, then up to 1,000 that the data contain."""
    sample = dataset[0].get('data_samples') if len(dataset) else None
    if sample is None or 'response' not in sample:
        return
    targets = (part.get_data_info(i).get('response') for part in base_datasets(dataset)
               for i in range(min(len(part), _RESPONSES)))
    for response in (sample.response, *islice(filter(None, targets), _RESPONSES)):
        try:
            encoder.responses.encode(response)
        except ValueError as error:
            yield str(error)
            return


def _is(config: Any, kind: type, nodes: list[Node]) -> bool:
    return any(node.entry is config and node.is_kind(kind) for node in nodes)


def _check_loop(config: Config, nodes: list[Node]) -> Iterator[str]:
    """Find settings that the loop, the model or the rewards would reject when they are built."""
    for name in ('train_dataloader', 'optim_wrapper', 'train_cfg'):
        if not config.get(name):
            yield f'`{name}` should be set for training, but is not; add it'
    train_cfg = config.get('train_cfg') or {}
    sampling, converses = TRAIN_CFG, False
    if _is(config.get('model'), ReasoningSegmentor, nodes):
        sampling = training_sampling(config.model.get('train_cfg') or {})
        converses = config.model.get('conversation') is not None
    if not _is(train_cfg, GRPOTrainLoop, nodes) or not config.get('train_dataloader'):
        return
    loader = config.train_dataloader
    batch = loader.get('batch_size', 1)
    yield from find_wrong_settings(
        batch_size=batch, prompts_per_update=train_cfg.get('prompts_per_update') or batch,
        accumulative_counts=(config.get('optim_wrapper') or {}).get('accumulative_counts', 1),
        tokens_per_micro_batch=train_cfg.get('tokens_per_micro_batch'),
        num_iterations=train_cfg.get('num_iterations', 1),
        max_refills=train_cfg.get('max_refills', 0),
        max_staleness=train_cfg.get('max_staleness', 0),
        max_skipped_steps=train_cfg.get('max_skipped_steps', 0),
        replay_size=train_cfg.get('replay_size', 0), is_sharded=bool(config.get('strategy')),
        group_size=sampling['group_size'], converses=converses)
    if _is(sampler := loader.get('sampler'), SelectiveSampler, nodes):
        yield from find_short_delay(
            (read_defaults(SelectiveSampler) | sampler)['delay'], batch * get_world_size(),
            loader.get('num_workers', 0), loader.get('prefetch_factor'),
            train_cfg.get('max_staleness', 0))
    yield from _check_loss(config, sampling, nodes)
    names: list[str] = []
    known = None
    if _is(config.get('model'), ReasoningSegmentor, nodes):
        known = find_tasks(config.model) or None
    for reward in list_rewards(config):
        try:
            check_name(reward.name, names)
            if not isinstance(reward.tasks, str):  # which has been found by type
                check_term_tasks(reward.name, reward.tasks, known)
            if (weight := reward.config.get('weight')) in (math.inf, -math.inf):
                check_weight(reward.name, weight)  # other wrong weights have been found by type
        except ValueError as error:
            yield f'`{reward.path}`: {error}'
        names.append(reward.name)
    if not names:
        yield ('`train_cfg.rewards` should have a reward term, unless a hook adds one, but '
               'there is none; add one')


def _check_loss(config: Config, sampling: dict[str, Any], nodes: list[Node]) -> Iterator[str]:
    """Find out that rollouts do not provide what the loss needs."""
    engine = config.model.get('rollout_engine') or {}
    kind = next((node.kind for node in nodes if node.entry is engine), SharedPrefixRollout)
    if kind is None:  # `check_config` describes it
        return
    try:
        loss = build_loss(config.model.get('loss') or dict(type='GRPOLoss'))
    except REFUSALS:  # `check_config` describes it
        return
    try:
        check_comparison(config.train_cfg.get('advantage', 'grpo'), loss)
    except ValueError as error:
        yield describe_refusal('train_cfg', config.train_cfg, error)
    for node in nodes:
        if node.is_kind(SyncReferenceHook):
            try:
                check_reference(loss.needs_reference, bool(config.model.policy.get('lora')))
            except ValueError as error:
                yield f'`{node.path}`: {error}'
    try:
        if config.train_cfg.get('max_staleness'):
            loss.correct_staleness()
        # An engine without this argument may set it when it is built, but ours does not.
        records = read_defaults(kind).get('records_log_probs', kind is not HFRollout)
        check_loss(loss, sampling, kind.__name__, engine.get('records_log_probs', records))
    except ValueError as error:
        yield str(error)


def _check_checkpoints(config: Config, nodes: list[Node]) -> Iterator[str]:
    """Find out that the run's own checkpoints could not be loaded."""
    hooks = config.get('default_hooks') or {}
    saves = hooks.get('checkpoint', True) is not None  # MMEngine adds the hook if it is missing
    if saves and _is(config.get('model'), ReasoningSegmentor, nodes) and not any(
            node.is_kind(SafeCheckpointHook) for node in nodes):
        yield ("`default_hooks` should have a SafeCheckpointHook, without which this run's "
               'checkpoints can be neither resumed nor tested, but has none; add '
               "`safe_checkpoint=dict(type='SafeCheckpointHook')`")


def _check_cost(config: Config, nodes: list[Node], notes: list[str]) -> Iterator[str]:
    """Compare the estimated memory with the available GPUs, and a checkpoint with the disk."""
    policy = (config.get('model') or {}).get('policy')
    if not _is(policy, VLMReasoningHead, nodes) or not find_tasks(config.model):
        return
    gpus = max(torch.cuda.device_count(), 1)
    have = min((torch.cuda.get_device_properties(i).total_memory
                for i in range(torch.cuda.device_count())), default=None)
    try:
        cost = read_config_cost(config)
        cost = with_response_tokens(cost, config, cost.max_tokens)
        within, memory = configured_memory(cost, gpus, None if have is None else have / GB)
    except (OSError, ImportError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        notes.append(f'memory: not estimated ({error})')
        return
    notes += [note for note in within.notes if note.startswith('memory_budget')]
    need = memory['sharded_peak' if cost.sharded and gpus > 1 else 'peak']
    what = 'conversations' if cost.work.turns > 1 else 'responses'
    notes.append(f'memory: about {need / GB:.1f} GB per GPU, with all {what} at the limit of '
                 f'{cost.work.length} tokens (`mmdpad run estimate_cost` has the details)')
    if have is not None:
        notes.append(f'GPUs: {gpus} with {have / GB:.0f} GB each')
        if need > have:
            yield (f'A step should fit into the memory of a GPU ({have / GB:.0f} GB), but takes '
                   f'about {need / GB:.0f} GB; train an adapter (`model.policy.lora`), lower '
                   f'`train_cfg.tokens_per_micro_batch`, or shard it over more GPUs')
    elif need > _TYPICAL_GPU:
        number = next((n for n in (2, 4, 8, 16, 32) if configured_memory(cost, n)[1][
            'sharded_peak'] <= _TYPICAL_GPU), None)
        fits = f'it needs {number}' if number else 'it does not even fit 32'
        notes.append(f'no GPU found; sharded (FSDP), {fits} GPUs of 80 GB')
    else:
        notes.append('no GPU found; it fits one of 80 GB')
    checkpoint = trained_weights(cost.shape, cost.setup) * (4 + 4 * cost.setup.state)
    free = shutil.disk_usage(nearest_folder(config.get('work_dir') or '.')).free
    notes.append(f'disk: about {checkpoint / GB:.2f} GB per checkpoint, {free / GB:.0f} GB free')
    if free < checkpoint:
        yield (f'`work_dir` ({config.get("work_dir")}) should have room for a checkpoint, about '
               f'{checkpoint / GB:.0f} GB, but has {free / GB:.0f} GB; set another --work-dir')
