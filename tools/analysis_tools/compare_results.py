# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Compares results on one test set: a table with intervals, and paired differences to the first.

    python tools/analysis_tools/compare_results.py work_dirs/A work_dirs/B
    python tools/analysis_tools/compare_results.py a.json b.jsonl --out table.md table.json

A result is a file written by ReasonSegMetric or `tools/test.py --out`, or a folder, in which the
newest is used. If protocols or data differ, the page says so first.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mmdpad.utils import jsonable, start_command, write_atomically


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('results', nargs='+', metavar='RESULT', help='two or more')
    parser.add_argument('--out', nargs='+', default=[], metavar='FILE',
                        help='also write .md or .json; a taken name gets a number')
    args = parser.parse_args()
    if len(args.results) < 2:
        parser.error('name two or more results')
    wrong = [name for name in args.out if Path(name).suffix not in ('.md', '.json')]
    if wrong:
        parser.error(f'--out should end in .md or .json, but got {wrong[0]!r}')

    with start_command():
        from mmdpad.analysis.comparison import compare_results, format_comparison
        from mmdpad.evaluation.results import read_result
    try:
        comparison = compare_results([read_result(path) for path in args.results])
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    page = format_comparison(comparison)
    print(page, end='')
    for name in args.out:
        content = page if name.endswith('.md') else json.dumps(jsonable(comparison), indent=2)
        print(write_atomically(name, content.encode()))


if __name__ == '__main__':
    main()
