# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A hook by which the second process fails, or stops, in the third iteration, imported by name. By
then the first process has written the first checkpoint: they met in the second iteration."""
import os
import signal
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.hooks import Hook

from mmdpad.registry import HOOKS


@HOOKS.register_module()
class FailingHook(Hook):
    def __init__(self, by: str) -> None:
        self.by = by

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if get_rank() == 1 and runner.iter == 2:
            Path(runner.work_dir, 'died').touch()
            if self.by != 'raises':
                os.kill(os.getpid(), getattr(signal, self.by))
            raise RuntimeError('the second process has had enough')
