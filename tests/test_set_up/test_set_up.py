# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import set_up
from steps import SetUpError

ROOT = Path(__file__).resolve().parents[2]


def make_environment(folder):
    (folder / 'bin').mkdir(parents=True)
    (folder / 'bin' / 'python').symlink_to(sys.executable)
    return folder


def test_no_environment_is_active_in_a_plain_shell_or_in_condas_base(tmp_path):
    base = make_environment(tmp_path / 'conda')
    assert set_up.active_environment({}, '/usr', '/usr') is None
    assert set_up.active_environment(
        {'CONDA_DEFAULT_ENV': 'base', 'CONDA_PREFIX': str(base)}, '/usr', '/usr') is None


def test_an_active_environment_is_used_and_our_own_is_not_foreign(tmp_path):
    env = make_environment(tmp_path / 'env')
    plain = ('/usr', '/usr')
    assert set_up.active_environment({'VIRTUAL_ENV': str(env)}, *plain) == env
    assert set_up.active_environment({}, str(env), '/usr') == env  # run by that python itself
    assert set_up.active_environment(
        {'CONDA_DEFAULT_ENV': 'mm', 'CONDA_PREFIX': str(env)}, *plain) == env
    assert set_up.active_environment({'VIRTUAL_ENV': str(set_up.VENV)}, *plain) is None


def test_an_active_environment_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(SetUpError, match='deactivate'):
        set_up.active_environment({'VIRTUAL_ENV': str(tmp_path / 'gone')}, '/usr', '/usr')


def find(running, on_path, answers):
    return set_up.find_interpreter(running, on_path.get, answers.get)


def test_the_running_python_is_taken_where_it_fits():
    answers = {'/a/python3': ((3, 10), None), '/b/python3.12': ((3, 12), None)}
    assert find('/a/python3', {'python3.12': '/b/python3.12'}, answers) == '/a/python3'


def test_else_the_newest_on_the_path_that_works():
    answers = {'/a/python3': ((3, 15), 'is Python 3.15'), '/shim/python3.12': (None, 'fails'),
               '/b/python3.11': ((3, 11), None), '/b/python3.10': ((3, 10), None)}
    on_path = {'python3.12': '/shim/python3.12', 'python3.11': '/b/python3.11',
               'python3.10': '/b/python3.10'}
    assert find('/a/python3', on_path, answers) == '/b/python3.11'


def test_else_the_error_lists_what_was_tried():
    answers = {'/a/python3': ((3, 9), 'is Python 3.9'),
               '/b/python3.11': ((3, 11), 'lacks venv (apt install python3.11-venv)')}
    with pytest.raises(SetUpError) as error:
        find('/a/python3', {'python3.11': '/b/python3.11'}, answers)
    for part in ('3.10 to 3.14', '/a/python3 is Python 3.9', 'python3.11-venv', 'PYTHON='):
        assert part in str(error.value)


def test_a_python_is_asked_for_its_version(tmp_path):
    version, complaint = set_up.ask_python(sys.executable)
    assert (version, complaint) == (sys.version_info[:2], None)
    broken = tmp_path / 'python3.11'
    broken.write_text('#!/bin/sh\nexit 127\n')
    broken.chmod(0o755)
    assert set_up.ask_python(broken) == (None, 'does not run')
    assert set_up.ask_python(tmp_path / 'none')[0] is None


def test_the_stamp_changes_with_every_input_with_the_python_and_with_the_folder(tmp_path):
    def checkout(name):
        for path in set_up.INPUTS:
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, tmp_path / name / path)
        return tmp_path / name

    root = checkout('one')
    stamps = [set_up.stamp_text('/p', root), set_up.stamp_text('/q', root),
              set_up.stamp_text('/p', checkout('two'))]
    assert set_up.stamp_text('/p', root) == stamps[0]
    for path in set_up.INPUTS:
        with open(root / path, 'a') as file:
            file.write('\n')
        stamps.append(set_up.stamp_text('/p', root))
    assert len(set(stamps)) == len(stamps)


PINNED = ['# torch==1.0', 'torch==2.14.1', 'torchvision==0.29.1', 'numpy==2.4.6',
          'transformers==5.24.0; python_version >= "3.11"']


def test_an_active_environment_keeps_its_torch_torchvision_and_numpy():
    there = {'torch': '2.5.1+cu124', 'numpy': '1.26.4'}
    assert set_up.kept_constraints(there, PINNED) == ['torch==2.5.1+cu124', 'numpy==1.26.4']


def test_an_active_environment_without_torch_gets_the_tested_pair():
    assert set_up.kept_constraints({'numpy': '1.26.4'}, PINNED) == [
        'numpy==1.26.4', 'torch==2.14.1', 'torchvision==0.29.1']
    assert set_up.kept_constraints({}, PINNED) == ['torch==2.14.1', 'torchvision==0.29.1']


def test_the_installed_versions_are_those_of_the_environment():
    import numpy
    import torch
    versions = set_up.installed_versions(sys.executable)
    assert set(versions) <= set(set_up.KEPT)
    assert versions['numpy'] == numpy.__version__
    assert torch.__version__.startswith(versions['torch'])


def test_a_finished_set_up_is_not_repeated(tmp_path, monkeypatch, capsys):
    env = make_environment(tmp_path / 'env')
    (env / '.mmdpad-set-up').write_text(set_up.stamp_text(env / 'bin' / 'python'))
    monkeypatch.setattr(set_up, 'run_or_explain', lambda *_: pytest.fail('it was repeated'))
    set_up.set_up(env)
    assert capsys.readouterr().out == ''


def test_an_unfinished_set_up_continues_and_is_stamped_only_at_its_end(tmp_path, monkeypatch):
    env = make_environment(tmp_path / 'env')
    steps = []
    monkeypatch.setattr(set_up, 'installed_versions', lambda python: {'torch': '2.6.0'})
    monkeypatch.setattr(set_up, 'run_or_explain', lambda title, *_: steps.append(title))
    monkeypatch.setattr(set_up, 'build_mmcv', lambda python: 1)
    with pytest.raises(SetUpError, match='continues from here'):
        set_up.set_up(env)
    assert not (env / '.mmdpad-set-up').exists()
    monkeypatch.setattr(set_up, 'build_mmcv', lambda python: 0)
    set_up.set_up(env)
    assert (env / '.mmdpad-set-up').exists()
    assert (env / 'mmdpad-constraints.txt').read_text() == 'torch==2.6.0'
    assert steps == 2 * ['installing torch and torchvision',
                         'installing mmdpad and its requirements']


def test_the_constraints_agree_with_the_table_of_requirements():
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    from mmdpad.version import REQUIRED
    lines = (ROOT / 'tools/set_up/constraints.txt').read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith('#')]
    assert all(re.fullmatch(r'==[\w.]+', str(pin.specifier)) for pin in pins)
    for python in ('{}.{}'.format(*version) for version in set_up.PYTHONS):
        chosen = [pin.name for pin in pins
                  if pin.marker is None or pin.marker.evaluate({'python_version': python})]
        assert len(set(chosen)) == len(chosen) and {'torch', 'numpy'} <= set(chosen)
    for pin in pins:
        if pin.name in REQUIRED:
            version = str(pin.specifier).lstrip('=')
            assert SpecifierSet(REQUIRED[pin.name]).contains(version)


def test_make_and_continuous_integration_offer_what_they_promise():
    makefile = (ROOT / 'Makefile').read_text()
    rules = dict(re.findall(r'^([a-z-]+):(.*)$', makefile, re.MULTILINE))
    assert {'help', 'env', 'demo', 'docs', 'test', 'test-slow', 'lint', 'clean-env'} <= set(rules)
    for target in ('demo', 'docs', 'test', 'test-slow', 'lint'):
        assert 'env' in rules[target].split(), f'`make {target}` should set up first'
    ci = ROOT / '.ci' / 'run'
    assert re.search(r'^make test\b', ci.read_text(), re.MULTILINE)
    assert ci.stat().st_mode & 0o100
    shown = subprocess.run(['make', '-n', 'test'], cwd=ROOT, capture_output=True, text=True,
                           check=True).stdout
    assert 'tools/set_up/set_up.py' in shown and '-m pytest -q -n auto' in shown
