# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks every data set of a config and lists all that is wrong with its files.

    python tools/analysis_tools/check_dataset.py configs/dpad/qwen7b_reasonseg.py --load all

Its exit status is 1 if anything is wrong. Training and testing make the same checks, without
--load, before they start.
"""

from __future__ import annotations

import sys

from mmdpad.utils import config_parser, load_config, start_command


def number_or_all(text: str) -> int:
    """A number of items; 'all' is -1."""
    if text != 'all' and not text.isdecimal():
        raise ValueError
    return -1 if text == 'all' else int(text)


def main(command_line: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = config_parser(__doc__.splitlines()[0], 'train_dataloader.dataset.data_root=data/mine')
    parser.add_argument('--all', action='store_true',
                        help='show every problem, not the first few of each kind')
    parser.add_argument('--load', type=number_or_all, default=0, metavar='N|all',
                        help='run N items of each data set, or all, through their pipelines, which '
                        'decodes the images, too (default: 0)')
    args = parser.parse_args(command_line)
    config = load_config(args)

    start_command()
    from mmengine.registry import init_default_scope

    from mmdpad.datasets import DatasetError
    from mmdpad.datasets.checking import as_built, check_dataset, find_datasets
    init_default_scope(config.get('default_scope', 'mmdpad'))
    datasets = list(find_datasets(config))
    if not datasets:
        raise SystemExit(f'{args.config} has no data sets: no train_dataloader, val_dataloader or '
                         'test_dataloader')
    status = 0
    for loaders, dataset in datasets:
        try:
            report = check_dataset(as_built(loaders, dataset), args.load)
        except DatasetError as error:
            report, status = error.in_full() if args.all else str(error), 1
        except OSError as error:  # what data sets of mmengine and mmdet raise
            report, status = f'1 problem(s): {error}', 1
        print(f'{loaders}, {dataset["type"]}: {report}')
    return status


if __name__ == '__main__':
    sys.exit(main())
