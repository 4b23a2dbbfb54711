# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import gc
import os
import weakref

import pytest

from mmdpad.utils import processes


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_says_how_to_start_processes(monkeypatch, launcher):
    for name in ('RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match='dist_train.sh.*not in the environment'):
        processes.join_processes(launcher)


@pytest.mark.parametrize('said, here', [
    (dict(), 7), (dict(NTASKS_PER_NODE='4'), 4),
    (dict(TASKS_PER_NODE='3(x2),1', NODEID='0'), 3),
    (dict(TASKS_PER_NODE='3(x2),1', NODEID='2', NTASKS_PER_NODE='4'), 1),
    (dict(TASKS_PER_NODE='8', STEP_TASKS_PER_NODE='5,2', NODEID='1'), 2)])
def test_the_processes_of_a_machine_are_counted_under_slurm(monkeypatch, said, here):
    """As torchrun counts them; they share the memory of a CPU."""
    joined = []
    monkeypatch.setattr(processes.dist, 'init_process_group', lambda *_, **__: joined.append(
        os.environ['LOCAL_WORLD_SIZE']))
    monkeypatch.setattr(processes.atexit, 'register', lambda _: None)
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'MASTER_PORT'):
        monkeypatch.setenv(name, '')  # restored afterwards
    monkeypatch.setenv('MASTER_ADDR', 'here')
    for name in [name for name in os.environ if name.startswith('SLURM_')]:
        monkeypatch.delenv(name)
    for name, value in dict(PROCID='1', NTASKS='7', LOCALID='1', **said).items():
        monkeypatch.setenv(f'SLURM_{name}', value)
    processes.join_processes('slurm')
    assert joined == [str(here)]


def test_what_holds_a_group_goes_before_it(monkeypatch):
    """Such as a model in parts, which belongs to a cycle."""
    class Model:
        pass
    seen, model = [], Model()
    model.itself, there = model, weakref.ref(model)
    monkeypatch.setattr('torch.distributed.destroy_process_group', lambda: seen.append(there()))
    gc.disable()
    try:
        del model
        assert there() is not None
        processes._part()
    finally:
        gc.enable()
    assert seen == [None]
