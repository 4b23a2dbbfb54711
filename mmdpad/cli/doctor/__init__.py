# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""`mmdpad doctor [CONFIG]`: what is installed, what is missing, and the commands that fix it.

This process imports neither torch nor mmcv nor mmdet: a subprocess, which may crash, tries each
of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import mmdpad

from .files import check_disk, check_files
from .findings import Finding, format_finding
from .machine import ask_torch, check_gpus, check_operators, check_toy
from .packages import check_packages

Section = tuple[str, str, Callable[[], Iterator[Finding]]]  # name in JSON, title, check


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Print the findings section by section.

    Args:
        argv: The arguments; None for those of this process.
        prog: The command's name in the help text.

    Raises:
        SystemExit: With 0 if the toy model can run, and CONFIG too if one is named, else 1.
    """
    parser = argparse.ArgumentParser(
        prog, description='Check packages, compiled operators, GPUs, weights, data and disk, and '
        'print the command that fixes each problem. The toy model does not need what is marked '
        '"optional". The exit status is 0 if the toy model (and CONFIG, if named) can run.')
    parser.add_argument('config', nargs='?', help='also check everything about this config, as '
                        '`mmdpad train CONFIG --dry-run` does')
    parser.add_argument('--json', action='store_true', help='print one JSON object instead')
    args = parser.parse_args(argv)

    color = sys.stdout.isatty() and not os.environ.get('NO_COLOR')
    found: dict[str, list[Finding]] = {}
    if not args.json:
        print(f'mmdpad {mmdpad.__version__} in {os.path.dirname(mmdpad.__file__)}')
    for name, title, check in _sections(args.config):
        if not args.json:
            print(f'\n{title}', flush=True)
        found[name] = []
        for finding in check():
            found[name].append(finding)
            if not args.json:
                print(format_finding(finding, color), flush=True)
    faults = sum(finding.is_fault for findings in found.values() for finding in findings)
    if args.json:
        print(json.dumps(dict(
            mmdpad=mmdpad.__version__, ok=not faults,
            **{name: list(map(vars, findings)) for name, findings in found.items()}), indent=2))
    elif faults:
        print(f'\n{faults} problem(s) found, see above; the first may be the cause of others.')
    else:
        print('\nNo problem found; the optional items are for other configs and uses.')
    raise SystemExit(int(faults > 0))


def _sections(config: str | None) -> Iterator[Section]:
    torch = ask_torch()
    yield 'packages', 'Packages', lambda: check_packages(torch)
    yield 'operators', "mmcv's compiled operators", lambda: check_operators(torch)
    yield 'gpus', 'GPUs', lambda: check_gpus(torch)
    yield 'toy', 'The toy model', check_toy
    yield ('files', f'Weights and data of the configs, looked for in {os.getcwd()}', check_files)
    yield 'disk', 'Disk', check_disk
    if config is not None:
        yield 'config', 'The config', lambda: _check_config(config)


def _check_config(config: str) -> Iterator[Finding]:
    """Run the dry run of a config and report its output."""
    command = [sys.executable, '-m', 'mmdpad', 'train', config, '--dry-run']
    tried = subprocess.run(command, capture_output=True, text=True)
    output = tried.stdout.strip() or tried.stderr.strip()
    yield Finding('ok' if tried.returncode == 0 else 'wrong', config, output,
                  f'mmdpad train {config} --dry-run, after each change' if tried.returncode else '')
