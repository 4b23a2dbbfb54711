# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""State hooks of a reasoning segmentor: what a checkpoint holds, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdet.models.detectors import BaseDetector
from torch import Tensor

from mmdpad.models.heads.lora import SCALING, adapter_scaling, check_scaling
from mmdpad.models.weights import LoadReport

_FROZEN = ('decoder.', 'reference.')


def keep_policy_only(module: BaseDetector) -> None:
    """Make a segmentor's checkpoints hold only its policy, and refuse those that do not fit."""
    module.register_state_dict_post_hook(drop_frozen)
    module._register_load_state_dict_pre_hook(check_fit, with_module=True)
    module.register_load_state_dict_post_hook(expect_no_frozen)


def _is_frozen(module: BaseDetector, key: str) -> bool:
    """Whether checkpoints leave out this key of the segmentor's state."""
    adapter = module.policy.adapter_keys
    return key.startswith(_FROZEN) or bool(adapter) and (
        key.removeprefix('policy.') not in adapter | {SCALING})


def drop_frozen(module: BaseDetector, state: dict, prefix: str, *_: Any) -> None:
    """Leave the frozen parts out of a state dict."""
    for key in [k for k in state if _is_frozen(module, k.removeprefix(prefix))]:
        del state[key]


def expect_no_frozen(module: BaseDetector, incompatible: Any) -> None:
    """Do not report parts that checkpoints never hold as missing."""
    incompatible.missing_keys[:] = [
        key for key in incompatible.missing_keys if not _is_frozen(module, key)]


def check_fit(module: BaseDetector, state: dict, prefix: str, *_: Any) -> None:
    """Refuse a checkpoint that does not fit the policy, or its adapter, in names, shapes or
    scaling, before anything is loaded.

    mmengine would only warn, and continue with a partially loaded policy. Names of the reference,
    which merged checkpoints of FSDP2 once had, are removed.
    """
    for key in [key for key in state if key.startswith(f'{prefix}reference.')]:
        del state[key]
    scaling = None
    if module.policy.has_adapter:
        # Not the model's buffer, which a strategy may already have overwritten.
        scaling = state.setdefault(f'{prefix}policy.{SCALING}',
                                   adapter_scaling(module.policy.model))
    own = {key.removeprefix(prefix): value for key, value in state.items()
           if key.startswith(prefix)}
    LoadReport.of(module, own, 'the checkpoint').settle(
        'It should match this config: `model.policy` (model, `lora`) as in the run that wrote it; '
        'to start an adapter from a full policy, name its folder as `model.policy.pretrained`, '
        'see `mmdpad run to_hf --help`')
    if scaling is not None:
        check_scaling(module.policy.model, scaling)
    _check_tied(module.policy.model, own)


def _check_tied(model: Any, own: Mapping[str, Tensor]) -> None:
    """Refuse different values for two names of one weight, since the later would silently win."""
    for name, twin in (getattr(model, 'all_tied_weights_keys', None) or {}).items():
        one, other = own.get(f'policy.model.{name}'), own.get(f'policy.model.{twin}')
        if one is not None and other is not None and one is not other and not one.equal(other):
            raise ValueError(
                f'{name!r} and {twin!r} should have the same values in a checkpoint, since the '
                f'policy ties them (`tie_word_embeddings` in its config.json), but they differ; '
                f'set it to false there to train both, or remove one of the two from the file')
