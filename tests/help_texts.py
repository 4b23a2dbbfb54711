# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Prints, as JSON, which of the modules named by its arguments `--help` of each command and of each
script of tools/ imports: {name: [module, ...]}. One process for all of them."""
import contextlib
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

from mmdpad.cli import COMMANDS, main

TOOLS = Path(__file__).resolve().parents[1] / 'tools'
HEAVY = set(sys.argv[1:])
NO_COMMANDS = ('set_up/probe_mmcv.py',)


def find_imports(name, function):
    before, text = set(sys.modules), io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        function()
    assert text.getvalue().startswith('usage:'), (name, text.getvalue())
    new = set(sys.modules) - before
    for module in new:
        if TOOLS in Path(getattr(sys.modules[module], '__file__', None) or '').parents:
            del sys.modules[module]  # `common` of one folder is not that of another
    return sorted(new & HEAVY)


def run(path):
    sys.argv, sys.path[0] = [str(path), '--help'], str(path.parent)
    runpy.run_path(str(path), run_name='__main__')


def refuse(*command, **options):
    raise AssertionError(f'a help text started {command}')


subprocess.Popen = refuse  # a script that does not know --help does its work
found = {}
for command in COMMANDS:
    if command != 'build-mmcv':  # becomes the script
        found[command] = find_imports(command, lambda: main([command, '--help']))  # noqa: B023
for path in sorted([*TOOLS.glob('*.py'), *TOOLS.glob('*/*.py')]):
    name = path.relative_to(TOOLS).as_posix()
    if name not in NO_COMMANDS and '__main__' in path.read_text(encoding='utf-8'):
        found[name] = find_imports(name, lambda: run(path))  # noqa: B023
print(json.dumps(found))
