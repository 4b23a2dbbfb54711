# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The oldest and the newest versions that mmdpad admits, each in an environment of its own.

Takes 8 GB of disk while it runs, a package index, and the first time a build of mmcv for each
end: minutes, kept in the user cache as those of `mmdpad build-mmcv` are. The Pythons are the oldest
and the newest supported ones on the PATH.
"""
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import set_up
from mmcv_recipe import MMCV_VERSION
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ('tests/test_structures', 'tests/test_prompts', 'tests/test_rewards', 'tests/test_rl',
          'tests/test_models/test_weights.py', 'tests/test_models/test_heads',
          'tests/test_models/test_discriminators')
SHOWN = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'transformers', 'open_clip_torch', 'peft',
         'pillow', 'gradio')
# Of a version of mmcv that the tool for users does not build.
BUILD_MMCV = '''
import sys
sys.path.insert(0, 'tools/set_up')
import build_mmcv, mmcv_recipe
mmcv_recipe.MMCV_VERSION = sys.argv[1]
build_mmcv.main(['--cpu'])
'''


def lower_bounds() -> dict[str, str]:
    """The oldest version of each package that setup.py asks for one of."""
    with patch('setuptools.setup') as setup:
        runpy.run_path(str(ROOT / 'setup.py'))
    arguments = setup.call_args.kwargs
    mmcv = 'mmcv' + runpy.run_path(str(ROOT / 'mmdpad/version.py'))['REQUIRED']['mmcv']
    lines = [*arguments['install_requires'], *arguments['extras_require']['dev'], mmcv]
    return {requirement.name: bound.version for requirement in map(Requirement, lines)
            for bound in requirement.specifier if bound.operator == '>='}


class Environment:
    """An environment with the packages of one end; `run` gives a command's output."""

    def __init__(self, folder: Path, end: str) -> None:
        self.folder, self.seconds = folder, {}
        self.environ = dict(os.environ, PATH=f'{folder}/bin:{os.environ["PATH"]}',
                            PIP_NO_CACHE_DIR='1', PIP_DISABLE_PIP_VERSION_CHECK='1')
        del self.environ['PYTHONPATH']  # where conftest.py closes the network
        oldest = end == 'oldest'
        versions = sorted(set_up.PYTHONS, reverse=not oldest)
        found = (shutil.which('python{}.{}'.format(*version)) for version in versions)
        python = next((path for path in found if path and set_up.ask_python(path)[1] is None),
                      sys.executable)
        bounds = lower_bounds() if oldest else {}
        mmcv = bounds.pop('mmcv', MMCV_VERSION)
        constraints = folder.with_suffix('.txt')
        constraints.write_text(''.join(f'{name}=={bound}\n' for name, bound in bounds.items()))
        self.call('install', python, '-m', 'venv', folder)
        pip = ('python', '-m', 'pip', 'install', '-q', '--progress-bar', 'off', '-c', constraints)
        self.call('install', *pip, 'setuptools>=64,<82', 'wheel', 'ninja', 'torch', 'torchvision')
        self.call('install', *pip, '--no-build-isolation', '-e', f'{ROOT}[dev]')
        self.call('mmcv', 'python', '-c', BUILD_MMCV, mmcv)

    def call(self, step: str, *command: object) -> str:
        started = time.monotonic()
        told = subprocess.run(list(map(str, command)), cwd=ROOT, env=self.environ, text=True,
                              capture_output=True)
        assert told.returncode == 0, f'{command}:\n{told.stdout[-4000:]}\n{told.stderr[-4000:]}'
        self.seconds[step] = self.seconds.get(step, 0) + time.monotonic() - started
        return told.stdout


@pytest.fixture
def index(tmp_path):
    """Skips where no package index can be reached; gives variables without the closed network."""
    probe = [sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '--retries', '0',
             '--timeout', '10', '-d', str(tmp_path), 'termcolor==2.1.0']
    environ = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    if subprocess.run(probe, env=environ, stdout=subprocess.DEVNULL,
                      stderr=subprocess.DEVNULL).returncode:
        pytest.skip('no package index can be reached')
    return environ


@pytest.mark.slow
@pytest.mark.parametrize('version', set_up.PYTHONS, ids='{0[0]}.{0[1]}'.format)
def test_the_pins_can_be_had_together_for_each_python(version, index, tmp_path):
    python = shutil.which('python{}.{}'.format(*version))
    if not python or set_up.ask_python(python)[1] is not None:
        pytest.skip('no such Python on the PATH')
    told = subprocess.run(
        [python, '-m', 'pip', 'install', '--dry-run', '--ignore-installed', '--target', tmp_path,
         '-c', ROOT / 'tools/set_up/constraints.txt', 'torch', 'torchvision', f'{ROOT}[dev]'],
        env=index, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-2000:]


@pytest.fixture(params=['oldest', 'newest'])
def environment(request, tmp_path, index):
    if shutil.disk_usage(tmp_path).free < 15e9:
        pytest.skip('an environment needs 15 GB of free disk')
    folder = tmp_path / request.param
    try:
        yield Environment(folder, request.param)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.promise('Supply chain', 'The oldest and the newest versions that setup.py admits',
                     'they install together, answer, train and resume; golden values hold; '
                     'checkpoints load in both directions')
def test_both_ends_of_the_range(environment, tiny_config, shapes_data, tmp_path, run_here, tried):
    run = environment.call
    listed = {row['name'].lower().replace('-', '_'): row['version'] for row in json.loads(
        run('check', 'python', '-m', 'pip', 'list', '--format', 'json'))}
    run('check', 'python', '-m', 'pip', 'check')
    report = json.loads(run('use', 'mmdpad', 'doctor', '--json'))
    assert report['ok'] and report['toy'][0]['status'] == 'ok', report
    answer = run('use', 'mmdpad', 'infer', shapes_data / 'test/test_00003.jpg',
                 'the object nearest to the right', '--out-dir', tmp_path / 'answer')
    assert 'a green square' in answer

    config = tmp_path / 'config.py'
    tiny_config.dump(config)

    def training(name, *arguments):
        return 'tools/train.py', config, '--work-dir', tmp_path / name, *arguments

    def resuming(name):
        return training(name, '--resume', '--cfg-options', 'train_cfg.max_iters=3')

    run('train', 'python', *training('there'))
    assert run_here(*training('here')).returncode == 0
    run('train', 'python', *resuming('here'))
    assert run_here(*resuming('there')).returncode == 0
    assert all((tmp_path / name / 'iter_3.pth').is_file() for name in ('here', 'there'))

    told = run('tests', 'python', '-m', 'pytest', '-q', '-p', 'no:cacheprovider',
               '--disable-warnings', *GOLDEN)
    count, = re.findall(r'^(\d+) passed', told, re.M)
    python = run('check', 'python', '-V').split()[1]
    tried(f'Python {python}, ' + ', '.join(f'{name} {listed[name]}' for name in SHOWN)
          + f': {count} tests; '
          + ', '.join(f'{step} {took:.0f} s' for step, took in environment.seconds.items()))
