# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Gets the model inside its distributed wrapper."""

from __future__ import annotations

from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn


def unwrap(model: nn.Module) -> Any:
    """The model itself, whether or not a runner has wrapped it."""
    return model.module if is_model_wrapper(model) else model
