# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Models that are used and never trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mmdpad.models.feature_cache import FeatureCache
from mmdpad.models.non_finite import non_finite_weights


class FrozenModule(nn.Module):
    """A module that stays in evaluation mode and whose parameters take no gradient.

    A subclass calls :meth:`freeze` at the end of its ``__init__``. ``train()`` of a parent leaves
    it in evaluation mode. ``feature_cache`` is emptied when the module, alone or within a parent,
    is moved, cast or gets weights; whoever changes one of its parts alone empties it by hand.

    Args:
        cache_size: Capacity of ``feature_cache``; see :class:`FeatureCache`.
    """

    def __init__(self, cache_size: int = 0) -> None:
        super().__init__()
        self.feature_cache = FeatureCache(cache_size)

    def freeze(self) -> None:
        """Freeze all weights.

        Raises:
            ValueError: Some are NaN or infinite. Scores of such a model would fail every comparison
                with a threshold.
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

    # Not load_state_dict: a parent's, and mmengine's own loader, call only this one.
    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.feature_cache.clear()
        super()._load_from_state_dict(*args, **kwargs)
