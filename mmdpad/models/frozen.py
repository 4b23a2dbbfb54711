# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The base class of models that are never trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mmdpad.models.feature_cache import FeatureCache
from mmdpad.models.non_finite import non_finite_weights


class FrozenModule(nn.Module):
    """A module that stays in evaluation mode and whose parameters get no gradients.

    A subclass calls :meth:`freeze` at the end of its ``__init__``. Calling ``train()`` on a parent
    leaves it in evaluation mode. Moving, casting or loading weights into the module or a parent
    empties ``feature_cache``; code that changes only a submodule must clear it explicitly.

    Args:
        cache_size: Capacity of ``feature_cache``; see :class:`FeatureCache`.
    """

    def __init__(self, cache_size: int = 0) -> None:
        super().__init__()
        self.feature_cache = FeatureCache(cache_size)

    def freeze(self) -> None:
        """Freeze all weights.

        Raises:
            ValueError: Some are NaN or infinite. The scores of such a model would fail every
                threshold.
        """
        if bad := non_finite_weights(self):
            raise ValueError(f'{type(self).__name__} should have finite weights, but {len(bad)} '
                             f'are NaN or infinite, for example {bad[0]}; the file is damaged, so '
                             f'download it again')
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenModule:
        return super().train(False)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def _apply(self, *args: Any, **kwargs: Any) -> FrozenModule:
        self.feature_cache.clear()
        return super()._apply(*args, **kwargs)

    # Not load_state_dict: a parent's and mmengine's loader call only this method.
    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.feature_cache.clear()
        super()._load_from_state_dict(*args, **kwargs)
