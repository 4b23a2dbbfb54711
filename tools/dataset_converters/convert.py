# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Converts reasoning data between formats, or builds a data set from images, masks and questions.

    python tools/dataset_converters/convert.py masks MY_FOLDER jsonl data/mine
    python tools/dataset_converters/convert.py reasonseg data/ReasonSeg parquet OUT --split val test
    python tools/dataset_converters/convert.py jsonl data/mine coco OUT --copy-images

docs/data.md describes the formats. OUT appears only once it is complete, and is never overwritten.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path
from typing import Any

from mmdpad.datasets.conversion.formats import (
    ONE_MASK,
    SOURCES,
    TARGETS,
    loading_steps,
    source_config,
)
from mmdpad.utils import KeyValueError, KeyValues, refuse_existing, start_command

# Flags for `masks`, and the corresponding arguments of its data set.
MASK_FLAGS = {'images': 'data_prefix.img_path', 'masks': 'data_prefix.mask_path',
              'questions': 'ann_file', 'index_masks': 'index_masks'}


def parse_arguments(command_line: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('kind', choices=sorted(SOURCES), help='format of SRC')
    parser.add_argument('source', metavar='SRC', help='a folder, or a .jsonl file')
    parser.add_argument('target', choices=TARGETS, help='format to write')
    parser.add_argument('destination', metavar='OUT', type=Path,
                        help='a new folder')
    parser.add_argument('--split', nargs='+', default=['train'], metavar='NAME',
                        help='splits to read, and to write under the same names (default: train)')
    parser.add_argument('--copy-images', action='store_true', help='copy images into OUT; without '
                        'it, jsonl and coco refer to them in place')
    parser.add_argument('--lossy', action='store_true',
                        help='leave out what the format cannot store, and report it')
    parser.add_argument('--source-options', nargs='+', action=KeyValues, default={},
                        metavar='KEY=VALUE', help='arguments of the data set that reads SRC, for '
                        'example split_file=refs(unc).p data_prefix.img_path=train2014')
    masks = parser.add_argument_group('masks', 'where to find the parts in SRC')
    masks.add_argument('--images', metavar='FOLDER', help='images (default: images)')
    masks.add_argument('--masks', metavar='FOLDER', help='PNG masks named like their images, or '
                       'NAME_1.png, NAME_2.png, ... for several objects (default: masks)')
    masks.add_argument('--questions', metavar='FILE', help='CSV or JSON with image, question and '
                       'optionally is_sentence and mask (default: questions.csv)')
    masks.add_argument('--index-masks', action='store_true', default=None,
                       help='each nonzero value of a mask is an object')
    args = parser.parse_args(command_line)
    given = [name for name in MASK_FLAGS if getattr(args, name) is not None]
    if given and args.kind != 'masks':
        parser.error(f'--{given[0].replace("_", "-")} is for masks, but SRC is {args.kind}')
    if len(args.split) > 1 and (args.kind == 'masks' or os.path.isfile(args.source)):
        parser.error(f'{args.source} has no splits, but got --split {" ".join(args.split)}; give '
                     'one name')
    for name in args.split:
        if name != Path(name).name or name[:1] in ('', '.'):
            parser.error(f'--split should be names of splits, without folders and not hidden, but '
                         f'got {name!r}; give other folders as SRC and OUT')
    for name in given:
        args.source_options[MASK_FLAGS[name]] = getattr(args, name)
    return args


def describe(counts: Counter, args: argparse.Namespace) -> str:
    """What was written, and the config that reads it."""
    lines = [f'{args.destination}: ' + ', '.join(
        f'{number} {name}' for name, number in counts.items() if number)]
    several = counts['items of several objects'] or (
        counts['items without object'] and args.kind not in ONE_MASK)
    steps = [*loading_steps(args.target), dict(type='ModelImageResize', size=(840, 840)),
             dict(type='TargetsFromMask'), dict(type='PackReasoningInputs')]
    lines.append('In a config (set `several_objects=True` in the model, too):' if several else
                 'In a config:')
    lines.append('pipeline = [\n' + ''.join(f'    {_as_call(step)},\n' for step in steps) + ']')
    for split in args.split:
        loader = next((name for name in ('val', 'test') if split.startswith(name)), 'train')
        dataset = source_config(args.target, str(args.destination), split)
        dataset = dict(_delete_=True, **dataset, **(dict(several_objects=True) if several else {}),
                       **(dict(test_mode=True) if loader != 'train' else {}))
        lines.append(f'{loader}_dataloader = dict(dataset={_as_call(dataset)[:-1]}, '
                     'pipeline=pipeline))')
    return '\n'.join(lines)


def _as_call(value: Any) -> str:
    """A config value in the style of config files."""
    if not isinstance(value, dict):
        return repr(value)
    return 'dict(' + ', '.join(f'{key}={_as_call(item)}' for key, item in value.items()) + ')'


def main(command_line: list[str] | None = None) -> None:
    args = parse_arguments(command_line)

    with start_command():
        from mmengine.registry import init_default_scope

        from mmdpad.datasets import DatasetError
        from mmdpad.datasets.conversion import convert, open_sources
    init_default_scope('mmdpad')
    try:
        refuse_existing(args.destination)  # first, since reading the sources may take a while
        sources = open_sources(args.kind, args.source, args.split, args.source_options)
        counts = convert(sources, loading_steps(args.kind), args.target, args.destination,
                         args.copy_images, args.lossy)
    except (DatasetError, OSError, ImportError) as error:
        raise SystemExit(str(error)) from error
    except KeyValueError as error:
        raise SystemExit(f'--source-options: {error}') from error
    print(describe(counts, args))


if __name__ == '__main__':
    main()
