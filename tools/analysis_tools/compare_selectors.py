# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Reports what choosing one of n sampled answers is worth, by each selector.

    python tools/analysis_tools/compare_selectors.py work_dirs/RUN
    python tools/analysis_tools/compare_selectors.py val.json --fit likelihood consensus
    python tools/analysis_tools/compare_selectors.py test.json \
        --sum both likelihood=2.5 consensus=1.5 --abstain-below consensus=0.5 --curve risk.png
    python tools/analysis_tools/compare_selectors.py val.json --chosen-by discrimination

RESULT was written by SelectionMetric. Everything follows from its lines, so no model is asked.
docs/evaluation.md explains the numbers.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

from mmdpad.utils import jsonable, start_command, write_atomically


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('result', metavar='RESULT', help='.jsonl or .json of SelectionMetric, or a '
                        'folder, in which the newest result is used')
    parser.add_argument('--sum', nargs='+', action='append', default=[], metavar='NAME|S=W',
                        help='also evaluate a weighted sum: a name, and SELECTOR=WEIGHT for each '
                        'selector; may be repeated')
    parser.add_argument('--fit', nargs='+', metavar='SELECTOR', help='only print the weights for '
                        'which the sum of these selectors chooses best, for other questions')
    parser.add_argument('--abstain-below', nargs='+', default=[], metavar='SELECTOR=VALUE',
                        help='also report what rejecting choices below these values would do')
    parser.add_argument('--chosen-by', metavar='SELECTOR', help='compare how well the selectors '
                        'say when to abstain from what this one chooses (default: from what they '
                        'choose)')
    parser.add_argument('--out', nargs='+', default=[], metavar='FILE',
                        help='also write .md or .json; a taken name gets a number')
    parser.add_argument('--curve', metavar='OUT.png', help='also draw the risk-coverage curves')
    args = parser.parse_args()
    wrong = [name for name in args.out if Path(name).suffix not in ('.md', '.json')]
    if wrong:
        parser.error(f'--out should end in .md or .json, but got {wrong[0]!r}')
    if args.curve is not None and not args.curve.endswith('.png'):
        parser.error(f'--curve should end in .png, but got {args.curve!r}')
    sums = {name: dict(_assign(parser, '--sum', weights)) for name, *weights in args.sum}
    thresholds = _assign(parser, '--abstain-below', args.abstain_below)

    with start_command():
        from mmdpad.analysis.selection_tables import (
            format_rejections,
            format_selection,
            selection_rows,
        )
        from mmdpad.analysis.selector_weights import fit_weights
        from mmdpad.evaluation.results import read_result
        from mmdpad.evaluation.selection_summary import (
            SELECTION,
            describe_abstentions,
            reject_below,
        )
        from mmdpad.visualization import plot_risk_coverage
    try:
        rows = selection_rows(read_result(args.result), sums)
        if args.fit:
            print(' '.join(f'{name}={weight}' for name, weight in
                           fit_weights(rows, args.fit).items()))
            return
        summary = SELECTION.tables(rows)
        if args.chosen_by:
            summary['chosen_by'] = args.chosen_by
            summary['abstention'] = describe_abstentions(rows, args.chosen_by)
        summary['rejections'] = [
            dict(selector=name, **reject_below(rows, name, value, args.chosen_by))
            for name, value in thresholds]
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    page = format_selection(summary) + format_rejections(summary['rejections'])
    print(page, end='')
    for name in args.out:
        content = page if name.endswith('.md') else json.dumps(jsonable(summary), indent=2)
        print(write_atomically(name, content.encode()))
    if args.curve:
        print(plot_risk_coverage({name: found['curve'] for name, found in
                                  summary['abstention'].items()}, args.curve))


def _assign(parser: argparse.ArgumentParser, option: str, texts: Sequence[str]
            ) -> list[tuple[str, float]]:
    """Pairs of a name and a number from texts such as consensus=0.5."""
    pairs = []
    for text in texts:
        name, _, number = text.rpartition('=')
        try:
            pairs.append((name, float(number)))
        except ValueError:
            name = ''
        if not name or not math.isfinite(pairs[-1][1]):
            parser.error(f'{option} should have SELECTOR=NUMBER, but got {text!r}')
    return pairs


if __name__ == '__main__':
    main()
