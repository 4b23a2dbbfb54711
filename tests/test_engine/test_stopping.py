# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import os
import signal
import threading

import pytest
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmdpad.engine.stopping import StopRequest, shield_workers


class Groups:
    """Items are the process group of the worker that loads them, and what it started with."""
    started = None

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return os.getpgrp(), os.getpid(), Groups.started


def start(worker):
    Groups.started = worker


def test_workers_are_groups_of_their_own_and_start_as_they_did():
    class Building:
        build_dataloader = staticmethod(lambda init: DataLoader(
            Groups(), num_workers=1, worker_init_fn=init, collate_fn=list))
    runner = Building()
    shield_workers(runner)
    for init, started in ((start, 0), (None, None)):
        for (group, process, found), in runner.build_dataloader(init):
            assert group == process != os.getpgrp() and found == started


def test_every_runner_of_ours_is_shielded(tiny_config):
    from mmdpad.engine.build import build_runner
    runner = build_runner(tiny_config)
    assert runner.build_dataloader is not Runner.build_dataloader


def test_a_signal_is_remembered_and_the_next_one_does_what_it_did():
    got = []
    before = signal.signal(signal.SIGTERM, lambda *_: got.append('before'))
    try:
        request = StopRequest()
        request.listen()
        assert not request.anywhere()
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.anywhere() and not got
        os.kill(os.getpid(), signal.SIGTERM)
        assert got == ['before']
        request.forget()  # once more does nothing
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_thread_cannot_listen_and_continues():
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=StopRequest().listen)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_training_that_fails_leaves_no_handler(tiny_config):
    from mmdpad.engine.build import build_runner
    runner = build_runner(tiny_config)
    before, while_training = signal.getsignal(signal.SIGTERM), []

    def fail(*_):
        while_training.append(signal.getsignal(signal.SIGTERM))
        raise RuntimeError('no')
    runner.train_loop.run_iter = fail
    with pytest.raises(RuntimeError, match='no'):
        runner.train()
    assert while_training[0] != before and signal.getsignal(signal.SIGTERM) is before
