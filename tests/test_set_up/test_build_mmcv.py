# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import sys
from pathlib import Path

import build_mmcv
import pytest
from steps import SetUpError, clock, run_logged

BUILD = dict(device='cpu', toolkit=None, standard=20)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    build_mmcv.cache_folder().mkdir(parents=True)
    return build_mmcv.cache_folder()


@pytest.mark.slow
def test_a_working_mmcv_is_left_alone(monkeypatch, capsys):
    monkeypatch.setattr(build_mmcv, 'build_and_install', lambda *_: pytest.fail('it was built'))
    monkeypatch.delenv('FORCE_CUDA', raising=False)
    build_mmcv.main([])
    assert 'its operators work' in capsys.readouterr().out


def test_the_wheel_is_built_once_then_taken_from_the_cache(cache, monkeypatch):
    built = []

    def build_wheel(device, toolkit, standard, log_path, work):
        built.append(work)
        wheel = work / 'mmcv-2.1.0-cp311-cp311-linux_x86_64.whl'
        wheel.write_bytes(b'wheel')
        return wheel

    monkeypatch.setattr(build_mmcv, 'build_wheel', build_wheel)
    monkeypatch.setattr(build_mmcv, 'check_compiler', lambda *_: None)
    arguments = dict(BUILD, log_path=cache / 'key.log')
    first = build_mmcv.cached_wheel(cache / 'key', False, **arguments)
    assert first.read_bytes() == b'wheel' and first.parent == cache / 'key'
    assert build_mmcv.cached_wheel(cache / 'key', False, **arguments) == first
    assert len(built) == 1
    build_mmcv.cached_wheel(cache / 'key', True, **arguments)
    assert len(built) == 2
    assert sorted(path.name for path in (cache / 'key').iterdir()) == ['lock', first.name]


def test_a_new_environment_gets_what_builds_mmcv(cache, monkeypatch):
    # pip install of mmdpad alone brings neither, and the first build asked for another command.
    class Stop(Exception):
        pass

    steps = []

    def run(title, command, log_path, **_):
        steps.append((title, command[-2:]))
        if 'fetching' in title:
            raise Stop

    monkeypatch.setattr(build_mmcv, 'run_or_explain', run)
    monkeypatch.setattr(build_mmcv, 'BUILD_TOOLS', ('no_such_tool', 'pytest'))
    with pytest.raises(Stop):
        build_mmcv.build_wheel('cpu', None, 20, cache / 'key.log', cache)
    assert steps[0] == ('installing no_such_tool, needed to build it', ['install', 'no_such_tool'])
    assert len(steps) == 2


def test_what_a_killed_build_left_is_cleared(cache, monkeypatch):
    (cache / 'key' / 'building' / 'mmcv-2.1.0').mkdir(parents=True)

    def build_wheel(device, toolkit, standard, log_path, work):
        assert not list(work.iterdir())
        (work / 'mmcv-2.1.0-any.whl').touch()
        return work / 'mmcv-2.1.0-any.whl'

    monkeypatch.setattr(build_mmcv, 'build_wheel', build_wheel)
    monkeypatch.setattr(build_mmcv, 'check_compiler', lambda *_: None)
    build_mmcv.cached_wheel(cache / 'key', False, **BUILD, log_path=cache / 'key.log')
    assert not (cache / 'key' / 'building').exists()


def test_a_failed_build_leaves_no_wheel(cache, monkeypatch):
    def build_wheel(device, toolkit, standard, log_path, work):
        (work / 'mmcv-2.1.0-half.whl').write_bytes(b'ha')
        raise SetUpError('compiling failed')

    monkeypatch.setattr(build_mmcv, 'build_wheel', build_wheel)
    monkeypatch.setattr(build_mmcv, 'check_compiler', lambda *_: None)
    with pytest.raises(SetUpError):
        build_mmcv.cached_wheel(cache / 'key', False, **BUILD, log_path=cache / 'key.log')
    assert not list(cache.rglob('*.whl'))


def test_a_missing_compiler_shows_before_the_build(cache, monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(SetUpError, match='there is no C\\+\\+ compiler'):
        build_mmcv.check_compiler(20, cache / 'log')


def test_a_system_library_that_opencv_lacks_shows_before_the_build(cache, monkeypatch, tmp_path):
    build_mmcv.check_opencv(cache / 'log')
    message = 'libGL.so.1: cannot open shared object file: No such file or directory'
    (tmp_path / 'cv2.py').write_text(f'raise ImportError({message!r})')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    with pytest.raises(SetUpError, match='lacks libGL.so.1(?s:.*)apt install .*libgl1'):
        build_mmcv.check_opencv(cache / 'log')


def test_an_old_compiler_shows_before_the_build(cache, monkeypatch, tmp_path):
    old = tmp_path / 'g++-4'
    old.write_text('#!/bin/sh\necho "g++: error: unrecognized command line option '
                   "'-std=c++20'\" >&2\nexit 1\n")
    old.chmod(0o755)
    monkeypatch.setenv('CXX', str(old))
    with pytest.raises(SetUpError, match='too old for the C\\+\\+ standard'):
        build_mmcv.check_compiler(20, cache / 'log')


def test_an_automatic_cuda_build_that_fails_continues_with_the_cpu(monkeypatch, capsys):
    tried = []

    def build_and_install(device, toolkit, rebuild):
        tried.append(device)
        if device == 'cuda':
            raise SetUpError('nvcc broke')

    monkeypatch.setattr(build_mmcv, 'build_and_install', build_and_install)
    monkeypatch.setattr(build_mmcv, 'installed_mmcv', lambda: (None, None))
    monkeypatch.setattr(build_mmcv, 'cuda_toolkits', lambda _: [])
    monkeypatch.setattr(build_mmcv.recipe, 'choose_device', lambda *_: ('cuda', '/cuda', 'why'))
    monkeypatch.delenv('FORCE_CUDA', raising=False)
    build_mmcv.main([])
    assert tried == ['cuda', 'cpu']
    assert 'nvcc broke' in capsys.readouterr().out
    with pytest.raises(SetUpError, match='nvcc broke'):
        build_mmcv.main(['--cuda'])  # asked for, so not replaced by something else


def test_toolkits_need_both_nvcc_and_headers(monkeypatch, tmp_path):
    nvcc = tmp_path / 'bin' / 'nvcc'
    nvcc.parent.mkdir()
    nvcc.write_text('#!/bin/sh\necho "Cuda compilation tools, release 12.4, V12.4.131"\n')
    nvcc.chmod(0o755)
    monkeypatch.setenv('CUDA_HOME', str(tmp_path))
    assert str(tmp_path) not in dict(build_mmcv.cuda_toolkits('12.4'))
    (tmp_path / 'include').mkdir()
    (tmp_path / 'include' / 'cuda_runtime.h').touch()
    assert build_mmcv.cuda_toolkits('12.4')[0] == (str(tmp_path), '12.4')


def test_a_step_logs_its_output_and_returns_only_its_own(tmp_path, capsys):
    log = tmp_path / 'logs' / 'step.log'
    assert run_logged('one', [sys.executable, '-c', 'print("first")'], log)[0] == 0
    code, output = run_logged('two', [sys.executable, '-c', 'raise SystemExit("second")'], log)
    assert code == 1
    assert 'second' in output and 'first' not in output
    assert 'first' in Path(log).read_text()
    shown = capsys.readouterr().out
    assert 'one: done' in shown and 'two: FAILED' in shown


def test_clock():
    assert [clock(s) for s in (0.4, 59, 60, 125.2)] == ['0 s', '59 s', '1 min 00 s', '2 min 05 s']


def test_cuda_headers_that_came_with_torch(tmp_path):
    assert build_mmcv.bundled_headers(tmp_path, '13.0') == []
    for name in ('cusparse', 'cublas'):
        (tmp_path / 'nvidia' / name / 'include').mkdir(parents=True)
    apart = build_mmcv.bundled_headers(tmp_path, '12.4')
    assert [Path(folder).parent.name for folder in apart] == ['cublas', 'cusparse']
    (tmp_path / 'nvidia' / 'cu13' / 'include').mkdir(parents=True)
    assert build_mmcv.bundled_headers(tmp_path, '13.0') == [str(tmp_path / 'nvidia/cu13/include')]


def test_operators_that_crash_are_reported(cache, monkeypatch):
    """On a GPU machine they did, and the message had been empty."""
    wheel, log = cache / 'mmcv-2.1.0-any.whl', cache / 'key.log'
    wheel.touch()
    probe = cache / 'probe.py'
    probe.write_text('import faulthandler\nfaulthandler._sigsegv()')
    monkeypatch.setattr(build_mmcv, 'PROBE', probe)
    monkeypatch.setattr(build_mmcv, 'run_or_explain', lambda *_: None)
    with pytest.raises(SetUpError, match='Segmentation fault[^$]*crash the process[^$]*moved to'):
        build_mmcv.install(wheel, log)
    assert [path.name for path in cache.glob('*.whl*')] == ['mmcv-2.1.0-any.whl.failed']
    assert 'exit status -11' in log.read_text() and 'line 2 in <module>' in log.read_text()
