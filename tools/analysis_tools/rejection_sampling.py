# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Picks sampled responses as targets of supervised training: above a reward, or the best ones.

    python tools/analysis_tools/rejection_sampling.py work_dirs/RUN/TIME/rollouts.jsonl \
        --above 4.5 --out data/rft/train.jsonl
    python tools/analysis_tools/rejection_sampling.py work_dirs/RUN/TIME/selection.jsonl \
        --best --by consensus --out data/best/train.jsonl

RolloutLogHook writes rollouts, SelectionMetric the answers of an evaluation. The lines are read by
JsonLinesDataset, and hold responses as the policy wrote them: train the same family of policies on
model images of the same size. Run this where the image paths are valid. docs/changing.md has the
training.
"""

from __future__ import annotations

import argparse
import os.path as osp

from mmdpad.utils import check_file, start_command, write_jsonl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('logs', nargs='+', metavar='LOG.jsonl',
                        help='rollouts.jsonl of runs, or lines of SelectionMetric')
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument('--above', type=float, metavar='SCORE', help='keep all different responses '
                       'with a higher score (rejection sampling)')
    which.add_argument('--best', action='store_true', help='keep the best response to each '
                       'question (best-of-N distillation)')
    parser.add_argument('--per-question', type=int, default=4, metavar='K', help='with --above: at '
                        'most the best K to each question (default: 4)')
    parser.add_argument('--by', metavar='SCORE', help='of rollouts: total (default), a reward term '
                        'or a signal; of SelectionMetric: iou (default) or a selector')
    parser.add_argument('--task', help='only questions of this task')
    parser.add_argument('--out', required=True, metavar='OUT.jsonl',
                        help='where to write the lines; a taken name gets a number')
    args = parser.parse_args()
    if args.per_question < 1:
        parser.error(f'--per-question should be at least 1, but got {args.per_question}')
    if not args.out.endswith('.jsonl'):
        parser.error(f'--out should end in .jsonl, but got {args.out!r}')
    for log in args.logs:
        check_file('log', log)

    with start_command():
        from mmdpad.analysis.rejection_sampling import as_targets, pick_responses, read_responses
    try:
        found = [one for log in args.logs for one in read_responses(log, args.by)
                 if args.task in (None, one.task)]
        kept, left_out = pick_responses(found, 1 if args.best else args.per_question, args.above)
        counts = ', '.join(f'{count} {reason}' for reason, count in left_out.most_common())
        told = (f'{len(kept)} of {len(found)} responses to {len({one.key for one in kept})} of '
                f'{len({one.key for one in found})} questions are kept; left out: '
                f'{counts or "none"}')
        if not kept:
            raise ValueError(f'{told}; nothing is written')
        lines = as_targets(kept, osp.dirname(osp.abspath(args.out)))
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(told)
    print(write_jsonl(args.out, lines))


if __name__ == '__main__':
    main()
