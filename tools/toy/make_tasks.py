# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Makes the start policy of detection and question answering: `python tools/toy/make_tasks.py`.

It continues from the toy policy beside it (`DIR/../policy`), with a few more tokens, on answers of
which many have a mistake (`tasks_data`): loose boxes, missing and repeated objects, wrong evidence,
wrong answers, and descriptions that are generic or of another object. One is independent of the
other, so that no reward brings another for free.
"""
from __future__ import annotations

from importlib.metadata import version

from arguments import make_parser, parse_args, policy_beside

PARSER = make_parser(__doc__.splitlines()[0], 'tasks')
if __name__ == '__main__':
    parse_args(PARSER)  # --help does not wait for the imports below

from common import save_report, start
from make_policy import ROWS, train
from policy_files import make_processor
from tasks_data import TaskRowMaker
from tasks_eval import evaluate

STAGES = (
    dict(steps=1000, rate=1.0, asks=('answer', 'detect', 'answer', 'detect'), classes=(1, 2)),
    dict(steps=350, rate=0.6, asks=('detect', 'detect', 'detect', 'answer'), classes=(4, 4)))
"""Steps and share of the learning rates, and what is learned (`TaskRowMaker`), one stage after the
other. The first teaches the form, but hardly which objects have the shapes that are asked for; so
the second, and the config, asks for all."""


def main() -> None:
    """Trains, saves and measures."""
    args = parse_args(PARSER)
    init = policy_beside(PARSER, args.out)
    start(args.seed)
    answers, seconds = 0, 0.0
    for number, stage in enumerate(STAGES):
        stage = dict(stage, steps=max(1, round(stage['steps'] * args.scale)))
        seconds += train(args.out, args.seed + number, init=args.out if number else init,
                         processor=make_processor(tasks=True), maker=TaskRowMaker, **stage).seconds
        answers += stage['steps'] * ROWS * len(stage['asks'])
    save_report(args.out, 'tasks', dict(
        seed=args.seed, answers=answers, minutes=round(seconds / 60, 1),
        transformers=version('transformers'), **evaluate(args.out)))


if __name__ == '__main__':
    main()
