# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The command `mmdpad`, also `python -m mmdpad`. A command's module is imported only when it is
called, and imports torch only when it has work to do."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import mmdpad

# Name -> what it does. `doctor` and `build-mmcv` work in an environment that lacks packages.
COMMANDS = {
    'infer': 'ask a question about images: a mask, a box and the reasoning for each',
    'demo': 'a browser page: ask, watch the reasoning, see the mask',
    'train': 'train a config, smoke-test it, or check it',
    'test': 'evaluate a checkpoint on the test set',
    'serve-rollouts': 'start a vLLM server that samples responses for a training',
    'run': 'run a script of tools/ by name: report, convert, check_dataset, ...',
    'doctor': 'what is installed, what is missing, and the commands that fix it',
    'build-mmcv': 'build mmcv with its operators for the installed torch',
}
# tools/, in a checkout and in a wheel. Scripts in set_up/ do not import mmdpad.
TOOLS = (Path(mmdpad.__file__).parent / '.mim' / 'tools').resolve()
_WORKS_ANYWHERE = ('doctor', 'build-mmcv')


def main(argv: Sequence[str] | None = None) -> None:
    """Run `mmdpad COMMAND ...`.

    Args:
        argv: COMMAND and its arguments; None for those of this process.

    Raises:
        SystemExit: With the command's exit status, or a message about what is wrong.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        'mmdpad', usage='mmdpad COMMAND ...',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Reasoning segmentation: ask about an image, get a mask and the reasoning.',
        epilog='commands:\n' + '\n'.join(
            f'  {name:{width}}  {text}' for name, text in COMMANDS.items())
        + '\n\n`mmdpad COMMAND --help` lists the options of a command.')
    parser.add_argument('--version', action='version', version=f'mmdpad {mmdpad.__version__}')
    parser.add_argument('command', choices=COMMANDS, metavar='COMMAND', help=argparse.SUPPRESS)
    if not argv:
        parser.print_help()
        raise SystemExit(2)
    command = parser.parse_args(argv[:1]).command
    if command not in _WORKS_ANYWHERE:
        try:
            mmdpad.prepare_environment()
        except ImportError as error:
            raise SystemExit(str(error)) from error
    module = importlib.import_module(f'mmdpad.cli.{command.replace("-", "_")}')
    module.main(argv[1:], prog=f'mmdpad {command}')


def become(script: Path, argv: Sequence[str]) -> NoReturn:
    """Replace this process by a script of TOOLS, as `python SCRIPT ...` would run it."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, str(script), *argv])
