# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import subprocess
import sys
import time

import psutil
import pytest
import torch
from torch import nn

from mmdpad.utils import threads
from mmdpad.utils.threads import FreeCores, follow_free_cores

BUSY = 'import time; end = time.monotonic() + 60\nwhile time.monotonic() < end: pass'


@pytest.fixture(autouse=True)
def four_threads(monkeypatch):
    """A user who has set nothing, on a machine where torch takes four threads."""
    for name in threads.SET_BY_USERS:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(('idle', 'own', 'expected'), [
    (40.0, 0.0, 4),  # in 10 seconds of four cores: all of it
    (0.0, 40.0, 4),  # our threads, spinning or not
    (10.0, 20.0, 3),  # one other program
    (24.0, 10.0, 3),  # several, six tenths of a core together
    (26.0, 10.0, 4),  # four tenths
    (0.0, 12.0, 1),
    (0.0, 2.0, 1),  # many others: never none
    (400.0, 0.0, 4),  # a machine of many cores: never more than at first
])
def test_threads_follow_the_free_cores(monkeypatch, idle, own, expected):
    monkeypatch.setattr(threads, '_times', lambda: (100.0, 1000.0, 50.0))
    cores = FreeCores()
    assert cores.most == 4
    monkeypatch.setattr(threads, '_times', lambda: (110.0, 1000.0 + idle, 50.0 + own))
    assert cores.adapt() == torch.get_num_threads() == expected


def test_they_come_back_when_the_others_end(monkeypatch):
    clock = iter([(0.0, 0.0, 0.0), (1.0, 0.0, 1.0), (1.1, 0.4, 1.0), (2.0, 3.0, 2.0)])
    monkeypatch.setattr(threads, '_times', lambda: next(clock))
    cores = FreeCores()
    assert cores.adapt() == 1
    assert cores.adapt() == 1  # a tenth of a second later: too short to tell
    assert cores.adapt() == 4


def test_a_block_leaves_the_process_as_it_was(monkeypatch):
    clock = iter([(0.0, 0.0, 0.0), (1.0, 0.0, 1.0)])
    monkeypatch.setattr(threads, '_times', lambda: next(clock))
    with pytest.raises(KeyError), FreeCores().adapted():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 4


def test_a_real_busy_process_is_seen():
    cores = psutil.cpu_count()
    watch = FreeCores(most=cores)
    process = subprocess.Popen([sys.executable, '-c', BUSY] if cores > 1 else ['sleep', '60'])
    try:
        time.sleep(1)
        assert 1 <= watch.adapt() <= max(1, cores - 1)
    finally:
        process.kill()
        process.wait()


def test_cores_that_a_container_numbers_anew_are_counted(monkeypatch):
    """LXC shows the cores 2 and 3 of a machine as 0 and 1."""
    times = psutil.cpu_times()._replace(idle=50.0)
    monkeypatch.setattr(psutil, 'cpu_times', lambda percpu: [times] * 2)
    monkeypatch.setattr(threads.os, 'sched_getaffinity', lambda _: {2, 3}, raising=False)
    idle = threads._times()[1]
    assert idle >= 100.0
    monkeypatch.setattr(threads.os, 'sched_getaffinity', lambda _: {1}, raising=False)
    assert threads._times()[1] == idle / 2


def test_nothing_is_followed_where_idle_time_is_not_counted(monkeypatch):
    """gVisor's /proc/stat is all zeros: one thread for ever, by it."""
    monkeypatch.setattr(threads, '_times', lambda: (100.0, 0.0, 50.0))
    assert follow_free_cores(nn.Linear(2, 2)) is None


def test_what_a_user_has_set_stays(monkeypatch):
    model = nn.Linear(2, 2)
    assert isinstance(follow_free_cores(model), FreeCores)
    for name in threads.SET_BY_USERS:
        with monkeypatch.context() as context:
            context.setenv(name, '4')
            assert follow_free_cores(model) is None


def test_only_tiny_models_on_a_cpu_with_several_threads(monkeypatch):
    assert follow_free_cores(nn.Linear(2, 2, device='meta')) is None
    with monkeypatch.context() as context:
        context.setattr(threads, 'TINY', 6)
        assert follow_free_cores(nn.Linear(2, 2)) is None
        context.setattr(threads, 'TINY', 7)
        assert follow_free_cores(nn.Linear(2, 2)) is not None
    torch.set_num_threads(1)
    assert follow_free_cores(nn.Linear(2, 2)) is None
