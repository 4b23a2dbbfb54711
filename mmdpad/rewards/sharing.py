# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Shares discriminators between terms, and preprocessed images between discriminators."""

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

# Models that are still referenced, by config and device.
_BUILT: WeakValueDictionary[Hashable, nn.Module] = WeakValueDictionary()
# (preprocessing, id of the image) -> the image, which keeps its id in use, and its pixels.
_Pixels = dict[tuple[Hashable, int], tuple[np.ndarray, Tensor]]
_PIXELS: ContextVar[_Pixels | None] = ContextVar('_PIXELS', default=None)


def build_discriminator(config: Mapping[str, Any],
                        device: str | torch.device | None = None) -> nn.Module:
    """Build a discriminator, or return the one with the same config that is in use on the device.

    If several terms or metrics name the same CLIP, its weights are in memory once, and they share
    its feature cache. The model is freed with its last user.

    Args:
        config: Config of a registered model, see :func:`discriminator_key`.
        device: Where it runs; default: mmengine's current device.

    Raises:
        KeyError: The type is not registered. Errors of the model itself are passed on.
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
    """Return the class, or its name if it is not registered, and its arguments.

    The key is equal for configs that build the same model: the type may be a class or a name, with
    or without a scope, and defaults may be written out or not.
    """
    given = {name: value for name, value in config.items() if name not in ('type', '_scope_')}
    kind = resolve(config, MODELS) or type_name(config)
    if callable(kind):
        try:
            bound = inspect.signature(kind).bind(**given)
        except TypeError:  # the model itself reports it
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
    """Keep the results of :func:`to_pixels` until the block ends, for other models with the same
    preprocessing."""
    token = _PIXELS.set({})
    try:
        yield
    finally:
        _PIXELS.reset(token)


def to_pixels(images: Sequence[np.ndarray], preprocess: Callable[[Image.Image], Tensor],
              key: Hashable) -> Tensor:
    """Preprocess P images for a model.

    Args:
        images: P uint8 arrays (h, w, 3), RGB.
        preprocess: Maps an image to a float (3, S, S) tensor.
        key: Identifies the preprocessing; equal keys mean equal results for every image.

    Returns:
        (P, 3, S, S) float on the CPU.
    """
    known = _PIXELS.get()

    def look(image: np.ndarray) -> Tensor:
        place = (key, id(image))
        if known is None:
            return preprocess(Image.fromarray(image))
        if place not in known:
            known[place] = image, preprocess(Image.fromarray(image))
        return known[place][1]

    return torch.stack([look(image) for image in images])
