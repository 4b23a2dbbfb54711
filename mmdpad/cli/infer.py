# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""`mmdpad infer IMAGE... "QUESTION"`, also `python tools/infer.py`."""

from __future__ import annotations

import argparse
import os.path as osp
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdpad.utils import check_file, find_config, read_jsonl, unique_path

MINIATURE = 'mmdpad::dpad/tiny_shapes.py'
SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Answers a question about each image, and prints and draws the answers.

    Args:
        argv: The arguments; None for those of this process.
        prog: What the help text calls the command.

    Raises:
        SystemExit: With what is wrong.
    """
    parser = argparse.ArgumentParser(
        prog, description='Ask a question about images: the answer is a picture with mask, box and '
        'points, the reasoning and a description. The default model is the miniature, which comes '
        'with mmdpad and knows nothing but made scenes of plain shapes.')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files, or folders')
    parser.add_argument('question', help='asked about each image')
    parser.add_argument('--config', default=MINIATURE, help='path of a config file, or the name of '
                        'one that comes with mmdpad (default: %(default)s)')
    parser.add_argument('--weights', help='what training wrote (default: the weights that the '
                        'config names)')
    parser.add_argument('--out-dir', default='outputs', help='folder for pictures and '
                        'results.jsonl; what is there is kept (default: %(default)s)')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if there is one)')
    args = parser.parse_args(argv)
    images = find_images(args.images)
    if not args.question.strip():
        raise SystemExit('the question is empty; ask something, such as "what keeps the rain off?"')
    config = find_config(args.config)
    if args.weights:
        check_file('weights', args.weights)

    # Which weights were loaded is for logs; here an answer is waited for.
    from mmengine.logging import MMLogger
    from transformers.utils import logging

    from mmdpad.apis import ReasonSegInferencer
    from mmdpad.apis.inputs import pair_queries
    MMLogger.get_current_instance().setLevel('WARNING')
    logging.disable_progress_bar()
    lines = unique_path(osp.join(args.out_dir, 'results.jsonl'))
    try:
        pair_queries(images, args.question)  # before a large model is loaded
        infer = ReasonSegInferencer(config, args.weights, args.device)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from error
    infer(images, args.question, out_dir=args.out_dir)
    for answer in read_jsonl(lines):
        print(format_answer(answer, args.out_dir))
    print(f'\nall answers: {lines}')


def find_images(paths: Sequence[str]) -> list[str]:
    """The image files that paths name: themselves, and in a folder all of it, by name.

    Raises:
        SystemExit: Nothing is there, or a folder without an image.
    """
    images = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            if not inside:
                raise SystemExit(f'the folder {str(path)!r} has no image ({", ".join(SUFFIXES)})')
            images += map(str, inside)
        else:
            check_file('image', str(path))
            images.append(str(path))
    return images


def format_answer(answer: dict[str, Any], folder: str) -> str:
    """An answer for people; `answer` is a line of results.jsonl in `folder`."""
    rows = dict(question=answer['question'], reasoning=answer['reasoning'],
                caption=answer['caption'])
    if answer['failure']:
        rows['no answer'] = answer['failure']
    for number, item in enumerate(answer['objects'], start=1):
        name = 'box' if len(answer['objects']) == 1 else f'box {number}'
        sides = ', '.join(f'{side:.0f}' for side in item['box'])
        rows[name] = f'{sides} (x1, y1, x2, y2; pixels)'
    rows['picture'] = osp.join(folder, answer['picture'])
    width = max(map(len, rows))
    return '\n'.join([f'\n{answer["image"]}', *(
        f'  {name:{width}}  {text}' for name, text in rows.items() if text)])
