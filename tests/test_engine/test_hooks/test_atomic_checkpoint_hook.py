# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import copy
import logging
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import FlexibleRunner, Runner

from mmdpad.engine.checkpoints import find_complete_checkpoint, read_meta
from mmdpad.engine.hooks import AtomicCheckpointHook


class Toy(BaseModel):
    """Trains without autograd, which refuses to work in a process forked after a backward pass."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(5000))

    def forward(self, inputs, mode='tensor'):
        return [inputs]

    def train_step(self, data, optim_wrapper):
        self.weight.grad = torch.ones_like(self.weight)
        optim_wrapper.step()
        return dict(loss=self.weight.detach().sum())


class Metric:
    """Scores that rise, so that each validation makes a best checkpoint and outdates another."""

    def __init__(self):
        self.score = 0

    def process(self, *args, **kwargs):
        pass

    def evaluate(self, size):
        self.score += 1
        return dict(score=self.score)


class EndHook(Hook):
    """Sends the process SIGTERM: in the middle of an iteration (from 0), or of a validation."""

    def __init__(self, iteration=None, validation=None, times=1):
        self.iteration, self.validation, self.times = iteration, validation, times

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            self.end()

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.validation and batch_idx == 2:
            self.end()

    def end(self):
        for _ in range(self.times):
            os.kill(os.getpid(), signal.SIGTERM)


def run(folder, max_keep_ckpts=1, interval=1, kind=Runner, **end):
    """Four iterations, a checkpoint after each and a validation after every second."""
    data = dict(batch_size=1, num_workers=0, dataset=[torch.ones(1)] * 8,
                sampler=dict(type='DefaultSampler', shuffle=False))
    runner = kind(
        model=Toy(), work_dir=str(folder), train_dataloader=data, val_dataloader=data,
        experiment_name=f'toy_{folder}', log_level='ERROR', default_scope='mmdpad',
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2),
        val_cfg=dict(), val_evaluator=dict(type='Evaluator', metrics=[]),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(
            checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=interval,
                            max_keep_ckpts=max_keep_ckpts, save_best='score', rule='greater'),
            safe_checkpoint=dict(type='SafeCheckpointHook')))
    runner.val_loop.evaluator = Metric()
    if end:
        runner.register_hook(EndHook(**end))
    runner.train()


@pytest.mark.parametrize('kind', [Runner, FlexibleRunner])
def test_a_checkpoint_of_a_validation_resumes_after_its_iteration(tmp_path, kind):
    """FlexibleRunner writes one more then, and a resumed run would leave an iteration out."""
    run(tmp_path, max_keep_ckpts=-1, kind=kind)
    names = {f'iter_{number}': number for number in range(1, 5)} | dict(best_score_iter_4=4)
    assert {name: read_meta(f'{tmp_path}/{name}.pth')['iter'] for name in names} == names


def killed_after(folder, steps) -> bool:
    """Run in a process that dies just before its n-th step on the disk; whether it did."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL)
        return status != 0
    left, status = [steps], 1

    def dying(step):
        def call(*args, **kwargs):
            if str(folder) in str(args[0]) or isinstance(args[0], int):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return step(*args, **kwargs)
        return call

    for name in ('replace', 'remove', 'fsync'):
        setattr(os, name, dying(getattr(os, name)))
    try:
        run(folder)
        status = 0
    finally:
        os._exit(status)


def test_whatever_step_is_the_last_the_files_are_complete_and_name_each_other(tmp_path):
    """Also with only one checkpoint kept."""
    for steps in range(100):
        folder = tmp_path / str(steps)
        killed = killed_after(folder, steps)
        files = sorted(path.name for path in folder.glob('*.pth'))
        path, faults = find_complete_checkpoint(str(folder))
        assert not faults
        for name in files:
            checkpoint = torch.load(folder / name, weights_only=True)
            best = checkpoint['message_hub']['runtime_info'].get('best_ckpt')
            if str(folder / name) == path:
                assert best is None or Path(best).is_file()
        last = folder / 'last_checkpoint'
        assert not last.exists() or Path(last.read_text()).is_file()
        if steps > 5:  # the first is written
            assert path is not None
        if not killed:
            break
    assert steps > 30 and files == ['best_score_iter_4.pth', 'iter_4.pth']


def test_a_validation_without_a_training(tiny_config):
    """Saves nothing; no other hook fails either."""
    tiny_config.val_dataloader, tiny_config.val_evaluator = (
        copy.deepcopy(tiny_config[f'test_{part}']) for part in ('dataloader', 'evaluator'))
    tiny_config.val_cfg = dict(type='ReasonSegValLoop')
    tiny_config.default_hooks.checkpoint.save_best = 'giou'
    runner = Runner.from_cfg(tiny_config)
    assert 'giou' in ' '.join(runner.val())
    assert not list(Path(runner.work_dir).glob('*.pth'))


def test_what_a_killed_run_left_unfinished_is_removed(tmp_path):
    (tmp_path / 'iter_7.pth.unfinished').write_bytes(b'half')
    run(tmp_path, max_keep_ckpts=2)
    assert sorted(path.name for path in tmp_path.glob('*.pth*')) == [
        'best_score_iter_4.pth', 'iter_3.pth', 'iter_4.pth']


@pytest.mark.parametrize('end, interval, written', [
    (dict(iteration=0), 100, {'iter_1.pth'}),  # by the signal
    (dict(iteration=2), 3, {'best_score_iter_2.pth', 'iter_3.pth'}),  # as it was due
    (dict(validation=2), 100, {'iter_2.pth'}),
    (dict(validation=4), 1, {'best_score_iter_2.pth', 'iter_4.pth'}),  # before the validation
])
def test_sigterm_ends_a_run_with_a_checkpoint(end, interval, written, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as error:
        run(tmp_path, interval=interval, **end)
    assert error.value.code == 143
    assert {path.name for path in tmp_path.glob('*.pth')} == written
    path, _ = find_complete_checkpoint(str(tmp_path))
    step = int(path[:-4].rsplit('_')[-1])
    assert torch.load(path, weights_only=True)['meta']['iter'] == step
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_sigterm_ends_it_at_once(tmp_path):
    if child := os.fork():
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert not list(tmp_path.glob('*.pth'))
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            run(tmp_path, interval=100, iteration=1, times=2)
        finally:
            os._exit(0)


def test_sigterm_is_as_before_when_a_run_is_over(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_failure_leaves_the_old_file(tmp_path):
    from mmdpad.utils.files import atomic_file
    (tmp_path / 'a').write_bytes(b'old')
    with pytest.raises(KeyError), atomic_file(tmp_path / 'a') as file:
        file.write(b'new')
        raise KeyError
    assert (tmp_path / 'a').read_bytes() == b'old' and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize('kept, own, forgotten', [
    ([['giou', 'greater']], ('giou', 'greater'), False),
    ([['giou', 'greater']], ('ciou', 'greater'), True),
    ([['giou', 'greater']], ('giou', 'less'), True),
    (None, ('giou', 'greater'), False)], ids=['same', 'metric', 'rule', 'older'])
def test_a_best_score_of_something_else_is_forgotten(tmp_path, caplog, kept, own, forgotten):
    """A resumed run that would compare cIoU with the best gIoU might never find a best one."""
    hub = MessageHub(f'best_{tmp_path}')
    hub.update_info_dict(dict(best_score=60.0, best_ckpt='best.pth', iter=3))
    if kept:
        hub.update_info('best_of', kept)
    hook = AtomicCheckpointHook(by_epoch=False, save_best=own[0], rule=own[1])
    runner = SimpleNamespace(message_hub=hub, logger=logging.getLogger('test'),
                             work_dir=str(tmp_path), timestamp='now')
    hook.before_train(runner)
    hook._stop.forget()
    assert ('best_score' not in hub.runtime_info) == forgotten == (hook.best_ckpt_path is None)
    assert hub.get_info('best_of') == [list(own)] and hub.get_info('iter') == 3
    assert ('is now' in caplog.text) == forgotten
