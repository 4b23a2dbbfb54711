# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Makes the start policy that looks closer: `python tools/toy/make_zoom.py`.

It continues from the toy policy beside it (`DIR/../policy`), with a few more tokens, on scenes of
tiny objects: answers at once, and conversations of a call and an answer, both with mistakes
(`zoom_data`). It answers at once to `find`, and sometimes looks first when asked to `look`.
"""
from __future__ import annotations

from importlib.metadata import version

from arguments import make_parser, parse_args, policy_beside

PARSER = make_parser(__doc__.splitlines()[0], 'zoom')
if __name__ == '__main__':
    parse_args(PARSER)  # --help does not wait for the imports below

from common import save_report, start
from make_policy import train
from policy_files import make_processor
from zoom_data import ANSWERS, CONVERSATIONS, ZoomRowMaker
from zoom_eval import evaluate

ROWS = 4
STAGES = (dict(steps=500, rate=0.6), dict(steps=800, rate=1.0))
"""Steps and share of the learning rates, one stage after the other. The first teaches the form; the
second, with the full rates and so with the auxiliary head, also where things are in a crop."""


def main() -> None:
    """Trains, saves and measures."""
    args = parse_args(PARSER)
    init = policy_beside(PARSER, args.out)
    start(args.seed)
    steps, seconds = [max(1, round(stage['steps'] * args.scale)) for stage in STAGES], 0.0
    for number, stage in enumerate(STAGES):
        seconds += train(args.out, args.seed + number, steps[number], args.out if number else init,
                         stage['rate'], make_processor(zoom=True), ROWS, maker=ZoomRowMaker).seconds
    save_report(args.out, 'zoom', dict(
        seed=args.seed, answers=sum(steps) * ROWS * (len(ANSWERS) + CONVERSATIONS),
        minutes=round(seconds / 60, 1), transformers=version('transformers'),
        **evaluate(args.out)))


if __name__ == '__main__':
    main()
