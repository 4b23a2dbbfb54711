# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Fits a calibration of box scores to the result of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmdpad.evaluation.calibration import (
    FITS,
    boxes_of,
    brier_score,
    expected_calibration_error,
    reliability_curve,
)
from mmdpad.evaluation.detection_summary import DETECTIONS
from mmdpad.evaluation.provenance import hash_image
from mmdpad.evaluation.results import Result
from mmdpad.evaluation.summary import kind_of
from mmdpad.models.scorers import Calibration
from mmdpad.models.scorers.calibration import as_inputs


def fit_calibration(result: Result, method: str = 'platt',
                    features: Sequence[str] = ('score', )) -> Calibration:
    """Fit the probability that a box is right, at the IoU threshold of the result.

    Boxes that are neither right nor wrong (on crowds, of classes that are not exhaustively marked)
    are left out. A box with an unknown feature, or a score of 0, which has no log odds, has the
    probability (k + r) / (m + 1): k of the m such boxes are right, and the share r of all boxes.

    Args:
        result: Of :class:`DetectionMetric`, with a box scorer.
        method: One of :data:`mmdpad.evaluation.calibration.FITS`.
        features: Names of features in the result; for 'isotonic' a single one.

    Raises:
        ValueError: The result is of another metric, does not say which scorer it is of, lacks a
            feature, has no boxes whose features are known, or all of these are right or all wrong;
            or the method or the features do not fit.
    """
    if method not in FITS:
        raise ValueError(f'`method` should be one of {tuple(FITS)}, but got {method!r}')
    if not features or len({*features}) < len(features):
        raise ValueError(f'`features` should be different names, but got {list(features)}')
    if (kind := kind_of(result.rows)) is not DETECTIONS:
        raise ValueError(f'{result.name} should be a result of {DETECTIONS.metric}, but is one of '
                         f'{kind.metric}; name another')
    protocol = result.summary.get('protocol', {})
    scorer = protocol.get('box_scorer')
    if not isinstance(scorer, dict):
        raise ValueError(f'{result.name} should be the result of an evaluation with '
                         f'`model.box_scorer`, whose .json beside it says so, but says '
                         f'{scorer or "nothing"!r}; evaluate with a scorer')
    right, columns, _ = boxes_of(result.rows)
    if unknown := [name for name in features if name not in columns or name == 'scores']:
        raise ValueError(f'`features` should be among {sorted({*columns} - {"scores"})}, which '
                         f'{result.name} has, but got {unknown}')
    inputs = as_inputs(columns, features)
    known = np.isfinite(inputs).all(axis=0)
    number, fitted = int(right[known].sum()), int(known.sum())
    if not 0 < number < fitted:
        raise ValueError(f'{result.name} should have right and wrong boxes whose features are '
                         f'known, but {number} of {fitted} are right; evaluate more images')
    calibration = Calibration(
        method, tuple(features), FITS[method](inputs[:, known], right[known]),
        missing=float((right[~known].sum() + right.mean()) / ((~known).sum() + 1)),
        scorer={name: value for name, value in scorer.items() if name != 'calibration'},
        fitted_on=dict(
            _origin(result), threshold=protocol.get('threshold'), n=len(right),
            right=int(right.sum()), unknown=len(right) - fitted,
            ignored=sum(value is None for row in result.rows for value in row['box_right']),
            before=_errors(np.nan_to_num(columns['score']), right)))
    after = _errors(calibration.apply(columns), right)
    return Calibration(**{**vars(calibration), 'fitted_on': dict(
        calibration.fitted_on, after=after)})


def curves(result: Result, calibration: Calibration) -> dict[str, list[dict[str, float]]]:
    """The reliability curves of a result before and after a calibration."""
    right, columns, _ = boxes_of(result.rows)
    return {'before': reliability_curve(np.nan_to_num(columns['score']), right),
            f'after ({calibration.method})': reliability_curve(calibration.apply(columns), right)}


def format_calibration(calibration: Calibration) -> str:
    """What a calibration was fitted on, and what it changes, as text."""
    fitted = calibration.fitted_on
    lines = [f'{calibration.method} of {", ".join(calibration.features)}: '
             f'{calibration.parameters if calibration.method == "platt" else ""}'.rstrip(': '),
             f'{fitted["n"]} boxes, of which {fitted["right"]} are right '
             f'({fitted["unknown"]} with unknown features or 0); {fitted["ignored"]} ignored ones '
             'left out', f'{"":10}{"ECE":>8}{"(width)":>9}{"Brier":>8}']
    lines += [f'{name:10}{own["ece"]:8.4f}{own["ece_width"]:9.4f}{own["brier"]:8.4f}'
              for name, own in ((name, fitted[name]) for name in ('before', 'after'))]
    if calibration.method == 'platt' and len(calibration.features) == 1 and (
            calibration.parameters['weights'][0] <= 0):
        lines.append(f'WARNING: the weight of {calibration.features[0]} is not positive, so boxes '
                     'with a higher value are right less often: the ranking is reversed')
    return '\n'.join([*lines, '(on the boxes it was fitted on)\n'])


def _errors(scores: np.ndarray, right: np.ndarray) -> dict[str, float]:
    return dict(ece=expected_calibration_error(scores, right),
                ece_width=expected_calibration_error(scores, right, equal='width'),
                brier=brier_score(scores, right))


def _origin(result: Result) -> dict[str, Any]:
    """Which data and policy a result is about, as far as it says so."""
    provenance = result.summary.get('provenance')
    known = provenance if isinstance(provenance, dict) else {}
    return dict(
        result=result.name.rpartition('/')[2], data_root=known.get('data_root'),
        data=(known.get('data') or {}).get('sha256'),
        policy=(known.get('weights') or {}).get('policy'), checkpoint=known.get('checkpoint'),
        images=sorted({hash_image(row['image'], row['id']) for row in result.rows}))
