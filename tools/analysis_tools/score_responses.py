# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Scores stored responses by the reward terms of a config and by the published scorer.

    python tools/analysis_tools/score_responses.py responses.jsonl --out scored.jsonl

Each line has `response` (the text) and `solution`: "<box>(x1,y1),(x2,y2)</box><points>(x,y),(x,y)
</points>", or a JSON list if the answer is one. Lines of RolloutLogHook have no solution; they
already contain their rewards. No model is used, so terms that need one are left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmdpad.geometry.coordinates import COORDINATES
from mmdpad.utils import (
    check_config,
    check_file,
    open_config,
    read_jsonl,
    start_command,
    write_jsonl,
)

PUBLISHED = Path(__file__).parents[2] / 'configs/_base_/schedules/grpo.py'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('responses', metavar='IN.jsonl', help='lines, see above')
    parser.add_argument('--config', default=str(PUBLISHED), help='config with the rewards, by path '
                        'or name (default: the published recipe)')
    parser.add_argument('--coordinates', default='pixels', choices=COORDINATES,
                        help='coordinates in the responses (default: pixels)')
    parser.add_argument('--model-image-size', type=int, nargs=2, metavar=('W', 'H'),
                        default=(840, 840), help='for relative coordinates (default: 840 840)')
    parser.add_argument('--out', metavar='OUT.jsonl', help='write each line with its scores; a '
                        'taken name gets a number')
    args = parser.parse_args()
    check_file('responses', args.responses)
    config = check_config(args.config)

    with start_command():
        from mmengine.registry import init_default_scope

        from mmdpad.analysis.responses import (
            build_rule_terms,
            find_rule_terms,
            score_responses,
            summarize_responses,
        )
        from mmdpad.tasks import tasks_of_model
    init_default_scope('mmdpad')
    try:
        config = open_config(config)
        rewards, left_out = find_rule_terms(config)
        model = config.get('model') or {}
        tasks = tasks_of_model(model) if model.get('tasks') else None
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if not rewards:
        raise SystemExit(f'config {args.config!r} has no reward term that works without a model; '
                         f'name a training config with one')
    if left_out:
        print(f'left out, as they need a model: {", ".join(left_out)}', file=sys.stderr)
    try:
        rows = list(read_jsonl(args.responses))
        if not rows:
            raise ValueError(f'{args.responses!r} holds no lines')
        scored = score_responses(rows, build_rule_terms(rewards), args.coordinates,
                                 tuple(args.model_image_size[::-1]), tasks)
    except (KeyError, TypeError, ValueError) as error:
        raise SystemExit(str(error)) from error
    for name, value in summarize_responses(scored).items():
        print(f'{name:36}{value:10.4g}')
    if args.out:
        print(write_jsonl(args.out, scored))


if __name__ == '__main__':
    main()
