# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Plans a vLLM server for the policy of a config."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.registry import DefaultScope

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.segmentors import ReasoningSegmentor, settings
from mmdpad.models.sources import find_folder, read_config
from mmdpad.registry import MODELS, ROLLOUTS, is_kind, scope_of
from mmdpad.utils.argument_types import read_defaults

from .vllm_server_rollout import VLLMServerRollout
from .weight_transfer import WORKER_FOLDER, server_flags


@dataclass
class ServerPlan:
    """How to start a server.

    Attributes:
        flags: Of `vllm serve`, all but the address.
        environ: Environment variables.
        engine: The engine's arguments that a training needs besides the address.
        is_chosen: Whether the config names :class:`.VLLMServerRollout` already.
        is_recurrent: Whether the model has recurrent layers.
    """

    flags: list[str]
    environ: dict[str, str]
    engine: dict[str, Any]
    is_chosen: bool
    is_recurrent: bool

    def options(self, url: str) -> str:
        """Make the ``--cfg-options`` with which a training uses the server at an address."""
        if self.is_chosen:
            return f'model.rollout_engine.urls=[{url}]'
        others = ''.join(f', {name}={value}' for name, value in self.engine.items())
        return (f'model.rollout_engine=dict(_delete_=True, type=VLLMServerRollout, '
                f'urls=[{url}]{others})')


def plan_server(config: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> ServerPlan:
    """Plan a server for a config of training or evaluation.

    Args:
        config: Its ``model`` is a :class:`ReasoningSegmentor`; with another ``rollout_engine`` than
            :class:`.VLLMServerRollout`, only the ``dtype`` of that is used.
        environ: The environment variables of this process.

    Raises:
        ValueError: The model is of another kind, or its policy's folder does not exist.
    """
    model = config.get('model') or {}
    with DefaultScope.overwrite_default_scope(scope_of(config)):
        if not is_kind(model, ReasoningSegmentor, MODELS):
            raise ValueError(f'`model.type` should be ReasoningSegmentor, which samples responses, '
                             f'but got {model.get("type")!r}; name another config')
        engine = model.get('rollout_engine') or {}
        is_chosen = is_kind(engine, VLLMServerRollout, ROLLOUTS)
    transfer = engine.get('transfer') or {} if is_chosen else {}
    engine = {name: engine[name] for name in ('dtype', ) if engine.get(name)}
    policy = model['policy']
    if (folder := find_folder(policy['pretrained'])) is None:
        raise ValueError(f'`model.policy.pretrained` should be the folder of a model, but there is '
                         f'no {policy["pretrained"]!r}; download it or correct the path')
    images, tokens = settings.conversation_limits(model)
    tokens += policy.get('max_prompt_tokens', read_defaults(VLMReasoningHead)['max_prompt_tokens'])
    flags = ['--model', str(folder), '--max-model-len', str(tokens),
             '--dtype', engine.get('dtype', read_defaults(VLLMServerRollout)['dtype']),
             '--logprobs-mode', 'processed_logprobs', '--seed', '0', '--enable-scale-out',
             '--limit-mm-per-prompt', json.dumps(dict(image=images, video=0)),
             *server_flags(transfer.get('backend', 'files'))]
    path = os.pathsep.join(filter(None, [str(WORKER_FOLDER), environ.get('PYTHONPATH')]))
    kinds = (read_config(str(folder)).get('text_config') or {}).get('layer_types') or ()
    return ServerPlan(flags, dict(VLLM_SERVER_DEV_MODE='1', PYTHONPATH=path), engine, is_chosen,
                      'linear_attention' in kinds)
