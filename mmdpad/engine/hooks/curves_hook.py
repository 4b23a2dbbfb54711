# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Training curves at the end of a run."""

from __future__ import annotations

import os.path as osp

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdpad.registry import HOOKS
from mmdpad.utils import training_logs
from mmdpad.visualization import plot_curves


@HOOKS.register_module()
class CurvesHook(Hook):
    """Draws ``curves.png`` in the run's log directory when training ends
    (:func:`mmdpad.visualization.plot_curves`): reward and its terms, reasoning length, KL, entropy,
    validation IoU. It reads all logs of the work dir, so a resumed run has its curves from the
    start.

    It needs the files of ``LocalVisBackend``. Without them, or if they have none of these numbers,
    it draws nothing, and the log says so.
    """

    priority = 'VERY_LOW'  # after everything is logged

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Draw them."""
        try:
            where = plot_curves([str(log) for log in training_logs(runner.work_dir)],
                                osp.join(runner.log_dir, 'curves.png'))
        except ValueError as error:
            runner.logger.info(f'No training curves are drawn: {error}')
        else:
            runner.logger.info(f'Training curves: {where}')
