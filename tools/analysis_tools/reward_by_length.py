# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Tells which reward terms pay for longer chains of reasoning, and which for shorter ones.

    python tools/analysis_tools/reward_by_length.py work_dirs/RUN/*/rollouts.jsonl

For each stage of the training: what responses with the longer chains of their group earn over those
with the shorter ones, by term, unweighted, with the standard error over groups; and the words of
both kinds of chains. Logs of several runs (seeds) are taken together. A chain that shrinks where no
term has a negative number here shrinks for another reason than reward.
"""

from __future__ import annotations

import argparse

from mmdpad.utils import check_file, start_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('logs', nargs='+', metavar='LOG.jsonl', help='rollouts.jsonl of runs')
    parser.add_argument('--stages', type=int, default=5, metavar='N',
                        help='parts that the training is cut into (default 5)')
    args = parser.parse_args()
    for log in args.logs:
        check_file('log', log)

    with start_command():
        from mmdpad.analysis.pages.rollouts import read_rollouts
        from mmdpad.analysis.reward_by_length import format_stages, length_gaps
    try:
        stages = length_gaps((row for log in args.logs for row in read_rollouts(log)), args.stages)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if not stages:
        raise SystemExit('all chains of a group are equally long, in every group')
    print(format_stages(stages))


if __name__ == '__main__':
    main()
