# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks every data set of a config and lists all problems in its files.

    python tools/analysis_tools/check_dataset.py configs/dpad/qwen7b_reasonseg.py --load all
    python tools/analysis_tools/check_dataset.py CONFIG --load 20 --show-dir pictures

The exit status is 1 if there is a problem. Training and testing make the same checks, without
--load, before they start.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mmdpad.utils import config_parser, load_config, start_command, unique_path


def number_or_all(text: str) -> int:
    """A number of items; -1 for 'all'."""
    if text != 'all' and not text.isdecimal():
        raise ValueError
    return -1 if text == 'all' else int(text)


class Pictures:
    """Writes a picture of each item it is called with, ``PREFIX_NUMBER.png``."""

    def __init__(self, folder: str, prefix: str) -> None:
        self.folder, self.prefix = Path(folder), prefix
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, item: Any) -> None:
        from PIL import Image

        from mmdpad.geometry.coordinates import scale_boxes, scale_points
        from mmdpad.visualization import draw_answer
        try:
            image, sample = item['inputs']['image'], item['data_samples']
            targets = sample.model_targets
        except (KeyError, TypeError, AttributeError):
            raise SystemExit('--show-dir draws the output of a pipeline from LoadReasoningImage '
                             'to PackReasoningInputs, with targets; leave it out for this data '
                             'set') from None
        masks = sample.gt_instances.masks if 'gt_instances' in sample else None
        names = dict(zip(sample.get('class_labels', ()), sample.get('classes', ()), strict=True))
        shapes = sample.model_shape, sample.ori_shape
        picture = draw_answer(
            image.permute(1, 2, 0).numpy(), boxes=scale_boxes(targets.bboxes, *shapes).tolist(),
            points=scale_points(targets.points, *shapes).flatten(0, 1).tolist(),
            question=sample.question, answer=', '.join(dict.fromkeys(sample.get('answers', ()))),
            labels=[names[label] for label in targets.labels.tolist()] if names else (),
            gt_mask=None if masks is None else masks.any(dim=0).numpy(),
            note=f'{sample.img_path}: {len(targets)} target(s)')
        path = self.folder / f'{self.prefix}_{sample.sample_idx:04}.png'
        Image.fromarray(picture).save(unique_path(str(path)))


def main(command_line: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = config_parser(__doc__.splitlines()[0], 'train_dataloader.dataset.data_root=data/mine')
    parser.add_argument('--all', action='store_true',
                        help='show every problem, not only the first few of each kind')
    parser.add_argument('--load', type=number_or_all, default=0, metavar='N|all',
                        help='run N items of each data set, or all, through their pipelines, which '
                        'also decodes the images (default: 0)')
    parser.add_argument('--show-dir', metavar='DIR', help='write a picture of each item of --load '
                        'to this folder: question, target, box and points')
    args = parser.parse_args(command_line)
    if args.show_dir and not args.load:
        parser.error('--show-dir shows the items of --load, which is 0; add --load N')
    with start_command():
        config = load_config(args)

        from mmengine.registry import init_default_scope

        from mmdpad.datasets import DatasetError
        from mmdpad.datasets.checking import as_built, check_dataset, find_datasets
        from mmdpad.registry import scope_of, type_name
    init_default_scope(scope_of(config, 'mmdpad'))
    datasets = list(find_datasets(config))
    if not datasets:
        raise SystemExit(f'{args.config} has no data sets: no train_dataloader, val_dataloader or '
                         'test_dataloader')
    asks = bool((config.get('model') or {}).get('policy'))
    status = 0
    for loaders, dataset in datasets:
        try:
            show = Pictures(args.show_dir, loaders.partition('_')[0]) if args.show_dir else None
            report = check_dataset(as_built(loaders, dataset), args.load, show, asks)
        except DatasetError as error:
            report, status = error.in_full() if args.all else str(error), 1
        except (OSError, ImportError, ValueError) as error:  # from files, packages and arguments
            report, status = f'1 problem(s): {error}', 1
        print(f'{loaders}, {type_name(dataset)}: {report}')
    return status


if __name__ == '__main__':
    sys.exit(main())
