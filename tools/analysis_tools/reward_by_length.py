# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Reports which reward terms pay for longer reasoning, and which for shorter reasoning.

    python tools/analysis_tools/reward_by_length.py work_dirs/RUN/*/rollouts.jsonl

For each stage of training: how much more responses with longer reasoning earn than the others of
their group, by term, unweighted, with the standard error over groups; and the words of reasoning
of both kinds. Logs of several runs (seeds) are pooled. If reasoning gets shorter although no term
has a negative number here, the cause is not the reward.
"""

from __future__ import annotations

import argparse

from mmdpad.utils import check_file, start_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('logs', nargs='+', metavar='LOG.jsonl', help='rollouts.jsonl of runs')
    parser.add_argument('--stages', type=int, default=5, metavar='N',
                        help='number of stages that training is divided into (default 5)')
    parser.add_argument('--task', help='only prompts of this task')
    args = parser.parse_args()
    for log in args.logs:
        check_file('log', log)

    with start_command():
        from mmdpad.analysis.pages.rollouts import of_task, read_rollouts
        from mmdpad.analysis.reward_by_length import format_stages, length_gaps
    try:
        rows = of_task((row for log in args.logs for row in read_rollouts(log)), args.task)
        stages = length_gaps(rows, args.stages)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if not stages:
        raise SystemExit('in every group, all responses have the same reasoning length')
    print(format_stages(stages))


if __name__ == '__main__':
    main()
