# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Fits the probability that a box is right to the scores of an evaluation.

    python tools/analysis_tools/calibrate_scores.py work_dirs/RUN/TIME/detection.jsonl \
        --out calibration.json

RESULT was written by DetectionMetric on a validation split, with `model.box_scorer`. The
calibration is applied with `--cfg-options model.box_scorer.calibration=calibration.json`, on other
images. docs/detection.md explains the numbers.
"""

from __future__ import annotations

import argparse

from mmdpad.utils import start_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('result', metavar='RESULT', help='.jsonl or .json of DetectionMetric, or a '
                        'folder, in which the newest is used')
    parser.add_argument('--method', choices=('platt', 'isotonic'), default='platt',
                        help='Platt scaling (default; one or several features), or isotonic '
                        'regression (one feature, at least a thousand boxes)')
    parser.add_argument('--features', nargs='+', default=['score'], metavar='NAME',
                        help='features in the result, such as s_margin logp_label (default: score)')
    parser.add_argument('--out', required=True, metavar='OUT.json',
                        help='where to write the calibration; a taken name gets a number')
    parser.add_argument('--curve', metavar='OUT.png',
                        help='also draw the reliability before and after')
    args = parser.parse_args()
    for option, name, ending in (('--out', args.out, '.json'), ('--curve', args.curve, '.png')):
        if name is not None and not name.endswith(ending):
            parser.error(f'{option} should end in {ending}, but got {name!r}')

    with start_command():
        from mmdpad.analysis.box_calibration import curves, fit_calibration, format_calibration
        from mmdpad.evaluation.results import read_result
        from mmdpad.visualization import plot_reliability
    try:
        result = read_result(args.result, 'DetectionMetric')
        calibration = fit_calibration(result, args.method, args.features)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(format_calibration(calibration), end='')
    print(calibration.write(args.out))
    if args.curve:
        print(plot_reliability(curves(result, calibration), args.curve))


if __name__ == '__main__':
    main()
