# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Which attention implementation computes which model right, as far as config.json says."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

from transformers import AttentionInterface
from transformers.utils import is_flash_attn_2_available

if TYPE_CHECKING:
    from .policy_family import PolicyFamily

SHARED_PREFIX = 'shared_prefix'
# Eager attention adds the least number of the dtype to hidden scores. For queries of padding, which
# see nothing, all scores then become -inf: in float64 as the softmax is float32, in float16 as soon
# as they are below -16. Their NaN spreads to the prompt's own tokens in the next layer.
_NOT_EAGER = ('float64', 'float16')
# Their types of tokens are 0 for a prompt, whose tokens attend in both directions, and 1 for a
# response.
_PREFIX_MODELS = ('paligemma', )
_INSTEAD = ("set `attn_implementation='sdpa'`, with `rollout_engine=dict(type='HFRollout')` if the "
            'model samples')


def attention_names() -> list[str]:
    """The names that ``attn_implementation`` may have, sorted."""
    return sorted({'eager', SHARED_PREFIX, *AttentionInterface().valid_keys()})


def check_attention(name: str, dtype: str = 'float32') -> None:
    """Check that an attention implementation is available and computes a dtype right, before
    weights are read.

    Args:
        name: ``attn_implementation``.
        dtype: Name of the weights' dtype.

    Raises:
        ValueError: transformers has none of that name, or it does not suit the dtype.
        ImportError: It needs a package that is not installed.
    """
    if name not in (known := attention_names()):
        raise ValueError(f'`attn_implementation` should be one of {known}, but got {name!r}')
    if name == 'flash_attention_2' and not is_flash_attn_2_available():
        raise ImportError("`attn_implementation='flash_attention_2'` needs the package flash-attn "
                          'and a GPU; install it (`pip install flash-attn`), or use '
                          "'shared_prefix' (the default) or 'sdpa', which need neither")
    if name == 'eager' and dtype in _NOT_EAGER:
        raise ValueError(f"`attn_implementation` should not be 'eager' with `dtype={dtype!r}`, "
                         f'which turns prompts of different lengths into NaN; {_INSTEAD}')


def layer_kinds(config: Any) -> list[str]:
    """List the kinds of the language model's layers, sorted, as ``layer_types`` names them.

    A config without ``layer_types`` has layers of one kind.

    Args:
        config: The config of a vision-language model, as transformers reads it.
    """
    text = config.get_text_config()
    if kinds := getattr(text, 'layer_types', None):
        return sorted({*kinds})
    window = getattr(text, 'sliding_window', None) and getattr(text, 'use_sliding_window', True)
    return ['sliding_attention' if window else 'full_attention']


def check_layers(name: str, config: Any, family: PolicyFamily) -> None:
    """Check that an attention implementation handles all layers of a model, and that these get the
    types of tokens if they depend on them, before weights are read.

    Args:
        name: ``attn_implementation``.
        config: See :func:`layer_kinds`.
        family: The family of the model.

    Raises:
        ValueError: It does not, or they would not.
    """
    _check_token_types(config, family)
    if name != SHARED_PREFIX:
        return
    if family.token_types:
        raise ValueError(
            f'`attn_implementation={name!r}` should have tokens that attend to earlier ones, but '
            f'image tokens of {family.name} ({config.model_type}) also attend to later ones; '
            f'{_INSTEAD}')
    if others := sorted({*layer_kinds(config)} - {*family.shared_layers}):
        raise ValueError(
            f'`attn_implementation={name!r}` should have layers of '
            f'{", ".join(family.shared_layers)}, but {family.name} ({config.model_type}) has '
            f'{", ".join(others)}, in which prompts and responses of a row would be mixed; '
            f'{_INSTEAD}')


def _check_token_types(config: Any, family: PolicyFamily) -> None:
    owner, class_name = f'{family.name} ({config.model_type})', family.model_class.__name__
    if config.model_type in _PREFIX_MODELS:
        raise ValueError(
            f'A policy should have prompts whose text attends to earlier tokens only, but that of '
            f'{owner} attends in both directions, by its token_type_ids; use another model')
    taken = [argument for argument in signature(family.model_class.forward).parameters
             if argument.endswith('token_type_ids')]
    # With positions in three dimensions, these are for `get_rope_index`.
    missed = [argument for argument in taken if argument != family.token_types
              and not (family.mrope and argument == 'mm_token_type_ids')]
    if missed:
        raise ValueError(
            f'`token_types` of {owner} should be {missed[0]!r}, an argument of {class_name}, but '
            f'is {family.token_types!r}: without it, image tokens would silently be computed in '
            f'another way; set it if it is 1 for image tokens and 0 for others; other meanings are '
            f'not supported')
    if family.token_types and family.token_types not in taken:
        raise ValueError(f'`token_types` of {owner} should be an argument of {class_name}, which '
                         f'has no {family.token_types!r}; set it to None')
