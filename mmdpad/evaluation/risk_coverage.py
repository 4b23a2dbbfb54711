# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How wrong answers are if only the more certain questions are answered (arXiv 1705.08500).

Notation: n questions with a confidence (n,), -inf where there is none, and a risk (n,) in [0, 1],
here 1 - IoU. A threshold t answers the questions whose confidence is at least t: their share is the
coverage, their mean risk the selective risk. Questions of equal confidence are answered together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .bootstrap import draw_counts, percentile_interval

_POINTS = 50


def area_under_curve(confidences: np.ndarray, risks: np.ndarray) -> float:
    """AURC (arXiv 1805.08206), in [0, 1], lower is better: the mean over the questions of the
    selective risk with their own confidence as the threshold."""
    return float(_areas(confidences, risks, np.ones((1, len(risks))))[0])


def best_area(risks: np.ndarray) -> float:
    """The lowest :func:`area_under_curve` that any confidence can have."""
    return area_under_curve(-np.arange(len(risks), dtype=np.float64), np.sort(risks))


def area_interval(confidences: np.ndarray, risks: np.ndarray) -> list[float]:
    """[low, high] of :func:`area_under_curve`, the percentile bootstrap over questions."""
    areas = [_areas(confidences, risks, counts) for counts in draw_counts(len(risks))]
    return percentile_interval(np.concatenate(areas)[:, None])[0].tolist()


def area_difference(confidences: np.ndarray, others: np.ndarray, risks: np.ndarray) -> list[float]:
    """[value, low, high] of :func:`area_under_curve` by some confidences minus that by others of
    the same answers; the bootstrap draws the same questions for both."""
    value = area_under_curve(confidences, risks) - area_under_curve(others, risks)
    draws = np.concatenate([_areas(confidences, risks, counts) - _areas(others, risks, counts)
                            for counts in draw_counts(len(risks))])
    return [value, *percentile_interval(draws[:, None])[0].tolist()]


def _areas(confidences: np.ndarray, risks: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(R,) for counts of the questions (R, n), each of at least one question."""
    order, ends = _ranked(confidences)
    counts = counts[:, order]
    answered = counts.cumsum(axis=1)[:, ends]
    wrong = (counts * risks[order]).cumsum(axis=1)[:, ends]
    selective = np.divide(wrong, answered, out=np.zeros_like(wrong), where=answered > 0)
    return (np.diff(answered, prepend=0, axis=1) * selective).sum(axis=1) / counts.sum(axis=1)


def _ranked(confidences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The questions by falling confidence, and the places of the last ones of equal confidence."""
    order = np.argsort(-confidences, kind='stable')
    ranked = confidences[order]
    return order, np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))


def risk_coverage_curve(confidences: np.ndarray, risks: np.ndarray) -> list[dict[str, Any]]:
    """At most 50 points, with rising ``coverage``: beside it the ``threshold`` (None: all questions
    are answered, also those without a confidence) and the ``risk``."""
    order, ends = _ranked(confidences)
    coverage = (ends + 1) / len(order)
    selective = risks[order].cumsum()[ends] / (ends + 1)
    wanted = np.searchsorted(coverage, np.arange(1, _POINTS + 1) / _POINTS - 1e-9)
    return [dict(coverage=float(coverage[place]), risk=float(selective[place]),
                 threshold=float(value) if np.isfinite(value := confidences[order[ends[place]]])
                 else None) for place in np.unique(wanted)]
