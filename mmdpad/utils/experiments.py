# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Shared by the tools that take a config: the command line, and loading the config."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .configs import UnreadableConfig, find_config, import_names, open_config
from .key_values import KeyValueError, KeyValues, override

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')  # of a config


def config_parser(description: str, example: str,
                  prog: str | None = None) -> argparse.ArgumentParser:
    """A parser with CONFIG and --cfg-options, for use with :func:`load_config`.

    Args:
        description: What the command does.
        example: A KEY=VALUE that a user may want to override.
        prog: The command's name; None for the script's.
    """
    parser = argparse.ArgumentParser(prog, description=description)
    parser.add_argument('config', help='path of a config file, or the name of one shipped with a '
                        'package: mmdpad::dpad/tiny_shapes.py')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE',
                        help=f'override entries of the config, for example {example}')
    return parser


def load_config(args: argparse.Namespace, **entries: Any) -> Config:
    """Load the config that a command line names, add ``entries`` and apply its overrides."""
    try:
        config = open_config(check_config(args.config))
        import_names(config._cfg_dict)
    except UnreadableConfig as error:
        raise SystemExit(str(error)) from error
    try:
        override(config, {**entries, **(args.cfg_options or {})})
    except KeyValueError as error:
        raise SystemExit(f'--cfg-options do not fit config {args.config!r}: {error}; correct '
                         f'them') from error
    return config


def check_config(name: str) -> str:
    """:func:`find_config`, but exit with a one-line message if there is no such config."""
    try:
        return find_config(name)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error


def experiment_parser(description: str, example: str,
                      prog: str | None = None) -> argparse.ArgumentParser:
    """A :func:`config_parser` that also has --work-dir, --launcher and --dry-run."""
    parser = config_parser(description, example, prog)
    parser.add_argument('--work-dir', help='folder for logs, checkpoints and results '
                        '(default: work_dirs/<name of the config>)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'],
                        default='none', help='how the processes were started')
    parser.add_argument('--dry-run', action='store_true', help='only check what can be '
                        'checked without loading weights, and list the problems')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0,
                        help=argparse.SUPPRESS)
    return parser


def check_file(what: str, path: str | None) -> None:
    """Exit with a one-line message unless ``path`` is None or a file."""
    if path is None or Path(path).is_file():
        return
    if Path(path).is_dir():
        raise SystemExit(f'{what} {path!r} should be a file, but is a folder; name a file in it')
    raise SystemExit(f'{what} {path!r} does not exist; correct the path')


def check_checkpoint(what: str, path: str | None, config: Config) -> None:
    """Exit with a one-line message unless ``path`` is None, a file, or a folder of shards and the
    config's strategy reads one."""
    if path is None or not Path(path).is_dir():
        check_file(what, path)
    elif config.get('strategy') is None:
        raise SystemExit(f'{what} {path!r} is a folder of shards: merge it into one file with '
                         f'`mmdpad run merge_shards {path} FILE`')


def read_config(args: argparse.Namespace) -> Config:
    """Read the config for a command line of :func:`experiment_parser`. This also joins several
    processes on CPUs, see :func:`.processes.join_processes`."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    config = load_config(args, launcher=args.launcher)
    config.work_dir = (args.work_dir or config.get('work_dir')
                       or f'work_dirs/{Path(args.config).stem}')
    import torch  # imported here so that a help text does not wait for it

    from .processes import join_processes
    if args.launcher != 'none' and not torch.cuda.is_available():
        join_processes(args.launcher, config.env_cfg.dist_cfg.get('timeout'))
    return config
