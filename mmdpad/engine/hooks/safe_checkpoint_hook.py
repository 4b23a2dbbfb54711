# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checkpoints that hold plain data only, so that reading one runs no code."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer

from mmdpad.registry import HOOKS

_PLAIN = (bool, int, float, str, bytes, type(None), torch.Tensor)
_DICTS = (dict, OrderedDict, Counter)


@HOOKS.register_module()
class SafeCheckpointHook(Hook):
    """Writes mmengine's log history as tensors, and restores it when a run is resumed.

    Since torch 2.6 ``torch.load`` accepts plain data only (``weights_only=True``), but mmengine
    0.10 stores its log history as objects: without this hook ``resume=True`` fails. Add it to
    ``default_hooks`` of a config.
    """

    priority = 'VERY_LOW'  # after every hook that adds to the checkpoint

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Pack the history, turn a config's dicts and NumPy's numbers into Python's own, and drop
        (with a warning) run information that is no plain data.

        Raises:
            TypeError: Anything else in the checkpoint is not plain data, so it could not be loaded.
        """
        hub = checkpoint['message_hub']
        checkpoint['meta'] = {name: _plain(value) for name, value in checkpoint['meta'].items()}
        hub['log_scalars'] = {name: _pack(buffer) for name, buffer in hub['log_scalars'].items()}
        hub['runtime_info'] = {name: _plain(value) for name, value in hub['runtime_info'].items()}
        for name in [k for k, v in hub['runtime_info'].items() if find_objects(v)]:
            runner.logger.warning(f'{name} is left out of the checkpoint: it is not plain data')
            del hub['runtime_info'][name]
        # mmengine also names what it does not store, if the process has ever had it.
        hub['resumed_keys'] = {name: value for name, value in hub['resumed_keys'].items()
                               if name in hub['log_scalars'] or name in hub['runtime_info']}
        faults = find_objects(checkpoint)
        if faults:
            raise TypeError(f'A checkpoint should hold tensors, numbers, strings, lists and dicts '
                            f'only, but got {faults[:5]}; a hook may add such data by '
                            f'`before_save_checkpoint`')

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Restore the history if the checkpoint has one."""
        hub = checkpoint.get('message_hub')
        if hub is not None:
            hub['log_scalars'] = {name: _unpack(buffer) if isinstance(buffer, dict) else buffer
                                  for name, buffer in hub['log_scalars'].items()}


def find_objects(value: Any, where: str = '') -> list[str]:
    """Paths and types of what ``torch.load(weights_only=True)`` would refuse."""
    if type(value) in _DICTS:
        entries = list(value.items())
    elif isinstance(value, (list, tuple)):
        entries = list(enumerate(value))
    else:
        # By exact type: a subclass of int, str or dict is an object to the unpickler, too.
        plain = type(value) in _PLAIN or isinstance(value, torch.Tensor)
        return [] if plain else [f'{where}: {type(value).__name__}']
    return [fault for key, item in entries
            for fault in find_objects(key, f'{where}<key>') + find_objects(item, f'{where}.{key}')]


def _plain(value: Any) -> Any:
    """The same value without NumPy's numbers and, within a dict, without a config's dicts (a data
    set's ``metainfo`` keeps them)."""
    if isinstance(value, np.generic):
        return value.item()
    return ConfigDict(value).to_dict() if isinstance(value, dict) else value


def _pack(buffer: HistoryBuffer) -> dict[str, Any]:
    values, counts = buffer.data
    return dict(values=torch.from_numpy(np.asarray(values, dtype=np.float64)),
                counts=torch.from_numpy(np.asarray(counts, dtype=np.float64)),
                max_length=buffer.max_length)


def _unpack(packed: dict[str, Any]) -> HistoryBuffer:
    return HistoryBuffer(packed['values'].tolist(), packed['counts'].tolist(),
                         packed['max_length'])
