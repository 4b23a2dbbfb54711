# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The ``--smoke`` and ``--dry-run`` flags of the tools."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from mmdpad.engine.check_config import check_config
from mmdpad.engine.flags import apply_flags
from mmdpad.utils import load_config

from .dry_run import dry_run, format_findings
from .smoke import make_smoke_config, run_smoke


def try_config(args: argparse.Namespace) -> int:
    """Smoke-test or check the config of a command line.

    Only ``tools/train.py`` has ``--smoke``. With both flags, the config that ``--smoke`` would run
    is checked.

    Returns:
        The exit status: 1 if a problem was found, else 0.

    Raises:
        SystemExit: ``--smoke`` was given with a launcher, a work dir that is not empty, or a config
            that cannot be trained.
    """
    config, smoke = load_config(args), getattr(args, 'smoke', False)
    name = Path(args.config).stem
    config.work_dir = args.work_dir or config.get('work_dir') or f'work_dirs/{name}'
    refused = apply_flags(config, args)
    if not smoke:
        return _check(config, hasattr(args, 'smoke'), refused)
    if args.launcher != 'none':
        raise SystemExit(f'--smoke runs in one process, but got --launcher {args.launcher}; leave '
                         f'it out')
    if args.work_dir and Path(args.work_dir).exists() and any(Path(args.work_dir).iterdir()):
        raise SystemExit(f'{args.work_dir!r} should be empty or missing for --smoke; set '
                         f'another --work-dir, or leave it out')
    if problems := refused + check_config(config).problems:
        raise SystemExit('\n'.join(problems))
    with tempfile.TemporaryDirectory(prefix='mmdpad_smoke_') as folder:
        work_dir = args.work_dir or f'{folder}/work_dir'
        try:
            config, notes = make_smoke_config(config, work_dir, Path(folder))
        except (OSError, ValueError, ImportError) as error:
            raise SystemExit(f'--smoke: {error}') from error
        print(f'smoke: {name} in {work_dir}'
              + ('' if args.work_dir else ', which is deleted at the end'))
        print(*(f'  {note}' for note in notes), sep='\n', flush=True)
        if args.dry_run:
            return _check(config, training=True)
        run_smoke(config)
    return 0


def _check(config: Config, training: bool, refused: Sequence[str] = ()) -> int:
    """Print a dry run; ``refused`` lists the problems with the flags."""
    problems, notes = dry_run(config, training)
    print(format_findings([*refused, *problems], notes))
    return int(bool(refused or problems))
