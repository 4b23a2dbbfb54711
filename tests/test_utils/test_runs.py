# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import os
import subprocess
import sys

import pytest

from mmdpad.utils import (
    answer_pictures,
    lock_work_dir,
    raised_alarms,
    rollout_logs,
    training_logs,
)

HOLDER = '''
import os, sys, time
from mmdpad.utils import lock_work_dir
with lock_work_dir(sys.argv[1]):
    worker = os.fork()
    if worker:
        print(worker, flush=True)
    time.sleep(100)
'''


@pytest.mark.promise('Training', 'Two runs are started on one work dir',
                     'the second is refused and told which process holds it; the lock ends with '
                     'the first run, however that ends')
def test_a_work_dir_is_one_training_s_until_that_ends(tmp_path, tried):
    holder = subprocess.Popen([sys.executable, '-c', HOLDER, tmp_path / 'new/run'],
                              stdout=subprocess.PIPE, text=True)
    worker = int(holder.stdout.readline())
    try:
        with (pytest.raises(SystemExit, match=rf"another training writes to '\S+new/run' \(process "
                                              rf'{holder.pid} on \S+, since 2\d'),
              lock_work_dir(tmp_path / 'new/run')):
            pytest.fail('it was let in')
        with lock_work_dir(tmp_path / 'new'):
            pass
        holder.kill()
        holder.wait()
        with lock_work_dir(tmp_path / 'new/run'):  # though a worker of the killed one continues
            assert f'process {os.getpid()}' in (tmp_path / 'new/run/.lock').read_text()
    finally:
        os.kill(worker, 9)
        holder.kill()
        holder.stdout.close()
    tried('the first killed by SIGKILL while one of its workers survives')


@pytest.mark.promise('Training', 'The work dir becomes read-only, or is read-only from the start',
                     'the run ends and says so, at the start in one line; --resume ends as if '
                     'nothing had happened')
def test_a_work_dir_that_cannot_be_is_reported(tmp_path):
    (tmp_path / 'file').touch()
    with (pytest.raises(SystemExit, match='cannot be written to .*--work-dir'),
          lock_work_dir(tmp_path / 'file' / 'run')):
        pytest.fail('it was let in')


def test_files_of_a_run_are_found_in_the_order_of_time(tmp_path):
    for start, content in (('2', 'b'), ('1', 'a'), ('3', '')):
        folder = tmp_path / start / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text(content)
        (tmp_path / start / 'rollouts.jsonl').write_text('')
    assert [path.read_text() for path in training_logs(tmp_path)] == ['a', 'b'], 'no empty one'
    assert [path.parent.name for path in rollout_logs(tmp_path)] == ['1', '2', '3']
    assert training_logs(tmp_path / 'none') == rollout_logs(tmp_path / 'none') == []


def test_an_alarm_that_is_raised_again_counts_once(tmp_path):
    line = '2026/11/26 10:56:47 - mmengine - WARNING - Alarm {}\n'
    for start, alarms in (('1', ['b (x): 1', 'a (y): 2']), ('2', ['b (x): 1', 'c (z): 3'])):
        (tmp_path / start).mkdir()
        (tmp_path / start / f'{start}.log').write_text(
            'INFO - Alarm none\n' + ''.join(map(line.format, alarms)))
    assert raised_alarms(tmp_path) == ['b (x): 1', 'a (y): 2', 'c (z): 3']


def test_pictures_of_validations_by_sample_and_iteration(tmp_path):
    for start, names in (('1', ['val_answer_0010_9', 'val_answer_0010_20', 'test_answer_0010_0']),
                         ('2', ['val_answer_0010_20', 'val_answer_0002_20', 'other_1_2'])):
        folder = tmp_path / start / 'vis_data/vis_image'
        folder.mkdir(parents=True)
        for name in names:
            (folder / f'{name}.png').touch()
    found = answer_pictures(tmp_path)
    assert list(found) == [2, 10] and list(found[10]) == [9, 20], 'as numbers'
    assert found[10][20].parts[-4] == '2', 'of the later start'
