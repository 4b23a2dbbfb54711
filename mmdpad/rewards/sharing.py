# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Shares one model among all terms with the same discriminator, and preprocessed images among
models."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from mmengine.device import get_device
from PIL import Image
from torch import Tensor, nn

from mmdpad.registry import MODELS, resolve, type_name

# Models that are still in use, by config and device.
_BUILT: WeakValueDictionary[Hashable, nn.Module] = WeakValueDictionary()
# (Preprocessing, id of an image) -> the image, which keeps its id taken, and its pixels.
_Pixels = dict[tuple[Hashable, int], tuple[np.ndarray, Tensor]]
_PIXELS: ContextVar[_Pixels | None] = ContextVar('_PIXELS', default=None)


def build_discriminator(config: Mapping[str, Any],
                        device: str | torch.device | None = None) -> nn.Module:
    """Build a discriminator, or return the one with the same config already in use on the device.

    The weights of a CLIP that several terms or metrics name are therefore in memory once, and its
    feature cache serves all of them. The model is freed with its last user.

    Args:
        config: Of a registered model, see :func:`discriminator_key`.
        device: Where it runs; default: mmengine's current device.

    Raises:
        KeyError: The type is not registered; or whatever the model raises.
    """
    place = torch.empty(0, device=device or get_device()).device  # 'cuda' becomes 'cuda:0'
    key = (*discriminator_key(config), str(place))
    model = _BUILT.get(key)
    if model is None:
        model = MODELS.build(config).to(place)
        if callable(key[0]):
            _BUILT[key] = model
    return model


def discriminator_key(config: Mapping[str, Any]) -> tuple[Any, Hashable]:
    """The class, or its name if it is not registered, and its arguments.

    Equal for configs that build the same model: the type may be a class or a name, with or without
    a scope, and defaults may be written out or not.
    """
    given = {name: value for name, value in config.items() if name not in ('type', '_scope_')}
    kind = resolve(config, MODELS) or type_name(config)
    if callable(kind):
        try:
            bound = inspect.signature(kind).bind(**given)
        except TypeError:  # the model itself will raise
            pass
        else:
            bound.apply_defaults()
            given = bound.arguments
    return kind, _hashable(given)


def _hashable(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        return 'dict', tuple(sorted((str(name), _hashable(item)) for name, item in value.items()))
    if isinstance(value, list | tuple):
        return 'list', tuple(map(_hashable, value))
    return type(value).__name__, repr(value)


@contextmanager
def shared_pixels() -> Iterator[None]:
    """Keep what :func:`to_pixels` returns within this context, for other models with the same
    preprocessing."""
    token = _PIXELS.set({})
    try:
        yield
    finally:
        _PIXELS.reset(token)


def to_pixels(pictures: Sequence[np.ndarray], preprocess: Callable[[Image.Image], Tensor],
              key: Hashable) -> Tensor:
    """Preprocess P images for a model.

    Args:
        pictures: Images, uint8 (h, w, 3), RGB.
        preprocess: Turns an image into a float (3, S, S) tensor.
        key: Equal for preprocessing with equal results.

    Returns:
        (P, 3, S, S) float on the CPU.
    """
    known = _PIXELS.get()

    def look(picture: np.ndarray) -> Tensor:
        place = (key, id(picture))
        if known is None:
            return preprocess(Image.fromarray(picture))
        if place not in known:
            known[place] = picture, preprocess(Image.fromarray(picture))
        return known[place][1]

    return torch.stack([look(picture) for picture in pictures])
