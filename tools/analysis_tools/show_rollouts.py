# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Shows the best, the worst and the most contested groups of a training step.

    python tools/analysis_tools/show_rollouts.py work_dirs/RUN/TIME/rollouts.jsonl --iter 40
    python tools/analysis_tools/show_rollouts.py work_dirs/RUN/TIME/rollouts.jsonl --out page.html

RolloutLogHook writes the log. Run this where the image paths are valid, usually in the folder in
which training was started.
"""

from __future__ import annotations

import argparse

from mmdpad.utils import check_file, start_command, write_atomically


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('log', metavar='LOG.jsonl', help='rollouts.jsonl of a run')
    step = parser.add_mutually_exclusive_group()
    step.add_argument('--iter', type=int, metavar='N', help='iteration, from 1')
    step.add_argument('--last', action='store_true', help='the last iteration (the default)')
    parser.add_argument('--task', help='only prompts of this task; sums of rewards of several '
                        'tasks are not comparable')
    parser.add_argument('--top', type=int, default=3, metavar='N',
                        help='groups of each kind (default 3)')
    parser.add_argument('--out', metavar='PAGE.html',
                        help='write a page instead of printing; a taken name gets a number')
    args = parser.parse_args()
    if args.top < 1:
        parser.error(f'--top should be at least 1, but got {args.top}')
    check_file('log', args.log)

    with start_command():
        from mmdpad.analysis.pages.rollouts import (
            notable_groups,
            read_step,
            rollouts_as_html,
            rollouts_as_text,
        )
        from mmdpad.datasets.transforms import read_image_if_any
    try:
        iteration, groups = read_step(args.log, args.iter, args.task)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    sections = notable_groups(groups, args.top)
    if args.out is None:
        print(rollouts_as_text(iteration, sections), end='')
    else:
        page = rollouts_as_html(iteration, sections, read_image_if_any)
        print(write_atomically(args.out, page.encode()))


if __name__ == '__main__':
    main()
