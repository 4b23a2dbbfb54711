# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The checks of `mmdpad doctor`, in simulated environments; the real one is in
test_packaging.py."""
import ast
import json
import re
import subprocess
from pathlib import Path

import pytest
from mmengine.config import Config

import mmdpad
from mmdpad.cli import doctor
from mmdpad.cli.doctor import files, machine
from mmdpad.cli.doctor.findings import Finding, format_finding
from mmdpad.cli.doctor.packages import OPTIONAL, check_packages
from mmdpad.cli.run import find_tools

ROOT = Path(mmdpad.__file__).parents[1]
CPU, GPU = dict(cuda='13.0', gpus=[]), dict(cuda='13.0', gpus=[['H100', 85_000_000_000]])


def packages(torch=CPU, **changes):
    find = {**{name: mmdpad.installed_version(name) for name in (*mmdpad.version.REQUIRED, 'numpy',
                                                                 'opencv-python')}, **changes}
    return {finding.name: finding for finding in check_packages(
        torch, lambda name: find.get(name, mmdpad.installed_version(name)))}


def test_packages_that_fit():
    found = packages()
    assert all(found[name].status == 'ok' for name in ('python', *mmdpad.version.REQUIRED))
    assert found['torch'].detail.endswith(', CUDA 13.0')
    assert found['open-clip-torch'].status == found['segment-anything'].status == 'ok'
    assert set(OPTIONAL) <= found.keys()
    assert not any(found[name].is_fault for name in OPTIONAL)


@pytest.mark.parametrize('package, version, status, detail, hint', [
    ('mmdet', None, 'missing', 'not installed', 'pip install "mmdet'),
    ('mmdet', '2.28.0', 'wrong', '2.28.0, but', 'pip install "mmdet'),
    ('mmcv', None, 'missing', 'not installed', 'mmdpad build-mmcv'),
    ('mmcv', '2.2.0', 'wrong', '2.2.0, but', 'mmdpad build-mmcv'),
    ('segment-anything', None, 'missing', 'not installed', 'pip install "segment-anything>=1.0"'),
    ('peft', None, 'optional', 'LoRA; not installed', 'pip install "peft'),
])
def test_a_package_that_is_not_there_or_does_not_fit(package, version, status, detail, hint):
    found = packages(**{package: version})[package]
    assert found.status == status and found.detail.startswith(detail)
    assert found.hint.startswith(hint)


def test_packages_that_replace_others():
    lite = packages(**{'mmcv': None, 'mmcv-lite': '2.1.0'})['mmcv']
    assert lite.status == 'wrong' and 'mmcv-lite' in lite.detail
    headless = packages(**{'opencv-python': None, 'opencv-python-headless': '4.12.0'})
    assert headless['opencv-python'].status == 'ok'


def test_a_torch_that_does_not_import():
    broken = packages(torch=dict(fault='OSError: libcudart.so'))['torch']
    assert broken.status == 'wrong' and 'libcudart' in broken.detail and broken.hint
    assert [f.status for f in machine.check_operators(dict(fault='x'))] == ['missing']
    assert [f.status for f in machine.check_gpus(dict(fault='x'))] == ['optional']


@pytest.mark.parametrize('code, fault', [
    ('import os, signal; os.kill(os.getpid(), signal.SIGSEGV)', 'it crashed (SIGSEGV)'),
    ('raise ValueError("so\\nand so")', 'ValueError: so'),
    ('import no_such_module', "ModuleNotFoundError: No module named 'no_such_module'"),
    ('raise SystemExit(3)', 'status 3'),
])
def test_a_process_that_fails_says_why(code, fault):
    assert machine.run('-c', code) == (None, fault)


def test_a_process_that_works_or_hangs(monkeypatch):
    assert machine.run('-c', 'print(1); print(2)') == ('2', '')
    monkeypatch.setattr(machine, '_LONG', 0.5)
    assert machine.run('-c', 'import time; time.sleep(9)') == (None, 'no answer within 0.5 s')


def operators(monkeypatch, torch, *answers):
    answers = iter(answers)
    monkeypatch.setattr(machine, 'run', lambda *_: next(answers))
    return list(machine.check_operators(torch))


def test_operators(monkeypatch):
    (fine, ) = operators(monkeypatch, CPU, ('not available', ''))
    assert fine.status == 'ok' and 'not available' in fine.detail
    (absent, ) = operators(monkeypatch, GPU, (None, "ModuleNotFoundError: No module named 'mmcv'"))
    assert absent.is_fault and absent.hint == 'mmdpad build-mmcv'
    (crashed, ) = operators(monkeypatch, GPU, (None, 'it crashed (SIGSEGV)'))
    assert crashed.is_fault and crashed.hint == 'mmdpad build-mmcv --rebuild'
    lacking = 'ImportError: libGL.so.1: cannot open shared object file: No such file or directory'
    (bare, ) = operators(monkeypatch, CPU, (None, lacking))
    assert bare.is_fault and bare.hint.startswith('apt install') and 'libgl1' in bare.hint
    cpu, gpu = operators(monkeypatch, GPU, ('not available', ''), (None, 'RuntimeError: nms_impl'))
    assert (cpu.status, gpu.status, gpu.hint) == ('ok', 'optional', 'mmdpad build-mmcv --cuda')
    assert [f.status for f in operators(monkeypatch, GPU, ('13.0', ''), ('13.0', ''))] == ['ok'] * 2


def test_gpus(monkeypatch):
    (gpu, ) = machine.check_gpus(GPU)
    assert (gpu.status, gpu.name, gpu.detail) == ('ok', 'H100', '85 GB')
    monkeypatch.setattr(machine.shutil, 'which', lambda _: None)
    (none, ) = machine.check_gpus(CPU)
    assert none.status == 'optional' and not none.hint
    monkeypatch.setattr(machine.shutil, 'which', lambda _: '/usr/bin/nvidia-smi')
    (wrong_torch, ) = machine.check_gpus(dict(cuda=None, gpus=[]))
    assert 'built for CPUs' in wrong_torch.detail and wrong_torch.hint.startswith('pip install')


def test_torch_is_asked_in_a_process_of_its_own():
    answer = machine.ask_torch()
    assert answer.keys() == {'cuda', 'gpus'}


def test_the_toy_is_not_tried_without_its_packages(monkeypatch):
    monkeypatch.setattr(mmdpad, 'find_unsuitable', lambda: ['mmcv is not installed'])
    (finding, ) = machine.check_toy()
    assert (finding.status, finding.name) == ('missing', 'not tried')


def strings_of(path):
    """The strings in a config, and those that it inherits from mmdet; our bases have their own."""
    if 'mmdet::' in path.read_text():
        return json.dumps(Config.fromfile(path).to_dict(), default=str)
    return '\n'.join(node.value for node in ast.walk(ast.parse(path.read_text()))
                     if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_every_local_path_of_the_shipped_configs_has_a_remedy():
    named = set()
    for path in (ROOT / 'configs').rglob('*.py'):
        named |= set(re.findall(r'(?:checkpoints|data)/[\w.+/-]*\w', strings_of(path)))
    named = {name for name in named if not name.startswith(('data/my_data', 'data/study'))}
    known = tuple(place.path for place in files.PLACES)
    unknown = {name for name in named if not name.startswith(known)
               and not any(place.startswith(name) for place in known)}
    assert len(named) > 15
    assert not unknown, f'`PLACES` of mmdpad/cli/doctor/files.py should have {unknown}'
    unused = {place for place in known if not any(
        name.startswith(place) or place.startswith(name) for name in named)}
    assert not unused, unused


def test_files_that_are_there_and_files_that_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'hf'))
    for name in ('data/shapes_world/train', 'data/ReasonSeg',
                 'hf/hub/models--timm--vit_base_patch32_clip_224.openai'):
        (tmp_path / name).mkdir(parents=True)
    found = {finding.name: finding for finding in files.check_files()}
    assert found['data/shapes_world'].status == 'ok'
    assert found['CLIP ViT-B-32 (openai)'].status == 'ok'
    assert found['data/ReasonSeg'].detail.startswith('empty')
    sam = found['checkpoints/sam_vit_h_4b8939.pth']
    assert sam.status == 'optional' and sam.hint.startswith('curl -fL --create-dirs -o checkp')
    assert not any(finding.is_fault for finding in found.values())
    tool = found['data/coco/refcoco'].hint
    assert tool.endswith('unzip data/coco/refcoco.zip -d data/coco')


def test_the_tool_that_generates_the_scenes_exists():
    (scenes, ) = [place for place in files.PLACES if place.path == 'data/shapes_world']
    *command, tool, folder = scenes.hint.split()
    assert command == ['mmdpad', 'run'] and tool in find_tools() and folder == scenes.path


def test_a_full_disk_is_reported(monkeypatch):
    usage = type(files.shutil.disk_usage('.'))
    monkeypatch.setattr(files.shutil, 'disk_usage', lambda _: usage(10**12, 10**12, 3 * 10**8))
    (finding, ) = files.check_disk()
    assert finding.is_fault and finding.detail == '0.3 GB'


def test_a_finding_as_it_is_printed():
    finding = Finding('missing', 'mmcv', 'not\nthere', 'mmdpad build-mmcv')
    assert format_finding(finding, color=False) == (
        '  missing   mmcv: not\n            there\n            -> mmdpad build-mmcv')
    assert format_finding(finding, color=True).startswith('  \033[31mmissing \033[0m  mmcv')


@pytest.mark.parametrize('status, end', [('ok', 0), ('optional', 0), ('missing', 1), ('wrong', 1)])
def test_the_exit_status_and_the_json(monkeypatch, capsys, status, end):
    finding = Finding(status, 'mmcv', 'so and so', 'fix it')
    monkeypatch.setattr(doctor, '_sections', lambda _: [('a', 'A title', lambda: [finding])])
    with pytest.raises(SystemExit) as ended:
        doctor.main([])
    shown = capsys.readouterr().out
    assert ended.value.code == end and '\033' not in shown
    assert '\nA title\n' in shown and f'  {status:8}  mmcv: so and so\n' in shown
    assert ('1 problem(s) found' in shown) == bool(end)
    with pytest.raises(SystemExit) as ended:
        doctor.main(['--json'])
    report = json.loads(capsys.readouterr().out)
    assert ended.value.code == end and report['ok'] == (not end)
    assert report['a'] == [vars(finding)]


def test_a_config_is_checked_by_a_dry_run(monkeypatch):
    (finding, ) = doctor._check_config('none.py')
    assert finding.status == 'wrong' and "config 'none.py' does not exist" in finding.detail
    assert finding.hint.startswith('mmdpad train none.py --dry-run')
    fine = subprocess.CompletedProcess([], 0, 'dry run: no problem found\n', 'a warning')
    monkeypatch.setattr(subprocess, 'run', lambda *_, **__: fine)
    (finding, ) = doctor._check_config('mine.py')
    assert vars(finding) == dict(
        status='ok', name='mine.py', detail='dry run: no problem found', hint='')
