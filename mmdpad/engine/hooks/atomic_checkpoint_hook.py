# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checkpoints that survive a kill at any moment."""

from __future__ import annotations

import os.path as osp
import shutil
from pathlib import Path
from typing import Any

from mmengine.dist import is_distributed, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmdpad.engine.checkpoints import written_atomically
from mmdpad.engine.stopping import STATUS, StopRequest
from mmdpad.registry import HOOKS
from mmdpad.utils.files import UNFINISHED, atomic_file


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, with every file either complete or absent.

    A checkpoint is written to a temporary name, directly to disk without a copy in memory, and
    renamed when it is complete; so is ``last_checkpoint``, after the file that it names. Only then
    are the files removed that ``max_keep_ckpts`` and ``save_best`` no longer need. A process that
    is killed at any point leaves the last and the best checkpoint complete and consistent. The next
    run removes unfinished files of a killed process.

    A run that receives SIGTERM finishes its iteration (or, on one process, the batch of a
    validation), writes a checkpoint and exits with status 143; a second SIGTERM ends it at once.
    This does not apply if checkpoints are counted ``by_epoch``.

    Args:
        **kwargs: As in mmengine's hook.
    """

    file_backend: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stop = StopRequest()
        self._in_training = False
        self._progress: dict[str, int] = {}

    def before_train(self, runner: Runner) -> None:
        """Restore the record of the resumed run's files, and remove unfinished ones."""
        self._in_training = True
        self._forget_another_best(runner)
        super().before_train(runner)
        self.file_backend = _LateRemoval(self.file_backend)
        self.last_ckpt = runner.message_hub.get_info('last_ckpt')
        if is_main_process():
            for path in Path(self.out_dir).glob(f'*{UNFINISHED}'):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not self.by_epoch:
            self._stop.listen()

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint if one is due, or a final one if the run has to stop."""
        super().after_train_iter(runner, *args, **kwargs)
        self._end_if_told(runner, runner.iter + 1)

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """End the run if requested. Several processes may have different numbers of batches, so
        they cannot synchronize here."""
        if not is_distributed():
            self._end_if_told(runner, runner.iter)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Save the best checkpoint; nothing in a validation by itself (``Runner.val``), for which
        mmengine's hook is not set up."""
        if self._in_training:
            super().after_val_epoch(runner, metrics)

    def before_val(self, runner: Runner) -> None:
        """Note how far the training is, for the best checkpoint."""
        self._progress = dict(epoch=runner.epoch, iter=runner.iter)

    def after_val(self, runner: Runner) -> None:
        """The training goes on."""
        self._progress = {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Correct what mmengine's FlexibleRunner writes in a validation: it counts the next
        iteration, which a resumed run would then leave out."""
        checkpoint['meta'].update(self._progress)

    def after_train(self, runner: Runner) -> None:
        """Training ended normally; stop listening."""
        super().after_train(runner)
        self._stop.forget()

    def _forget_another_best(self, runner: Runner) -> None:
        """Drop the best score of another metric or rule, which mmengine would keep."""
        hub = runner.message_hub
        own = None if self.save_best is None else [
            list(pair) for pair in zip(self.key_indicators, self.rules, strict=True)]
        before = hub.get_info('best_of', own)
        if before != own:
            runner.logger.warning(f'The best score so far is of {before}, but `save_best` is now '
                                  f'{own}: best scores start over with the next validation')
            for name in [name for name in hub.runtime_info if name.startswith('best_')]:
                hub.pop_info(name)
        hub.update_info('best_of', own)

    def _end_if_told(self, runner: Runner, step: int) -> None:
        if self.by_epoch or not self._stop.anywhere():
            return
        if Path(self.last_ckpt or '').name != self.filename_tmpl.format(step):
            self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=step))
        runner.logger.warning(f'Ended by SIGTERM after iteration {step}; continue with --resume')
        runner.visualizer.close()
        raise SystemExit(STATUS)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        join, hub = self.file_backend.join_path, runner.message_hub
        if self.max_keep_ckpts > 0 and step not in list(self.keep_ckpt_ids)[-1:]:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                self.file_backend.remove(
                    join(self.out_dir, self.filename_tmpl.format(self.keep_ckpt_ids[0])))
            self.keep_ckpt_ids.append(step)  # at its maximal length it drops the first
            hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = join(self.out_dir, name)
        hub.update_info('last_ckpt', self.last_ckpt)
        with written_atomically():
            runner.save_checkpoint(
                self.out_dir, name, self.file_client_args, save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler, meta=meta, by_epoch=self.by_epoch,
                backend_args=self.backend_args, **self.args)
        if is_main_process():
            with atomic_file(osp.join(runner.work_dir, 'last_checkpoint')) as file:
                file.write(self.last_ckpt.encode())
            self.file_backend.settle()
            self._warn_of_a_full_disk(runner)

    def _warn_of_a_full_disk(self, runner: Runner) -> None:
        """Warn early: the next checkpoint is as large as the last."""
        if not osp.isfile(self.last_ckpt):
            return  # not on a local disk, or a folder of shards
        size, free = osp.getsize(self.last_ckpt), shutil.disk_usage(self.out_dir).free
        if free < size:
            runner.logger.warning(
                f'{self.out_dir} has {free / 1e9:.2f} GB left, and a checkpoint takes '
                f'{size / 1e9:.2f} GB: make room, or the next one ends the run')

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with written_atomically():
            super()._save_best_checkpoint(runner, metrics)
        if is_main_process():
            self.file_backend.settle()


class _LateRemoval:
    """A file backend that defers removals until :meth:`settle`."""

    def __init__(self, backend: Any) -> None:
        self._backend, self._outdated = backend, list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._outdated.append(path)

    rmtree = remove

    def settle(self) -> None:
        """Remove outdated files and folders of shards."""
        while self._outdated:
            path = self._outdated.pop()
            if self._backend.isfile(path):
                self._backend.remove(path)
            elif self._backend.isdir(path):
                self._backend.rmtree(path)
