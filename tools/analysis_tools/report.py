# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Summarizes a run on one page: numbers, curves, alarms, responses, best and worst answers.

    python tools/analysis_tools/report.py work_dirs/RUN --out report.html

The page needs no other file and no network. Run this where the image paths are valid, usually in
the folder in which training was started. The page states what the run lacks.
"""

from __future__ import annotations

import argparse
import os.path as osp
from pathlib import Path
from typing import TYPE_CHECKING

from mmdpad.utils import (
    check_file,
    rollout_logs,
    start_command,
    training_logs,
    write_atomically,
)

if TYPE_CHECKING:
    from mmdpad.analysis.pages.run_page import Evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work_dir', type=Path, help='the work dir of a run, with TIME/ in it')
    parser.add_argument('--result', metavar='FILE', help='show the answers of this result '
                        '(default: the newest one of each metric and data set in the work dir)')
    parser.add_argument('--out', metavar='PAGE.html',
                        help='default WORK_DIR/report.html; a taken name gets a number')
    args = parser.parse_args()
    check_file('result', args.result)

    with start_command():
        from mmdpad.analysis.pages.run_page import Evaluation, run_as_html
        from mmdpad.datasets.transforms import read_image_if_any
        from mmdpad.evaluation.results import find_summaries, newest_of_each
        from mmdpad.evaluation.summary import METRICS
    summaries = find_summaries(str(args.work_dir))
    if not (training_logs(args.work_dir) or rollout_logs(args.work_dir) or summaries):
        raise SystemExit(f'{str(args.work_dir)!r} should be the work dir of a run, with '
                         f'TIME/vis_data/scalars.json, TIME/rollouts.jsonl or results of '
                         f'{METRICS} in it, but has none; name the folder that was passed to '
                         f'tools/train.py as --work-dir')
    try:
        shown = [args.result] if args.result else map(str, newest_of_each(summaries))
        page = run_as_html(
            args.work_dir, [Evaluation(osp.relpath(path, args.work_dir), summary)
                            for path, summary in summaries.items()],
            [read_evaluation(path, args.work_dir) for path in shown], read_image_if_any)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    print(write_atomically(args.out or str(args.work_dir / 'report.html'), page.encode()))


def read_evaluation(path: str, work_dir: Path) -> Evaluation:
    from mmdpad.analysis.pages.run_page import Evaluation
    from mmdpad.evaluation.results import read_result
    result = read_result(path)
    return Evaluation(osp.relpath(path, work_dir), result.summary, result.rows)


if __name__ == '__main__':
    main()
