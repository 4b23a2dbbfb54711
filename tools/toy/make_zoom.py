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

STEPS, ROWS, RATE = 500, 4, 0.6


def main() -> None:
    """Trains, saves and measures."""
    args = parse_args(PARSER)
    init = policy_beside(PARSER, args.out)
    start(args.seed)
    steps = max(1, round(STEPS * args.scale))
    progress = train(args.out, args.seed, steps, init, RATE, make_processor(zoom=True), ROWS,
                     maker=ZoomRowMaker)
    save_report(args.out, 'zoom', dict(
        seed=args.seed, steps=steps, answers=steps * ROWS * (len(ANSWERS) + CONVERSATIONS),
        minutes=round(progress.seconds / 60, 1),
        transformers=version('transformers'), **evaluate(args.out)))


if __name__ == '__main__':
    main()
