# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""One model for all terms with the same discriminator, one look at a picture for all models."""

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

# Those that somebody still holds, by their config and device.
_BUILT: WeakValueDictionary[Hashable, nn.Module] = WeakValueDictionary()
# Preprocessing and picture -> the picture, so that its id stays taken, and its pixels.
_Pixels = dict[tuple[Hashable, int], tuple[np.ndarray, Tensor]]
_PIXELS: ContextVar[_Pixels | None] = ContextVar('_PIXELS', default=None)


def build_discriminator(config: Mapping[str, Any],
                        device: str | torch.device | None = None) -> nn.Module:
    """A discriminator; where one of the same config is in use on the device, that very model.

    So the weights of a CLIP that several terms or metrics name are in memory once, and its feature
    cache serves all of them. It is gone when the last of its users is.

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

    Equal for configs that build the same model, whether its type is a class or its name, with
    or without a scope, and whether defaults are written out or not.
    """
    given = {name: value for name, value in config.items() if name not in ('type', '_scope_')}
    kind = resolve(config, MODELS) or type_name(config)
    if callable(kind):
        try:
            bound = inspect.signature(kind).bind(**given)
        except TypeError:  # for the model itself to refuse
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
    """What :func:`to_pixels` makes within is kept until the end, for other models that prepare
    pictures alike."""
    token = _PIXELS.set({})
    try:
        yield
    finally:
        _PIXELS.reset(token)


def to_pixels(pictures: Sequence[np.ndarray], preprocess: Callable[[Image.Image], Tensor],
              key: Hashable) -> Tensor:
    """P pictures as a model sees them.

    Args:
        pictures: uint8 (h, w, 3), RGB.
        preprocess: Makes a float (3, S, S) tensor of a picture.
        key: Equal for preprocessing that makes the same of every picture.

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
