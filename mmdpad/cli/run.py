# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""`mmdpad run TOOL ...`: the scripts of tools/, wherever mmdpad is installed; also those of other
OpenMMLab packages, with mmdpad imported."""

from __future__ import annotations

import argparse
import ast
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from mmdpad.utils.configs import mim_folder

from . import TOOLS, become

_FOLDERS = ('analysis_tools', 'dataset_converters', 'model_converters')


def find_tools() -> dict[str, Path]:
    """Name -> script."""
    return {path.stem: path for folder in _FOLDERS
            for path in sorted((TOOLS / folder).glob('*.py'))}


def find_script(name: str) -> Path:
    """Find the script for PACKAGE::TOOL, such as mmdet::train or
    mmdet::analysis_tools/analyze_logs.

    Raises:
        SystemExit: There is no such script.
    """
    package, _, tool = name.partition('::')
    place = mim_folder(package)
    if place is None:
        raise SystemExit(f'{name}: package {package!r} is not installed; install it')
    folder = place / 'tools'
    path = folder / (tool.removesuffix('.py') + '.py')
    if not path.is_file():
        raise SystemExit(f'{name}: there is no {path.name} in {folder}; correct the name')
    return path


def main(argv: Sequence[str], prog: str | None = None) -> None:
    """Run a tool in place of this process, or list the tools.

    Args:
        argv: TOOL and its arguments.
        prog: The command's name in the help text.

    Raises:
        SystemExit: There is no such tool, or help was asked for.
    """
    if argv and '::' in argv[0]:
        script = find_script(argv[0])
        sys.argv = [str(script), *argv[1:]]
        runpy.run_path(str(script), run_name='__main__')
        return
    tools = find_tools()
    width = max(map(len, tools))
    parser = argparse.ArgumentParser(
        prog, usage=f'{prog or "run"} TOOL ...',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Run a script of tools/; in a checkout, python tools/FOLDER/TOOL.py is the '
                    'same.',
        epilog='tools:\n' + '\n'.join(
            f'  {name:{width}}  {_first_line(path)}' for name, path in tools.items())
        + '\n\n`mmdpad run TOOL --help` lists the options of a tool. `mmdpad run mmdet::train ...` '
          "runs mmdet's\ntools/train.py with mmdpad imported; the same works for its other tools "
          'and other packages.')
    parser.add_argument('tool', choices=tools, metavar='TOOL', help=argparse.SUPPRESS)
    tool = parser.parse_args(argv[:1] or ['--help']).tool
    become(tools[tool], argv[1:])


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
    return text.partition('\n')[0]
