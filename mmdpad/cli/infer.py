# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""`mmdpad infer IMAGE... "QUESTION"`, also `python tools/infer.py`."""

from __future__ import annotations

import argparse
import ast
import os.path as osp
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mmdpad.utils import check_config, check_file, open_config, start_command

if TYPE_CHECKING:
    from mmdpad.apis import Answer

TOY_CONFIG = 'mmdpad::dpad/tiny_shapes.py'


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Answer a question about each image; print and draw the answers.

    Args:
        argv: The arguments; None for those of this process.
        prog: The command's name in the help text.

    Raises:
        SystemExit: With a message about what is wrong.
    """
    parser = argparse.ArgumentParser(
        prog, description='Ask a question about images: the answer is a picture with mask, box and '
        'points, the reasoning and a caption, or what another task asks for: labelled boxes, or '
        'words. The default is the toy model, which ships with mmdpad and only knows synthetic '
        'scenes of plain shapes.')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files, or folders')
    parser.add_argument('question', help='asked about each image')
    parser.add_argument('--config', default=TOY_CONFIG, help='path of a config file, or the name '
                        'of one shipped with mmdpad (default: %(default)s)')
    parser.add_argument('--weights', help='a training checkpoint (default: the weights that the '
                        'config names)')
    parser.add_argument('--out-dir', default='outputs', help='folder for pictures and '
                        'results.jsonl; existing files are kept (default: %(default)s)')
    parser.add_argument('--task', help='name of one of the tasks of the config (model.tasks); '
                        'default: the first')
    parser.add_argument('--samples', type=int, metavar='N', help='sample N answers to each '
                        'question and choose one of them with --select')
    parser.add_argument('--select', type=read_select, metavar='SELECTOR', help='how to choose: '
                        'discrimination, decoder_score, likelihood, consensus, or a list of '
                        "weights and names, such as \"[(5, 'discrimination'), (1, 'consensus')]\"")
    parser.add_argument('--abstain-below', type=float, metavar='VALUE', help='give no answer if '
                        'the chosen one does not have at least this value')
    parser.add_argument('--abstain-by', type=read_select, metavar='SELECTOR', help='the '
                        'selector that gives this value (default: that of --select)')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if available)')
    args = parser.parse_args(argv)
    for image in args.images:
        if not osp.exists(image):
            raise SystemExit(f'image {image!r} does not exist')
    if not args.question.strip():
        raise SystemExit('the question is empty; ask something, such as "what keeps the rain off?"')
    config = check_config(args.config)
    check_file('weights', args.weights)

    with start_command():
        # Hide the log of which weights were loaded: the user is waiting for an answer.
        from mmengine.logging import MMLogger
        from transformers.utils import logging

        from mmdpad.apis import ReasonSegInferencer, new_log
        from mmdpad.apis.inputs import pair_queries
        from mmdpad.apis.reason_seg_inferencer import build_pipeline
        from mmdpad.datasets.transforms import pixel_limit
        from mmdpad.models.non_finite import NonFiniteError
        from mmdpad.tasks import find_task, tasks_of_model
        MMLogger.get_current_instance().setLevel('WARNING')
        logging.disable_progress_bar()
        try:
            cfg = open_config(config)
            # Fail before a large model is loaded.
            if args.task is not None:
                find_task(args.task, tasks_of_model(cfg.model))
            queries = pair_queries(args.images, args.question, pixel_limit(build_pipeline(cfg)))
            infer = ReasonSegInferencer(cfg, args.weights, args.device)
            ask = partial(infer.stream, task=args.task, samples=args.samples, select=args.select,
                          abstain_below=args.abstain_below, abstain_by=args.abstain_by)
            ask(queries[0].image, queries[0].question)  # checks the arguments, and asks nothing yet
        except (FileNotFoundError, ValueError) as error:
            raise SystemExit(str(error)) from error
    if args.config == TOY_CONFIG:
        print('this is the toy model, which only knows synthetic scenes of plain shapes; name '
              'another model with --config and --weights')
    log = new_log(args.out_dir)
    for query in queries:
        print(f'\n{query.path}', flush=True)
        try:
            answer = show(ask(query.image, query.question), sys.stdout.isatty())
        except NonFiniteError as error:
            raise SystemExit(str(error)) from error
        print(format_answer(answer, answer.write(log)), flush=True)
    print(f'\nall answers: {log}')


def show(pieces: Iterator[str | Answer], live: bool) -> Answer:
    """The answer at the end of a stream; on a terminal, the text is printed as it is written."""
    from mmdpad.visualization.text_panel import printable
    shown = 0
    for piece in pieces:
        if not isinstance(piece, str):
            break
        if live:
            print(printable(piece[shown:]), end='', flush=True)
            shown = len(piece)
    if shown:
        print('\n')
    return piece


def format_answer(answer: dict[str, Any], picture: str) -> str:
    """An answer as readable text; ``picture`` is the path of its drawing."""
    from mmdpad.visualization.text_panel import printable
    earlier = answer.get('conversation', {}).get('turns', ())[:-1]
    rows = dict(question=answer['question'],
                **{f'turn {n}': ' '.join(text.split()) for n, text in enumerate(earlier, start=1)},
                reasoning=answer['reasoning'], caption=answer['caption'],
                answer=answer.get('answer'))
    if answer['failure']:
        rows['no answer'] = answer['failure']
    if answer.get('samples'):
        rows['chosen'] = _describe_choice(answer['samples'])
    labelled = any('label' in item for item in answer['objects'])
    for number, item in enumerate(() if labelled else answer['objects'], start=1):
        name = 'box' if len(answer['objects']) == 1 else f'box {number}'
        rows[name] = f'{_sides(item)} (x1, y1, x2, y2; pixels)'
    rows['picture'] = picture
    width = max(map(len, rows))
    lines = [f'  {name:{width}}  {printable(text)}' for name, text in rows.items() if text]
    return '\n'.join(lines + (format_objects(answer['objects']) if labelled else []))


def format_objects(objects: Sequence[dict[str, Any]]) -> list[str]:
    """A table of labelled objects, a line each."""
    from mmdpad.visualization.text_panel import printable
    table = [('label', 'score', 'x1, y1, x2, y2', 'description'), *(
        (item['label'], f'{item["score"]:.2f}', _sides(item), item['description'])
        for item in objects)]
    cells = [[' '.join(printable(cell).split()) for cell in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ['', *('  ' + '  '.join(map(str.ljust, row, widths)).rstrip() for row in cells)]


def _describe_choice(samples: Sequence[dict[str, Any]]) -> str:
    """Which of several answers was chosen, and the values of all."""
    values = ', '.join('none' if one['value'] is None else f'{one["value"]:.3g}'
                       for one in samples)
    number = next((str(n) for n, one in enumerate(samples, start=1) if one['chosen']), 'none')
    return f'{number} of {len(samples)} (values {values})'


def read_select(text: str) -> Any:
    """The selector that the command line names: a short name, or a list or dict as in a config."""
    try:
        return ast.literal_eval(text) if text[:1] in ('[', '{') else text
    except (ValueError, SyntaxError) as error:
        raise argparse.ArgumentTypeError(
            f'should be a name, a list or a dict, but is {text!r} ({error})') from error


def _sides(item: dict[str, Any]) -> str:
    return ', '.join(f'{side:.0f}' for side in item['box'])
