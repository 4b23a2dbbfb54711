# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Fully sharded data parallel training with torch's FSDP2, for mmengine's FlexibleRunner."""

from __future__ import annotations

import os
import os.path as osp
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mmengine
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from mmengine._strategy import DDPStrategy
from mmengine.device import get_device
from mmengine.dist import broadcast, is_main_process
from torch import Tensor, nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from mmdpad.engine.checkpoints import PLAIN_FILE
from mmdpad.engine.resuming import fit_optimizer
from mmdpad.models.heads.quantization import check_shardable
from mmdpad.models.mapped_weights import mapped_names, take_mapped
from mmdpad.models.precision import read_dtype
from mmdpad.models.segmentors import ReasoningSegmentor
from mmdpad.models.weights import load_safe, without_config
from mmdpad.registry import STRATEGIES
from mmdpad.utils.files import UNFINISHED, atomic_file

from .sharding import fill, is_sharded, shard_as, to_full

_OPTIMIZER = 'optimizer.'  # prefix of the names of its tensors
REFERENCE = 'reference'  # in a checkpoint: the weights of a reference that changes
_CHANGED = 'changed_reference.'  # prefix of their names; those in the model begin with 'reference.'


@STRATEGIES.register_module()
class FSDP2Strategy(DDPStrategy):
    """Shards weights, gradients and optimizer state over all processes.

    Each layer of the language models (policy and reference) and each block of the vision tower is
    gathered for its own forward and backward pass; embeddings, norms and output head are gathered
    together, for a complete pass. Validation, test and rollouts keep the policy gathered, except
    rollouts of engines with their own copy of the weights (vLLM) and evaluations on vLLM servers.
    The frozen decoder is on every process.

    Of the policy and the reference, each process reads only its shards, from the safetensors files
    in ``pretrained`` or from a checkpoint. Every machine needs the same files.

    A checkpoint is a folder ``iter_N.pth``: every process writes its shard in safetensors format
    with torch.distributed.checkpoint, and ``plain.pth`` holds the rest. Any number of processes can
    resume it under this strategy. The strategy also loads or resumes files of other runs.

    Args:
        param_dtype: The dtype of weights in forward and backward passes, for example 'bfloat16';
            None for the dtype of the master weights.
        reduce_dtype: The dtype in which gradients are summed; None for the dtype of the passes.
        reshard_after_forward: Free a layer's weights between its forward and backward pass (as
            ZeRO-3); False keeps them, with more memory and less communication (as ZeRO-2).
        cpu_offload: Keep shards and optimizer on the CPU; on GPUs, also set
            ``env_cfg.dist_cfg.backend='cpu:gloo,cuda:nccl'``.
        full_state_dict: Write each checkpoint as one file, as without this strategy. Every process
            reads the complete file.
        **kwargs: As in mmengine.
    """

    def __init__(self, *, param_dtype: str | None = None, reduce_dtype: str | None = None,
                 reshard_after_forward: bool = True, cpu_offload: bool = False,
                 full_state_dict: bool = False, **kwargs: Any) -> None:
        param, reduced = (read_dtype(f'strategy.{key}', name) if name else None for key, name in
                          (('param_dtype', param_dtype), ('reduce_dtype', reduce_dtype)))
        super().__init__(**kwargs)
        if not dist.is_initialized():
            raise RuntimeError('`FSDP2Strategy` needs processes started by a launcher, but got '
                               "`launcher='none'`; use tools/dist_train.sh CONFIG GPUS")
        self.precision = MixedPrecisionPolicy(param, reduced, cast_forward_inputs=False)
        self.reshard_after_forward = reshard_after_forward
        self.cpu_offload = cpu_offload
        self.full_state_dict = full_state_dict

    def _init_model_weights(self, model: Any) -> Any:
        """As in mmengine, but weights that are in files are not broadcast."""
        if self.dispatch_kwargs.get('init_weights_for_test_or_val', True):
            model.init_weights()
            in_files = mapped_names(model)
            for name, value in model.state_dict().items():
                if name not in in_files:
                    broadcast(value)
        return model

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if not isinstance(model, ReasoningSegmentor):
            raise TypeError(f'`model` should be a ReasoningSegmentor under `FSDP2Strategy`, but '
                            f'got {type(model).__name__}; leave `strategy` out')
        check_shardable(model)
        device = get_device()
        pin = device != 'cpu'
        options: dict[str, Any] = dict(
            mesh=dist.device_mesh.init_device_mesh(device, (dist.get_world_size(), )),
            mp_policy=self.precision,
            offload_policy=CPUOffloadPolicy(pin) if self.cpu_offload else OffloadPolicy())
        frozen: set[nn.Parameter] = set()
        if model.decoder is not None:
            model.decoder.to(device)
            frozen.update(model.decoder.parameters())
        values = take_mapped(model)
        names = set(model.policy.model._no_split_modules)
        # The reference may share the policy's vision tower: `modules` names it once.
        for layer in [m for m in model.modules() if type(m).__name__ in names]:
            for part in [*_parts_of_other_dtypes(layer), layer]:
                fully_shard(part, reshard_after_forward=self.reshard_after_forward, **options)
                part.reshards = self.reshard_after_forward  # torch does not expose it
        fully_shard(model, ignored_params=frozen, **options)
        fill(model, values, 'cpu' if self.cpu_offload else device)
        # Methods that the loop calls besides `forward`.
        for method in ('start_rollout', 'log_probs', 'hand_over', 'next_responses'):
            register_fsdp_forward_method(model, method)
        return model

    def load_model_state_dict(self, state_dict: dict, **kwargs: Any) -> None:
        super().load_model_state_dict(shard_as(state_dict, self.model.state_dict()), **kwargs)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        parameters = self._parameters()
        state = {number: shard_as(own, dict.fromkeys(own, parameters[number]))
                 for number, own in state_dict['state'].items()}
        super().load_optim_state_dict({**state_dict, 'state': state})

    def load_checkpoint(self, filename: str, *, callback: Callable | None = None,
                        **kwargs: Any) -> dict:
        """As in mmengine, from a file or a folder of shards."""
        if osp.isfile(filename):
            # Memory-mapped on the CPU, whatever mmengine asks for: only shards are needed.
            kwargs.pop('map_location', None)
            self.logger.info(f'Load checkpoint from {filename}')
            checkpoint = without_config(load_safe(filename))
            if callback is not None:
                callback(checkpoint)
            self.load_model_state_dict(checkpoint.pop('state_dict'), **kwargs)
            return checkpoint
        if not osp.isdir(filename):
            return super().load_checkpoint(filename, callback=callback, **kwargs)
        self.logger.info(f'Load checkpoint from {filename}')
        checkpoint = without_config(load_safe(osp.join(filename, PLAIN_FILE), mmap=False))
        optimizer = checkpoint.get('optimizer')
        state = self.model.state_dict()
        parts = self._distinct(state)
        if optimizer is not None and hasattr(self, 'optim_wrapper'):
            fit_optimizer(optimizer, self.optim_wrapper)
            parameters = self._parameters()
            for number, name in sharded_entries(optimizer):
                optimizer['state'][number][name] = torch.zeros_like(parameters[number])
            parts |= _flat(optimizer)
        if REFERENCE in checkpoint and self.model.reference is not None:
            own = dict(self.model.reference.named_parameters())
            checkpoint[REFERENCE] = {name: torch.zeros_like(own[name])
                                     for name in checkpoint[REFERENCE]}
            parts |= _reference_parts(checkpoint)
        dcp.load(parts, storage_reader=dcp.HuggingFaceStorageReader(filename))  # into `state`
        checkpoint['state_dict'] = state
        if callback is not None:
            callback(checkpoint)
        self.load_model_state_dict(checkpoint.pop('state_dict'))
        return checkpoint

    def save_checkpoint(self, filename: str, *, save_optimizer: bool = True,
                        save_param_scheduler: bool = True, extra_ckpt: dict | None = None,
                        callback: Callable | None = None) -> None:
        """As in mmengine, on all processes together. A folder appears only when it is complete."""
        checkpoint = dict(state_dict=self.model.state_dict())
        if save_optimizer and hasattr(self, 'optim_wrapper'):
            checkpoint['optimizer'] = self.optim_state_dict()
        if save_param_scheduler and hasattr(self, 'param_schedulers'):
            checkpoint['param_schedulers'] = self.scheduler_state_dict()
        checkpoint |= extra_ckpt or {}
        checkpoint.setdefault('meta', {}).update(seed=self.seed, mmengine=mmengine.__version__)
        if callback is not None:
            callback(checkpoint)
        if self.full_state_dict:
            checkpoint = _map(checkpoint, to_full)
            if is_main_process():
                with atomic_file(filename) as file:
                    torch.save(checkpoint, file)
            return
        state = checkpoint.pop('state_dict')
        parts = self._distinct(state)
        if 'optimizer' in checkpoint:
            parts |= _flat(checkpoint['optimizer'])
        parts |= _reference_parts(checkpoint)
        unfinished = f'{filename}{UNFINISHED}'
        dcp.save(parts, storage_writer=dcp.HuggingFaceStorageWriter(
            unfinished, save_distributed=True))
        if is_main_process():
            plain = _map(checkpoint, lambda value: None if isinstance(value, DTensor) else value)
            plain['tied'] = {name: first for name, first in self._tied().items() if name in state}
            torch.save(plain, osp.join(unfinished, PLAIN_FILE))
            shutil.rmtree(filename, ignore_errors=True)
            os.replace(unfinished, filename)
        dist.barrier()

    def _distinct(self, state: dict) -> dict:
        """A state without the second names of tied weights, which safetensors rejects."""
        tied = self._tied()
        return {name: value for name, value in state.items() if name not in tied}

    def _tied(self) -> dict[str, str]:
        """Second names of tied weights -> their first ones."""
        first = {parameter: name for name, parameter in self.model.named_parameters()}
        return {name: first[parameter]
                for name, parameter in self.model.named_parameters(remove_duplicate=False)
                if name != first[parameter]}

    def _parameters(self) -> list[nn.Parameter]:
        """The optimizer's parameters, in the order of the numbers in its state."""
        return [parameter for group in self.optim_wrapper.optimizer.param_groups
                for parameter in group['params']]


def _parts_of_other_dtypes(layer: nn.Module) -> list[nn.Module]:
    """The modules in a layer whose own trained weights have another dtype than most of them: the
    router of GLM-4.5V is float32. Those that are gathered together must have the same."""
    sizes: Counter[torch.dtype] = Counter()
    for parameter in layer.parameters():
        if parameter.requires_grad:
            sizes[parameter.dtype] += parameter.numel()
    if len(sizes) < 2:
        return []
    (most, _), = sizes.most_common(1)
    return [module for module in layer.modules() if any(
        p.requires_grad and p.dtype != most for p in module.parameters(recurse=False))]


def merge_shards(folder: str | Path) -> dict:
    """Merge a folder of shards into the checkpoint that a single process would have written.

    Raises:
        FileNotFoundError: ``folder`` is not a checkpoint that :class:`FSDP2Strategy` wrote.
    """
    checkpoint, parts = _read_parts(folder)
    optimizer = checkpoint.get('optimizer', dict(state={}))
    for number, name in sharded_entries(optimizer):
        optimizer['state'][number][name] = parts.pop(f'{_OPTIMIZER}{number}.{name}')
    if REFERENCE in checkpoint:
        checkpoint[REFERENCE] = {name: parts.pop(f'{_CHANGED}{name}')
                                 for name in checkpoint[REFERENCE]}
    return dict(checkpoint, state_dict=parts)


def read_weights(checkpoint: str | Path) -> dict[str, Tensor]:
    """Read the full weights of a checkpoint on the CPU, by name, from a file or a folder of shards.
    The optimizer and the reference in a folder are not read.

    Raises:
        FileNotFoundError: The checkpoint is a folder that :class:`FSDP2Strategy` did not write.
    """
    if Path(checkpoint).is_dir():
        return _read_parts(checkpoint, weights_only=True)[1]
    return load_safe(str(checkpoint))['state_dict']


def load_part(part: nn.Module, checkpoint: str | Path, prefix: str) -> None:
    """Load a part of a model from a checkpoint, on all processes together; of a sharded part, each
    process reads only its shards.

    Args:
        part: The part.
        checkpoint: A file or a folder of shards.
        prefix: What precedes the part's names in the checkpoint.
    """
    own = part.state_dict()
    if is_sharded(part) and Path(checkpoint).is_dir():
        reader = dcp.HuggingFaceStorageReader(str(checkpoint))
        dcp.load({name: own[name.removeprefix(prefix)]
                  for name in reader.read_metadata().state_dict_metadata
                  if name.startswith(prefix)}, storage_reader=reader)  # into `own`
        return
    state = {name.removeprefix(prefix): value for name, value in read_weights(checkpoint).items()
             if name.startswith(prefix)}
    part.load_state_dict(shard_as(state, own))


def _read_parts(folder: str | Path, weights_only: bool = False) -> tuple[dict, dict[str, Tensor]]:
    """The content of :data:`PLAIN_FILE`, and the full tensors by the names in the folder."""
    plain = Path(folder, PLAIN_FILE)
    if not plain.is_file():
        raise FileNotFoundError(f'{str(folder)!r} should be a checkpoint that FSDP2Strategy wrote, '
                                f'but has no {PLAIN_FILE}; choose a folder iter_N.pth')
    checkpoint = load_safe(str(plain))
    reader = dcp.HuggingFaceStorageReader(str(folder))
    saved: dict[str, Any] = dict(reader.read_metadata().state_dict_metadata)
    parts = {name: torch.empty(about.size, dtype=about.properties.dtype)
             for name, about in saved.items()
             if not weights_only or not name.startswith((_OPTIMIZER, _CHANGED))}
    dcp.load(parts, storage_reader=reader, no_dist=True)
    # The names of a vision tower that the reference shares were once there, too.
    return checkpoint, parts | {name: parts[first]
                                for name, first in checkpoint.pop('tied').items()
                                if not name.startswith(f'{REFERENCE}.')}


def sharded_entries(optimizer: dict) -> Iterator[tuple[int, str]]:
    """Yield the parameter number and the name of each entry without a value in the plain file."""
    for number, state in optimizer['state'].items():
        for name, value in state.items():
            if value is None:
                yield number, name


def _flat(optimizer: dict) -> dict[str, DTensor]:
    return {f'{_OPTIMIZER}{number}.{name}': value for number, state in optimizer['state'].items()
            for name, value in state.items() if isinstance(value, DTensor)}


def _reference_parts(checkpoint: dict) -> dict[str, Any]:
    return {f'{_CHANGED}{name}': value for name, value in checkpoint.get(REFERENCE, {}).items()}


def _map(value: Any, change: Callable[[Any], Any]) -> Any:
    """Change each leaf of nested dicts, lists and tuples, in the same order on all processes.

    What has no changed leaf stays the same object. On resume mmengine compares the metainfo of data
    sets by pickles, and these differ if two parts of it no longer share a list.
    """
    if isinstance(value, dict):
        changed: Any = {key: _map(item, change) for key, item in value.items()}
        same = type(value) is dict and all(changed[key] is item for key, item in value.items())
        return value if same else changed
    if isinstance(value, (list, tuple)):
        changed = [_map(item, change) for item in value]
        same = all(one is item for one, item in zip(changed, value, strict=True))
        return value if same else type(value)(changed)
    return change(value)
