# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A hook that writes down what a process takes, imported by name."""
import gc
import json
import time
from pathlib import Path

import psutil
from mmengine.hooks import Hook

from mmdpad.registry import HOOKS


@HOOKS.register_module()
class WatchHook(Hook):
    """Memory in MB (with what workers and the run share, counted once), open files, threads,
    objects of Python and seconds of every 10th iteration, to ``watched.jsonl``."""

    priority = 'LOWEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.start = time.perf_counter()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if (runner.iter + 1) % 10:
            return
        seconds = time.perf_counter() - self.start
        process = psutil.Process()
        with Path(runner.work_dir, 'watched.jsonl').open('a') as file:
            file.write(json.dumps(dict(
                iter=runner.iter + 1, seconds=seconds, memory=process.memory_info().rss / 2**20,
                files=process.num_fds(), threads=process.num_threads(),
                children=len(process.children(recursive=True)),
                objects=len(gc.get_objects()))) + '\n')
