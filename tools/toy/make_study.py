# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Trains the study's start policies: `python tools/toy/make_study.py [--out DIR]`.

They start from the toy policy and train on the study's scenes. A fifth of the answers are correct
for another object, which leaves something to learn from rewards alone. `study_tied` learns vague
captions with reasoning that lists all objects, and specific captions with reasoning that goes
straight to the target. In `study_free`, the control, captions do not depend on the reasoning. Both
train in parallel, in half an hour on two cores; README.md has their measurements.
"""
from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from arguments import STUDY_WEIGHTS, WEIGHTS
from make_all import table, write_page

STARTS = dict(study_tied=['--tied'], study_free=[])
STYLE = ['--init', str(WEIGHTS / 'policy'), '--world', 'study', '--mistakes', '0.2']
SCALE = 0.6


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=STUDY_WEIGHTS, help='destination folder')
    parser.add_argument('--scale', type=float, default=SCALE,
                        help=f'share of the steps of make_policy.py (default {SCALE})')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as building:
        made = {name: Path(building, name, name) for name in STARTS}
        script = str(Path(__file__).with_name('make_policy.py'))
        running = {name: subprocess.Popen(
            [sys.executable, script, '--out', str(made[name]), *STYLE, *options, '--scale',
             str(args.scale)]) for name, options in STARTS.items()}
        failed = [name for name, process in running.items() if process.wait()]
        if failed:
            raise SystemExit(f'make_policy.py failed for {", ".join(failed)}; see above')
        for name, folder in made.items():
            shutil.rmtree(args.out / name, ignore_errors=True)
            shutil.copytree(folder, args.out / name)
        write_readme(args.out, {name: folder.parent / 'policy_report.json'
                                for name, folder in made.items()})


def write_readme(folder: Path, reports: dict[str, Path]) -> None:
    """Write README.md."""
    lines = ['# Start policies of the study', '',
             'Written by', '', '    python tools/toy/make_study.py', '',
             'Qualities are measured on held-out scenes (split `val` of the world `study`) with '
             'the saved files; "named" is whether the reasoning ends with the target\'s name.']
    for name, report in reports.items():
        lines += table(folder / name, report)
    write_page(folder / 'README.md', lines)


if __name__ == '__main__':
    main()
