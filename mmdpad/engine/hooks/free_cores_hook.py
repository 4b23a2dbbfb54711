# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Adapts the thread count of tiny models on a machine that is shared with other programs."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner

from mmdpad.registry import HOOKS
from mmdpad.utils.threads import FreeCores, follow_free_cores


@HOOKS.register_module()
class FreeCoresHook(Hook):
    """Adapts the number of torch's threads to the cores that other programs leave free, before
    each iteration and each update (:class:`mmdpad.utils.threads.FreeCores`). It only applies to
    tiny models on a CPU (:func:`mmdpad.utils.threads.follow_free_cores`).
    """

    def __init__(self) -> None:
        self._cores: FreeCores | None = None

    def before_run(self, runner: Runner) -> None:
        """Check whether the model is tiny and on a CPU."""
        self._cores = follow_free_cores(runner.model)

    def after_run(self, runner: Runner) -> None:
        """Restore the number of threads."""
        if self._cores is not None:
            self._cores.restore()

    def before_update(self, runner: Runner, rollout: Any) -> None:
        """See :class:`.GRPOTrainLoop`."""
        self._before_iter(runner, 0)

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None,
                     mode: str = 'train') -> None:
        if self._cores is not None:
            self._cores.adapt()
