# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The command line of the scripts that make the toy models. It imports nothing slow, so that
`--help` is fast."""
from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / 'mmdpad' / 'toy' / 'weights'
STUDY_WEIGHTS = ROOT / 'configs' / 'study' / 'weights'


def make_parser(description: str, folder: str) -> argparse.ArgumentParser:
    """Make the parser of a script: `--out` (a folder), `--seed`, `--scale` (share of the steps)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('--out', type=Path, default=WEIGHTS / folder, help='destination folder')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--scale', type=float, default=1.0,
                        help='train for this share of the full number of steps')
    return parser


def policy_beside(parser: argparse.ArgumentParser, out: Path) -> Path:
    """The folder of the toy policy beside `--out`, to continue from; an error if there is none."""
    init = out.with_name('policy')
    if not init.is_dir():
        parser.error(f'`--out` should be beside the policy to continue from, but {init} does not '
                     'exist; run make_policy.py first')
    return init


def parse_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse and check the command line."""
    args = parser.parse_args()
    if args.scale <= 0:
        parser.error(f'`--scale` should be positive, but got {args.scale}')
    return args
