# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The scripts that start several processes, and how they end."""
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import NOISE, ROOT, environment, farthest, launch, run_here, weights_of

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.promise('Training', 'One of several processes dies or hangs',
                     'all end within a minute, or `env_cfg.dist_cfg.timeout` seconds and half a '
                     'minute; --resume continues from the last checkpoint')
@pytest.mark.parametrize('by', ['raises', 'SIGKILL', 'SIGSTOP'])
def test_a_process_that_dies_or_hangs_ends_the_job(make_config, tmp_path, by, tried):
    """With its traceback; the checkpoint before it is complete and can be resumed."""
    config = make_config('dies', processes=2, iterations=3)
    config.custom_imports = dict(imports=['failing_hook'])
    config.custom_hooks.append(dict(type='FailingHook', by=by))
    if by == 'SIGSTOP':
        config.env_cfg.dist_cfg.timeout = 20
    result = launch(config, 2, check=False,
                    PYTHONPATH=os.pathsep.join([str(HERE), os.environ.get('PYTHONPATH', '')]))
    seconds = time.time() - (tmp_path / 'dies/died').stat().st_mtime
    assert seconds < (90 if by == 'SIGSTOP' else 60)
    assert result.returncode != 0
    told = dict(raises='the second process has had enough', SIGKILL='SIGKILL',
                SIGSTOP='Timed out waiting 20000ms')
    assert told[by] in result.stderr
    assert not (tmp_path / 'dies/iter_3.pth').exists()
    resumed = make_config('goes_on', load_from=str(tmp_path / 'dies/iter_1.pth'), resume=True)
    assert farthest(run_here(resumed), run_here(make_config('one'))) < 1e-12
    tried(f'{by}: over after {seconds:.0f} s')


@pytest.mark.slow
@pytest.mark.parametrize('lora', [None, dict(r=4, lora_alpha=8)], ids=['all', 'lora'])
def test_data_parallel_processes_equal_one(make_config, lora):
    changes = {'model.policy.lora': lora} if lora else {}
    whole = run_here(make_config('one', **changes))
    config = make_config('four', processes=4, **changes)
    launch(config, 4)
    assert farthest(weights_of(Path(config.work_dir, 'iter_2.pth')), whole) < NOISE[bool(lora)]


@pytest.mark.slow
def test_two_machines(make_config, tmp_path):
    """Two launchers that meet at one address, one process each."""
    config = make_config('machines', processes=2)
    config.dump(tmp_path / 'config.py')
    variables = environment(NNODES='2')
    nodes = [subprocess.Popen(
        ['tools/dist_train.sh', str(tmp_path / 'config.py'), '1', '--work-dir', config.work_dir],
        cwd=ROOT, env=dict(variables, NODE_RANK=str(rank)), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True) for rank in range(2)]
    try:
        errors = [node.communicate(timeout=200)[1] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], errors[0][-3000:] + errors[1][-3000:]
    state = weights_of(Path(config.work_dir, 'iter_2.pth'))
    assert farthest(state, run_here(make_config('one'))) < 1e-12


def fake(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f'#!/usr/bin/env bash\n{text}\n')
    (folder / name).chmod(0o755)


def slurm(folder, script, *arguments, **variables):
    path = os.pathsep.join([str(folder), os.environ['PATH']])
    return subprocess.run([f'tools/slurm_{script}.sh', *arguments], cwd=ROOT, capture_output=True,
                          text=True, timeout=200, env=environment(PATH=path, **variables))


@pytest.mark.parametrize('variables, expected', [
    ({}, ['--ntasks=8', '--gres=gpu:8', '--ntasks-per-node=8', '--cpus-per-task=5']),
    (dict(GPUS='16', GPUS_PER_NODE='4', CPUS_PER_TASK='2', SRUN_ARGS='--mem 9 --exclusive'),
     ['--ntasks=16', '--gres=gpu:4', '--ntasks-per-node=4', '--cpus-per-task=2', '--mem',
      '--exclusive']),
    (dict(GPUS='2', GPUS_PER_NODE='0'), ['--ntasks=2'])])
def test_what_slurm_is_asked_for(tmp_path, variables, expected):
    fake(tmp_path, 'srun', 'printf "%s\\n" "$@"')
    asked = slurm(tmp_path, 'train', 'part', 'job', 'a config.py', '--resume',
                  **variables).stdout.splitlines()
    assert asked[:2] == ['-p', 'part'] and '--job-name=job' in asked
    assert set(expected) <= set(asked)
    assert ('--gres' in ''.join(asked)) == ('--gres' in ''.join(expected))
    assert asked[-6:] == ['-u', str(ROOT / 'tools/train.py'), 'a config.py', '--resume',
                          '--launcher', 'slurm']


@pytest.mark.slow
def test_slurm_without_gpus(make_config, tmp_path):
    """A fake srun that starts the tasks here with Slurm's variables."""
    fake(tmp_path / 'bin', 'scontrol', 'echo 127.0.0.1')
    fake(tmp_path / 'bin', 'srun', f'''while [ "$1" != {sys.executable} ]; do shift; done
export SLURM_NTASKS=2 SLURM_NODELIST=here
for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & pids+=($!); done
for pid in "${{pids[@]}}"; do wait "$pid" || exit 1; done''')
    config = make_config('slurm', processes=2)
    config.dump(tmp_path / 'config.py')
    result = slurm(tmp_path / 'bin', 'train', 'part', 'job', str(tmp_path / 'config.py'),
                   '--work-dir', config.work_dir, GPUS='2', GPUS_PER_NODE='0',
                   MASTER_PORT=environment()['PORT'])
    assert result.returncode == 0, result.stderr[-3000:]
    state = weights_of(Path(config.work_dir, 'iter_2.pth'))
    assert farthest(state, run_here(make_config('one'))) < 1e-12


@pytest.mark.parametrize('script', ['dist_train', 'dist_test', 'slurm_train', 'slurm_test'])
def test_too_few_arguments_show_the_usage(script):
    result = subprocess.run([f'tools/{script}.sh', 'config.py'], cwd=ROOT, capture_output=True,
                            text=True)
    assert result.returncode == 2 and 'usage: ' in result.stderr
