# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Chooses the answer whose masks the decoder rates highest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmdpad.registry import MODELS
from mmdpad.tasks import Task

from .selector import Asked, Selector, check_masks


@MODELS.register_module()
class DecoderScoreSelector(Selector):
    """The decoder's own score of a mask, averaged over the objects of an answer; of SAM, the IoU
    that it predicts for the mask, about in [0, 1] (arXiv 2304.02643).

    An answer that names no object has no value. Decoders without scores of their own give every
    mask the same (:class:`mmdpad.models.BoxDecoder`), and then the first answer wins.
    """

    name = 'decoder_score'

    def check_tasks(self, tasks: Mapping[str, Task]) -> None:
        """See :class:`Selector`."""
        check_masks(self.name, tasks)

    def measure(self, asked: Sequence[Asked], policy: Any) -> list[np.ndarray]:
        """See :class:`Selector`."""
        return [np.array([float(own.instances.scores.double().mean())
                          if own.usable and len(own.instances) else np.nan
                          for own in one.candidates]) for one in asked]
