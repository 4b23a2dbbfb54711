# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Read the cost of a training step from a config."""

from __future__ import annotations

import inspect
import math
import re
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmengine.optim import AmpOptimWrapper
from mmengine.registry import DefaultScope
from torch.distributed.fsdp import FullyShardedDataParallel

from mmdpad.datasets.transforms import ModelImageResize
from mmdpad.datasets.wrappers import open_wrappers
from mmdpad.engine.config_nodes import find_nodes
from mmdpad.engine.runner import GRPOTrainLoop
from mmdpad.engine.short_selectors import write_out_selectors
from mmdpad.models import (
    BoxDecoder,
    CLIPDiscriminator,
    ReasoningSegmentor,
    SAMDecoder,
    VLMReasoningHead,
)
from mmdpad.models.cost.budget import spend
from mmdpad.models.cost.memory import gradient_bytes, standing
from mmdpad.models.cost.shapes import PolicyShape, read_policy_config
from mmdpad.models.cost.workload import Setup, Workload, groups_in_pass
from mmdpad.models.heads import shared_prefix
from mmdpad.models.heads.recomputation import GB, SHARE, check_memory_budget, describe
from mmdpad.models.segmentors.settings import (
    build_loss,
    evaluation_sampling,
    training_sampling,
)
from mmdpad.models.weights import first_line
from mmdpad.registry import (
    LOOPS,
    MODEL_WRAPPERS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    ROLLOUTS,
    TRANSFORMS,
    is_kind,
    resolve,
    scope_of,
    type_name,
)
from mmdpad.rewards import list_rewards
from mmdpad.rewards.sharing import discriminator_key
from mmdpad.rl import PolicyLoss

from .frozen import FrozenCost, clip_cost, sam_cost, sam_encodings
from .lengths import converse, count_text, shows_masks, written_tokens

RESPONSE_TOKENS = 200
# Numbers of optimizer state per trained weight; those of 8-bit optimizers are a quarter of float32.
STATE = {'AdamW': 2.0, 'Adam': 2.0, 'AdamW8bit': 0.5, 'Adam8bit': 0.5, 'SGD': 0.0}

_DISCRIMINATOR = re.compile(r'\.discriminator(\.\d+)?$')


@dataclass(frozen=True)
class TrainingCost:
    """What the estimates need from a config.

    Attributes:
        shape: Sizes of the policy.
        work: Workload of a step in one process, with responses of the assumed length.
        setup: How a step is computed.
        frozen: Name -> cost of models that are not trained.
        max_tokens: Limit of a response's length.
        notes: Where the numbers come from, and what is assumed.
        memory_budget: That of the policy, in GB; 'auto' or None.
        sharded: Whether GPUs share the weights, each with a part of them.
    """

    shape: PolicyShape
    work: Workload
    setup: Setup
    frozen: dict[str, FrozenCost]
    max_tokens: int
    notes: list[str]
    memory_budget: float | str | None = None
    sharded: bool = False


def read_config_cost(config: Mapping[str, Any], response_tokens: int | None = None,
                     prompt_tokens: int | None = None) -> TrainingCost:
    """Read a config. Only config.json and the tokenizer are loaded, if they exist.

    Args:
        config: The config of a run of ``tools/train.py``.
        response_tokens: Mean length of a response; None assumes :data:`RESPONSE_TOKENS`.
        prompt_tokens: Length of a prompt, image included; None counts or assumes it.

    Raises:
        FileNotFoundError: The policy's shape is unknown, see :func:`read_policy_config`.
        ValueError: The config lacks a setting, or has an unknown value.
        ImportError: It has an adapter, and peft is not installed.
    """
    with DefaultScope.overwrite_default_scope(scope_of(config)):
        return _read(config, response_tokens, prompt_tokens)


def _read(config: Mapping[str, Any], response_tokens: int | None,
          prompt_tokens: int | None) -> TrainingCost:
    _check_entries(config)
    policy = config['model']['policy']
    model_config, source = read_policy_config(policy['pretrained'])
    shape = PolicyShape.of(model_config, policy.get('lora'))
    notes = [f'policy: {source}']
    quantization = policy.get('quantization') or {}
    if stored := getattr(model_config, 'quantization_config', None):
        quantization = stored if isinstance(stored, Mapping) else stored.to_dict()
        notes.append(f'weights: already quantized, by the `quantization_config` of that file; the '
                     f"language model's take {quantized_bytes(quantization):.2f} bytes each")
    image = shape.image(*_image_size(config))
    if prompt_tokens is None:
        text, how = count_text(config['model'], model_config.model_type)
        prompt_tokens = image.tokens + text
        notes.append(f'text of a prompt: {text} tokens {how}')
    sampling = training_sampling(config['model'].get('train_cfg') or {})
    loss = _build_loss(_argument(config['model'], 'loss', ReasoningSegmentor))
    if response_tokens is None:
        response_tokens = min(RESPONSE_TOKENS, sampling['max_new_tokens'])
        notes.append(f'responses: {response_tokens} tokens each (assumed; --response-tokens)')
    is_grpo = is_kind(config['train_cfg'], GRPOTrainLoop, LOOPS)
    work = Workload(config['train_dataloader'].get('batch_size', 1),
                    sampling['group_size'] if is_grpo else 1, prompt_tokens, response_tokens,
                    image, _argument(policy, 'attn_implementation') == shared_prefix.NAME)
    if is_grpo:
        work, told = converse(work, config['model'], shape, sampling['max_new_tokens'])
        notes += told
    setup = _setup(config, policy, work, loss, is_grpo, quantized_bytes(quantization))
    notes += [f'not counted: {name}' for name in _not_counted(config)]
    notes += _samples_of_validation(config, work)
    budget = _argument(policy, 'memory_budget')
    check_memory_budget(budget)
    sharded = config.get('strategy') is not None or is_kind(
        config.get('model_wrapper_cfg') or {}, FullyShardedDataParallel, MODEL_WRAPPERS)
    return TrainingCost(shape, work, setup, _frozen(config, work), sampling['max_new_tokens'],
                        notes, budget, sharded)


def with_response_tokens(cost: TrainingCost, config: Mapping[str, Any],
                         tokens: int) -> TrainingCost:
    """The same cost with responses of another length, in each turn of conversations."""
    work = replace(cost.work, response_tokens=written_tokens(config['model'], cost.work, tokens))
    return replace(cost, work=work, setup=replace(cost.setup, groups=_groups(config, work)))


def within_budget(cost: TrainingCost, gpus: int = 1,
                  gpu_memory: float | None = None) -> TrainingCost:
    """The same cost with the layers that the policy's ``memory_budget`` keeps, and a note on them.

    Args:
        cost: The cost of a config.
        gpus: Number of data parallel processes, each with its own GPU.
        gpu_memory: Memory of a GPU in GB, for 'auto'; None if it is unknown, and all layers are
            recomputed in the estimate.
    """
    budget = cost.memory_budget
    setup = replace(cost.setup, checkpointing=True, shards=gpus if cost.sharded else 1)
    if budget is None:
        return cost
    if budget == 'auto' and gpu_memory is None:
        return replace(cost, setup=setup, notes=[
            *cost.notes, "memory_budget='auto': the device's memory decides what is recomputed; "
            'all of it in these numbers (--gpu-memory)'])
    if budget == 'auto':
        others = sum(part.bytes for part in cost.frozen.values())
        # Data parallel allocates its buckets before the first update.
        buckets = gradient_bytes(cost.shape, setup) if gpus > setup.shards else 0
        always = sum(standing(cost.shape, setup).values()) / setup.shards + buckets + others
        size = SHARE * max(0.0, gpu_memory * GB - always)
    else:
        size = float(budget) * GB
    work = replace(cost.work, prompts=min(setup.groups, cost.work.prompts))
    spending = spend(cost.shape, setup, work, size)
    return replace(cost, setup=replace(setup, kept=spending.kept),
                   notes=[*cost.notes, describe(cost.shape, setup, spending)])


def _check_entries(config: Mapping[str, Any]) -> None:
    """Reject a config that trains nothing, or no policy."""
    needed = {name: config.get(name) for name in ('train_dataloader', 'train_cfg', 'optim_wrapper',
                                                  'model')}
    needed['optim_wrapper.optimizer'] = (needed['optim_wrapper'] or {}).get('optimizer')
    for name, entry in needed.items():
        if not entry:
            raise ValueError(f'`{name}` should be set to estimate a training step, but is not; '
                             f'name a training config')
    if not config['model'].get('policy'):
        raise ValueError(f"`model` ({type_name(config['model'])}) should have a `policy` to be "
                         f'estimated, but has none; name a config that trains one')


def _build_loss(loss: Mapping[str, Any]) -> PolicyLoss:
    try:
        return build_loss(loss)
    except (KeyError, TypeError) as error:
        raise ValueError(f'`model.loss` ({type_name(loss)}) cannot be built: {first_line(error)}; '
                         f'correct its type or arguments') from error


def _argument(config: Mapping[str, Any], name: str, of: type = VLMReasoningHead) -> Any:
    """Return an argument of a class from its config, or its default."""
    return config.get(name, inspect.signature(of).parameters[name].default)


def _step_prompts(config: Mapping[str, Any], work: Workload) -> int:
    """Prompts in one optimizer step of the loop."""
    return config['train_cfg'].get('prompts_per_update') or work.prompts


def _groups(config: Mapping[str, Any], work: Workload) -> int:
    group = replace(work, prompts=1).tokens
    budget = config['train_cfg'].get('tokens_per_micro_batch')
    return groups_in_pass(budget, _step_prompts(config, work), group)


def _setup(config: Mapping[str, Any], policy: Mapping[str, Any], work: Workload,
           loss: PolicyLoss, is_grpo: bool, bytes_below: float) -> Setup:
    loop, wrapper = config['train_cfg'], config['optim_wrapper']
    groups = _groups(config, work)
    updates, step_prompts = loop.get('num_iterations', 1), _step_prompts(config, work)
    # The GRPO loop accumulates on its own; in other loops the wrapper decides.
    accumulates = (groups < step_prompts if is_grpo else
                   wrapper.get('accumulative_counts', 1) > 1)
    engine = _argument(config['model'], 'rollout_engine', ReasoningSegmentor)
    kind = resolve(engine, ROLLOUTS)
    rollout = ('none' if not is_grpo or getattr(kind, 'samples_elsewhere', False) else
               'replicated' if getattr(kind, 'repeats_prompts', False) else 'shared')
    state, step = _optimizer_numbers(wrapper['optimizer'])
    return Setup(
        weight_bytes=_weight_bytes(_argument(policy, 'dtype')),
        amp=is_kind(wrapper, AmpOptimWrapper, OPTIM_WRAPPERS),
        lora_rank=(policy.get('lora') or {}).get('r', 8) if policy.get('lora') else 0,
        quantized_bytes=bytes_below,
        freeze_vision=_argument(policy, 'freeze_vision'),
        checkpointing=_argument(policy, 'gradient_checkpointing'),
        attention='eager' if _argument(policy, 'attn_implementation') == 'eager' else 'flash',
        reference=is_grpo and loss.needs_reference,
        rollout=rollout, keeps_turns=getattr(kind, 'keeps_turns', False),
        kept_log_probs=is_grpo and (loss.needs_pass_before_update
                                    or loop.get('replay_size', 0) > 0
                                    or updates * work.prompts > step_prompts),
        updates=updates, groups=groups, accumulates=accumulates,
        entropy=loss.entropy if is_grpo else None,
        state=state, step=step,
        bucket_views=bool((config.get('model_wrapper_cfg') or {}).get('gradient_as_bucket_view')))


def _weight_bytes(dtype: str) -> int:
    sizes = {'float32': 4, 'bfloat16': 2, 'float16': 2, 'float64': 8}
    if dtype not in sizes:
        raise ValueError(f'`model.policy.dtype` should be one of {sorted(sizes)}, but got '
                         f'{dtype!r}; correct it')
    return sizes[dtype]


def quantized_bytes(quantization: Mapping[str, Any]) -> float:
    """Bytes of a weight, including its share of the scales; 0 if nothing is quantized.

    Args:
        quantization: Arguments of ``transformers.BitsAndBytesConfig``, or the
            ``quantization_config`` of a config.json.

    Raises:
        ValueError: The method cannot be estimated.
    """
    method = quantization.get('quant_method', 'bitsandbytes')
    if method in ('awq', 'gptq'):
        bits, group = quantization.get('bits', 4), quantization.get('group_size', 128)
        # Each group of a row has a float16 scale and a zero point of ``bits`` bits.
        return bits / 8 + ((2 + bits / 8) / group if group > 0 else 0.0)
    if method == 'fp8':
        rows, columns = quantization.get('weight_block_size') or (128, 128)
        return 1 + 4 / (rows * columns)
    if method != 'bitsandbytes':
        raise ValueError(f"`quantization_config.quant_method` should be 'bitsandbytes', 'awq', "
                         f"'gptq' or 'fp8' to be estimated, but got {method!r}; estimate the "
                         f'unquantized model')
    if 'quant_method' not in quantization and 'llm_int8_skip_modules' in quantization:
        raise ValueError('`quantization.llm_int8_skip_modules` should be left out to be estimated, '
                         f"but got {quantization['llm_int8_skip_modules']}")
    if quantization.get('load_in_4bit'):
        # A float32 scale for 64 weights; or one byte, and a float32 scale for 256 of these.
        return 0.5 + (1 / 64 + 4 / (64 * 256) if quantization.get('bnb_4bit_use_double_quant')
                      else 4 / 64)
    return 1.0 if quantization.get('load_in_8bit') else 0.0


def _optimizer_numbers(optimizer: Mapping[str, Any]) -> tuple[float, float]:
    """Numbers of state, and temporary ones of a step, per trained weight. torch's AdamW computes
    the square roots of all second moments at once unless ``fused=True`` or ``foreach=False``."""
    # If an optimizer's package is missing, so is its class.
    name = getattr(resolve(optimizer, OPTIMIZERS), '__name__',
                   type_name(optimizer).rpartition('.')[2])
    if name not in STATE:
        raise ValueError(f'`optim_wrapper.optimizer.type` should be one of {sorted(STATE)} '
                         f'to be estimated, but got {name!r}; set one of these with --cfg-options')
    state = 1.0 if name == 'SGD' and optimizer.get('momentum') else STATE[name]
    at_once = (name in ('AdamW', 'Adam') and not optimizer.get('fused')
               and optimizer.get('foreach') is not False)
    return state, float(at_once)


def _image_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of a model image in pixels; of several data sets, the largest."""
    sizes = []
    for dataset in open_wrappers(config['train_dataloader']['dataset']):
        own = [step['size'] for step in dataset.get('pipeline', ())
               if is_kind(step, ModelImageResize, TRANSFORMS)]
        if not own:
            raise ValueError('`train_dataloader.dataset.pipeline` should have a `ModelImageResize`,'
                             ' which gives the size of the model image, but has none; add one')
        sizes.append(own[-1])
    width, height = max(sizes, key=math.prod)
    return height, width


def _clips(config: Mapping[str, Any], work: Workload) -> dict[str, FrozenCost]:
    """Cost of the CLIPs of rewards, validation metrics, scorers and selectors: each is in memory
    once, even if several use it, and runs for every reward."""
    entries = dict(_discriminators(_with_clips(config)))
    uses = Counter(key for reward in list_rewards(config) for key, _ in
                   _discriminators(dict(train_cfg=dict(rewards={reward.name: reward.config}))))
    costs = {}
    for number, (key, entry) in enumerate(entries.items(), start=1):
        one = clip_cost(entry, work.prompts, work.responses)
        name = 'CLIP' + f' {number}' * (len(entries) > 1)
        costs[name] = replace(one, flops=uses[key] * one.flops)
    return costs


def _samples_of_validation(config: Mapping[str, Any], work: Workload) -> list[str]:
    """A note if a validation samples more answers at a time than a rollout."""
    count = evaluation_sampling(config['model'].get('test_cfg') or {}).get('group_size', 1)
    batch = (config.get('val_dataloader') or {}).get('batch_size', 1)
    if not config.get('val_dataloader') or count * batch <= work.responses:
        return []
    return [f'not counted: a validation samples {count} answers to each of {batch} questions at a '
            f'time (test_cfg.num_samples), more than the {work.responses} of a rollout, and needs '
            f'more memory for that']


def _with_clips(config: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a config whose discriminators are in memory in training."""
    test_cfg = dict(config['model'].get('test_cfg') or {})
    config = dict(config, model=dict(config['model'], test_cfg=test_cfg))
    write_out_selectors(config)
    return {name: config[name] for name in ('model', 'default_hooks', 'custom_hooks', 'train_cfg',
                                              'val_evaluator') if config.get(name)}


def _discriminators(part: Mapping[str, Any]) -> list[tuple[Hashable, Mapping[str, Any]]]:
    return [(discriminator_key(node.entry), node.entry) for node in find_nodes(part)
            if node.is_kind(CLIPDiscriminator)]


def _frozen(config: Mapping[str, Any], work: Workload) -> dict[str, FrozenCost]:
    costs = _clips(config, work)
    decoder = config['model'].get('decoder')
    if decoder and is_kind(decoder, SAMDecoder, MODELS):
        costs['SAM'] = sam_cost(decoder, sam_encodings(
            work, shown=work.turns - 1 if shows_masks(config['model']) else 0,
            rewarded=any(reward.needs('decoder') for reward in list_rewards(config)),
            in_crop=(config['model'].get('conversation') or {}).get('decode_in_crop', False),
            kept=_argument(decoder, 'cache_size', SAMDecoder)))
    return costs


def _not_counted(config: Mapping[str, Any]) -> list[str]:
    """The models whose cost is unknown, by path and class."""
    decoder = config['model'].get('decoder')
    entries = {}
    if decoder and not is_kind(decoder, (SAMDecoder, BoxDecoder), MODELS):
        entries['model.decoder'] = decoder
    for node in find_nodes(_with_clips(config)):
        if _DISCRIMINATOR.search(node.path) and not node.is_kind(CLIPDiscriminator):
            entries[node.path] = node.entry
    for reward in list_rewards(config):
        if (reward.needs('model') and not reward.needs('decoder')
                and not any(_DISCRIMINATOR.search(node.path) for node in find_nodes(
                    dict(train_cfg=dict(rewards={reward.name: reward.config}))))):
            entries[reward.path] = reward.entry
    return [f'{path} ({type_name(entry)})' for path, entry in entries.items()]
