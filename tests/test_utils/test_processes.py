# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import gc
import weakref

import pytest

from mmdpad.utils import processes


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_says_how_to_start_processes(monkeypatch, launcher):
    for name in ('RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match='dist_train.sh.*not in the environment'):
        processes.join_processes(launcher)


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
