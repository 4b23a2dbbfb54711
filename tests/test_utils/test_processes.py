# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest

from mmdpad.utils.processes import join_processes


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_says_how_to_start_processes(monkeypatch, launcher):
    for name in ('RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match='dist_train.sh.*not in the environment'):
        join_processes(launcher)
