# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The command itself: what it offers, how fast it says so, and that it starts anywhere."""
import subprocess
import sys

import pytest

import mmdpad
from mmdpad.cli import COMMANDS, TOOLS, main


def python(code):
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)


def test_the_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(['--help'])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert all(f'  {name} ' in shown and text in shown for name, text in COMMANDS.items())
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2 and capsys.readouterr().out == shown


def test_an_unknown_command_is_an_error(capsys):
    with pytest.raises(SystemExit) as end:
        main(['tain', 'config.py'])
    assert end.value.code == 2 and "invalid choice: 'tain'" in capsys.readouterr().err


@pytest.mark.parametrize('arguments, shown', [
    (['--help'], 'usage: mmdpad COMMAND'),
    *(([name, '--help'], f'usage: mmdpad {name}') for name in COMMANDS if name != 'build-mmcv'),
    (['infer', 'none.jpg', 'what?'], "image 'none.jpg' does not exist"),
    (['infer', 'x'], 'the following arguments are required: question'),
    (['train', 'none.py'], "config 'none.py' does not exist"),
    (['test', 'mmdpad::dpad/tinyshapes.py'], 'did you mean mmdpad::dpad/tiny_shapes.py'),
])
def test_help_and_wrong_arguments_do_not_wait_for_torch(arguments, shown):
    told = python('import sys\n'
                  'from mmdpad.cli import main\n'
                  f'try: main({arguments})\n'
                  'except SystemExit as end: print(end)\n'
                  'print("torch" in sys.modules)')
    assert shown in told.stdout + told.stderr
    assert told.stdout.splitlines()[-1] == 'False'


WITHOUT_MMCV = '''
import importlib.metadata as metadata, sys
version = metadata.version
def find(name):
    if name == 'mmcv':
        raise metadata.PackageNotFoundError
    return version(name)
metadata.version = find
'''


@pytest.mark.parametrize('argv, orig_argv', [
    (['/usr/bin/mmdpad', 'doctor'], ['python', '/usr/bin/mmdpad', 'doctor']),
    (['-m', 'doctor'], ['python', '-m', 'mmdpad', 'doctor']),
])
def test_the_command_starts_where_something_is_missing(argv, orig_argv):
    told = python(WITHOUT_MMCV + f'sys.argv, sys.orig_argv = {argv}, {orig_argv}\n'
                  'from mmdpad.cli import main\n'
                  'main(["train", "config.py"])')
    assert told.returncode == 1 and 'Traceback' not in told.stderr
    assert 'mmcv is not installed' in told.stderr and 'run: mmdpad build-mmcv' in told.stderr


def test_an_import_there_still_says_what_is_missing():
    told = python(WITHOUT_MMCV + 'import mmdpad')
    assert told.returncode == 1 and 'ImportError' in told.stderr
    assert 'run: mmdpad build-mmcv' in told.stderr


def test_build_mmcv_becomes_the_tool_of_the_set_up(monkeypatch):
    became = []
    monkeypatch.setattr('os.execv', lambda *command: became.append(command))
    main(['build-mmcv', '--cpu'])
    tool = TOOLS / 'set_up' / 'build_mmcv.py'
    assert became == [(sys.executable, [sys.executable, str(tool), '--cpu'])] and tool.is_file()
    assert mmdpad.BUILD_MMCV == 'mmdpad build-mmcv'


def test_run_becomes_a_tool_and_lists_them(monkeypatch, capsys):
    became = []
    monkeypatch.setattr('os.execv', lambda *command: became.append(command))
    main(['run', 'report', 'work_dirs/x', '--out', 'y'])
    tool = TOOLS / 'analysis_tools' / 'report.py'
    assert became == [(sys.executable, [sys.executable, str(tool), 'work_dirs/x', '--out', 'y'])]
    for argv in (['run'], ['run', '--help']):
        with pytest.raises(SystemExit):
            main(argv)
        shown = capsys.readouterr().out
        assert 'usage: mmdpad run TOOL' in shown
        for folder in ('analysis_tools', 'dataset_converters', 'model_converters'):
            for path in (TOOLS / folder).glob('*.py'):
                assert f'  {path.stem} ' in shown
    with pytest.raises(SystemExit) as end:
        main(['run', '../set_up/set_up'])
    assert end.value.code == 2 and 'invalid choice' in capsys.readouterr().err
    assert len(became) == 1
