# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The families of policies, by the ``model_type`` of a config.json."""

from __future__ import annotations

from typing import Any

from transformers import (
    Glm4vForConditionalGeneration,
    Glm4vMoeForConditionalGeneration,
    Glm46VForConditionalGeneration,
    InternVLForConditionalGeneration,
    Lfm2VlForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeForConditionalGeneration,
)

from mmdpad.geometry.coordinates import COORDINATES
from mmdpad.models.sources import read_config

from .internvl import InternVLFamily
from .lfm2_vl import Lfm2VlFamily
from .policy_family import PolicyFamily

FAMILIES: dict[str, PolicyFamily] = {}
"""Maps ``model_type`` to the family."""


def register_family(model_type: str, family: PolicyFamily) -> None:
    """Register a family under the ``model_type`` of its config.json."""
    FAMILIES[model_type] = family


register_family('qwen2_vl', PolicyFamily('Qwen2-VL', Qwen2VLForConditionalGeneration,
                                         'relative_1000', converses=True))
register_family('qwen2_5_vl', PolicyFamily('Qwen2.5-VL', Qwen2_5_VLForConditionalGeneration,
                                           'pixels', converses=True))
register_family('qwen3_vl', PolicyFamily('Qwen3-VL', Qwen3VLForConditionalGeneration,
                                         'relative_1000', converses=True))
register_family('qwen3_vl_moe', PolicyFamily('Qwen3-VL-MoE', Qwen3VLMoeForConditionalGeneration,
                                             'relative_1000'))
_LINEARS = '(q|k|v|o|gate|up|down|out)_proj|in_proj_(qkv|z|b|a)|shared_expert_gate'
_HYBRID = ('full_attention', 'linear_attention')
register_family('qwen3_5', PolicyFamily(
    'Qwen3.5', Qwen3_5ForConditionalGeneration, 'relative_1000', language_linears=_LINEARS,
    shared_layers=_HYBRID))
register_family('qwen3_5_moe', PolicyFamily(
    'Qwen3.5-MoE', Qwen3_5MoeForConditionalGeneration, 'relative_1000', language_linears=_LINEARS,
    shared_layers=_HYBRID))
_GLM: dict[str, Any] = dict(
    coordinates='relative_1000', language_linears='(q|k|v|o|gate_up|gate|up|down)_proj',
    vision_tokens=tuple(f'{name}_token_id' for name in (
        'image', 'video', 'image_start', 'image_end', 'video_start', 'video_end')))
register_family('glm4v', PolicyFamily('GLM-4.1V', Glm4vForConditionalGeneration, **_GLM))
register_family('glm4v_moe', PolicyFamily('GLM-4.5V', Glm4vMoeForConditionalGeneration, **_GLM))
register_family('glm46v', PolicyFamily('GLM-4.6V', Glm46VForConditionalGeneration, **_GLM))
register_family('internvl', InternVLFamily(
    'InternVL', InternVLForConditionalGeneration, 'relative_1000',
    vision_tokens=('image_token_id', ), vision_tower='model.vision_tower',
    vision_blocks='encoder.layer', vision_linears='(q|k|v)_proj|projection_layer|fc1|fc2',
    mrope=False))
register_family('lfm2_vl', Lfm2VlFamily(
    'LFM2-VL', Lfm2VlForConditionalGeneration, 'relative_1', vision_tokens=('image_token_id', ),
    vision_tower='model.vision_tower', vision_blocks='encoder.layers',
    vision_linears='(q|k|v|out)_proj|fc1|fc2', language_norm='embedding_norm',
    language_linears='(q|k|v|in|out)_proj|w[123]', shared_layers=('full_attention', 'conv'),
    mrope=False))


def find_family(source: str) -> PolicyFamily:
    """Find the family of a policy. Reads only its config.json.

    Args:
        source: Folder or hub name, see :func:`mmdpad.models.sources.check_source`.

    Raises:
        ValueError: No such family is registered.
    """
    return _look_up(read_config(source).get('model_type'), repr(source))


def family_of(model: Any) -> PolicyFamily:
    """The family of a model of transformers, with or without an adapter.

    Raises:
        ValueError: No such family is registered.
    """
    return _look_up(model.config.model_type, type(model).__name__)


def _look_up(model_type: Any, owner: str) -> PolicyFamily:
    if model_type not in FAMILIES:
        known = ', '.join(f'{name} ({family.name})' for name, family in FAMILIES.items())
        raise ValueError(
            f'The `model_type` in config.json of {owner} should be one of {known}, but is '
            f'{model_type!r}; use such a model, or add its family in a module of '
            f'`custom_imports`: register_family({model_type!r}, PolicyFamily(name=..., '
            f"model_class=..., coordinates={' or '.join(map(repr, COORDINATES))})) of "
            f'mmdpad.models.heads, see docs/policies.md')
    return FAMILIES[model_type]
