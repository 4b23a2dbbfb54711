# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What tools that take a config share: the command line, and the config it asks for."""

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
    """A parser with CONFIG and --cfg-options, for :func:`load_config`.

    Args:
        description: What the command does.
        example: A KEY=VALUE that a user may want to override.
        prog: The command's name; None for that of the script.
    """
    parser = argparse.ArgumentParser(prog, description=description)
    parser.add_argument('config', help='path of a config file, or the name of one that comes with '
                        'a package: mmdpad::dpad/tiny_shapes.py')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE',
                        help=f'override entries of the config, for example {example}')
    return parser


def load_config(args: argparse.Namespace, **entries: Any) -> Config:
    """The config file that a command line names, with some entries, and with what it overrides."""
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
    """:func:`find_config`, but ends the program with one line where there is none."""
    try:
        return find_config(name)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error


def experiment_parser(description: str, example: str,
                      prog: str | None = None) -> argparse.ArgumentParser:
    """A :func:`config_parser` with --work-dir, --launcher and --dry-run, too."""
    parser = config_parser(description, example, prog)
    parser.add_argument('--work-dir', help='folder for logs, checkpoints and results '
                        '(default: work_dirs/<name of the config>)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'],
                        default='none', help='how the processes were started')
    parser.add_argument('--dry-run', action='store_true', help='instead: check everything that can '
                        'be checked without loading weights, and list what is wrong')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0,
                        help=argparse.SUPPRESS)
    return parser


def check_file(what: str, path: str | None, hint: str = '') -> None:
    """Ends the program with one line unless ``path`` is None or a file."""
    if path is not None and not Path(path).is_file():
        raise SystemExit(f'{what} {path!r} is not there{hint}')


def check_checkpoint(what: str, path: str | None, config: Config) -> None:
    """Ends the program with one line unless ``path`` is None, a file, or a folder of parts and the
    config has a strategy that reads one."""
    if path is None or not Path(path).is_dir():
        check_file(what, path)
    elif config.get('strategy') is None:
        raise SystemExit(f'{what} {path!r} is a folder of parts: make one file of it by '
                         f'`mmdpad run merge_shards {path} FILE`')


def read_config(args: argparse.Namespace) -> Config:
    """The config that a command line of :func:`experiment_parser` asks for. Several processes on
    CPUs are joined here, see :func:`.processes.join_processes`."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    config = load_config(args, launcher=args.launcher)
    config.work_dir = (args.work_dir or config.get('work_dir')
                       or f'work_dirs/{Path(args.config).stem}')
    import torch  # here, so that a help text does not wait for it

    from .processes import join_processes
    if args.launcher != 'none' and not torch.cuda.is_available():
        join_processes(args.launcher, config.env_cfg.dist_cfg.get('timeout'))
    return config
