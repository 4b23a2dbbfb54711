# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Makes the demo's start policy: `python tools/toy/make_loose_boxes.py [--out DIR]`.

It continues from the toy policy beside it (`DIR/../policy`), for a few minutes at a low learning
rate, on answers of which three in four list all objects and then have a loose box: 2.2 times as
wide and high as the object, with points anywhere in it. The others go straight to the object and a
tight box. So it keeps the form and names the object as often, but mostly locates it loosely, and
the geometry rewards have something to teach.
"""
from __future__ import annotations

from importlib.metadata import version

from arguments import make_parser, parse_args, policy_beside

PARSER = make_parser(__doc__.splitlines()[0], 'loose_boxes')
if __name__ == '__main__':
    parse_args(PARSER)  # --help does not wait for the imports below

from common import save_report, start
from make_policy import QUESTIONS, ROWS, train
from policy_eval import evaluate

STEPS = 300
RATE = 0.2
LOOSE = 0.75


def main() -> None:
    """Trains, saves and measures."""
    args = parse_args(PARSER)
    init = policy_beside(PARSER, args.out)
    start(args.seed)
    steps = max(1, round(STEPS * args.scale))
    progress = train(args.out, args.seed, steps, init, RATE, loose=LOOSE)
    numbers = evaluate(args.out, greedy=True) | evaluate(args.out, greedy=False)
    save_report(args.out, 'loose_boxes', dict(
        seed=args.seed, steps=steps, answers=steps * ROWS * QUESTIONS,
        minutes=round(progress.seconds / 60, 1),
        transformers=version('transformers'), **numbers))


if __name__ == '__main__':
    main()
