# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What choosing one of N sampled answers is worth, by every selector and for every number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mmdpad.evaluation.best_of_n import (
    check_names,
    check_sums,
    numbers_of_answers,
    parts_of,
    scores_of,
)
from mmdpad.evaluation.measures import Row
from mmdpad.evaluation.scoring import as_counted
from mmdpad.evaluation.selection_summary import SELECTION
from mmdpad.geometry.mask_iou import score_mask
from mmdpad.models.selectors import ConsensusSelector, OracleSelector
from mmdpad.models.selectors.consensus_selector import vote
from mmdpad.registry import METRICS
from mmdpad.structures import Candidate, ParseFailure, ReasoningOutput, Selection

from .reason_seg_metric import ReasonSegMetric


@METRICS.register_module()
class SelectionMetric(ReasonSegMetric):
    """Scores all answers that were sampled to each question, and what selectors choose among them.

    It needs ``model.test_cfg.num_samples`` of :class:`ReasoningSegmentor` (N), and its lines are
    those of :class:`ReasonSegMetric` about the chosen answers, with all N added
    (:func:`describe_selection`). Everything below is computed from the lines, in percent unless
    stated otherwise; metrics (prefix ``selection``):

    - ``chosen_giou``, ``chosen_ciou`` of the answers that the model's own selector chose, with
      ``_low`` and ``_high``; where it abstained, the mask is empty;
    - for each way to get an answer, ``<way>_giou``, ``<way>_ciou`` and ``<way>_accuracy`` (the
      share with an IoU above 0.5): ``greedy`` (only with ``compare_greedy=True``); ``mean``, the
      average of the N; each selector that the model evaluated, ``consensus``, ``vote`` and
      ``sums``; and ``oracle``, the best of the N (its accuracy is pass@N);
    - ``<selector>_aurc`` in [0, 1], lower is better: the area under the risk-coverage curve, see
      :func:`mmdpad.evaluation.risk_coverage.area_under_curve`;
    - if the model abstained: ``coverage``, the share that was answered, ``answered_giou`` of these,
      ``no_target_abstained`` and ``target_abstained``, the shares of questions without and with a
      target that were rejected (if an annotation should mark a target but marks none, the question
      has one);
    - ``tokens``, ``seconds`` and ``clip_calls`` of a question, all N answers together;
    - ``num_samples`` (N), ``n``, ``n_no_target``, and those of the responses that were chosen, as
      in :class:`ReasonSegMetric`.

    The ``.json`` also has ``by_number``, all ways for n = 1, 2, 4, ..., N with the gain of each
    selector and the gap it closes (:func:`mmdpad.evaluation.selection_summary.compare_ways`;
    averages over parts of n answers, see :mod:`mmdpad.evaluation.best_of_n`), and ``abstention``,
    the risk-coverage curve of each selector for all N.

    Args:
        sums: Name -> weights by the names of selectors (not 'vote'): weighted sums to evaluate, as
            :class:`mmdpad.models.WeightedSelector` computes them.
        **kwargs: See :class:`ReasonSegMetric`; lines go to ``selection[_iter_N].jsonl``.
    """

    kind = SELECTION
    default_prefix = SELECTION.prefix

    def __init__(self, sums: Mapping[str, Mapping[str, float]] | None = None, **kwargs: Any
                 ) -> None:
        super().__init__(**kwargs)
        self.sums = {name: dict(weights) for name, weights in (sums or {}).items()}

    @staticmethod
    def reads(sample: dict) -> bool:
        """Whether a sample has masks and the answers that were sampled."""
        return 'selection' in sample and ReasonSegMetric.reads(sample)

    def score(self, sample: dict) -> Row:
        """The line of :class:`ReasonSegMetric`, and :func:`describe_selection`.

        Raises:
            ValueError: The sample has no ``selection``, or no values by a selector in ``sums``; or
                the name of a selector or a sum is another one's.
        """
        own = describe_selection(sample, self.ignore_regions)
        check_sums(self.sums, own['candidates'][0]['values'])
        return dict(super().score(sample), **own, sums=self.sums)


def describe_selection(sample: dict, ignore_regions: str) -> dict[str, Any]:
    """The columns about the answers that were sampled to a question.

    Args:
        sample: In the form of ``DetDataSample.to_dict()``, with ``selection``.
        ignore_regions: One of ``IGNORE_REGIONS``.

    Returns:
        ``task``; ``candidates``, of each of the N answers ``response``, ``usable``, ``failure``
        (also of a usable one whose mask was not decoded), ``truncated``, ``tokens``, ``values``
        (selector -> its value, None where there is none) and the scores of
        :func:`mmdpad.geometry.mask_iou.score_mask`; ``greedy``, the same of the greedy answer, or
        None; ``overlaps`` (N, N), see :class:`mmdpad.structures.Selection`; ``vote``: n ->
        :func:`score_votes`; ``chosen``, its index, None after an abstention; ``value`` and
        ``confidence``, see :class:`mmdpad.structures.Selection`; ``seconds`` (``sample``,
        ``decode``, ``select``) and ``clip_calls``.

    Raises:
        ValueError: There is no ``selection``, or a selector has the name of another way to get an
            answer.
    """
    if 'selection' not in sample:
        raise ValueError(f'SelectionMetric needs the answers that were sampled, `selection`, but '
                         f'the answer to {sample.get("question")!r} has none; set '
                         f'`model.test_cfg.num_samples` to 2 or more')
    sample = as_counted(sample, ignore_regions)
    selection: Selection = sample['selection']
    values = {name: own for name, own in selection.values.items() if name != OracleSelector.name}
    check_names(values)
    rows = [_describe(one, sample, ignore_regions) for one in selection.candidates]
    for k, row in enumerate(rows):
        row['values'] = {name: None if np.isnan(own[k]) else float(own[k])
                         for name, own in values.items()}
    return dict(
        task=sample.get('task'), candidates=rows,
        greedy=selection.greedy and _describe(selection.greedy, sample, ignore_regions),
        overlaps=selection.overlaps.tolist(),
        vote={str(n): score_votes(sample, rows, n, ignore_regions)
              for n in numbers_of_answers(len(rows))},
        chosen=selection.chosen,
        **{name: None if np.isnan(own := getattr(selection, name)) else own
           for name in ('value', 'confidence')},
        seconds=dict(selection.seconds), clip_calls=selection.clip_calls)


def score_votes(sample: dict, rows: Sequence[Row], n: int, ignore_regions: str
                ) -> dict[str, Any]:
    """Score what ``ConsensusSelector(vote=True)`` answers with.

    Args:
        sample, ignore_regions: See :func:`describe_selection`.
        rows: Its ``candidates``.
        n: Number of answers that vote.

    Returns:
        ``scores``, the mean :data:`mmdpad.evaluation.best_of_n.SCORES` over the parts of n
        consecutive answers; and ``value``, the selector's, None if there are several parts or no
        answer can be used.
    """
    selection: Selection = sample['selection']
    scores, value = [], None
    for part in parts_of(len(rows), n):
        voters = replace(selection, candidates=selection.candidates[part])
        if not voters.usable.any():
            scores.append(rows[part.start])
            continue
        answer = ReasoningOutput(None, None, ())
        scores.append(score_mask(_answered(sample, answer, vote(voters)[None]), ignore_regions)[2])
        if n == len(rows):
            value = float(np.nanmax(ConsensusSelector(vote=True).values(voters)))
    return dict(scores=scores_of(scores).mean(axis=1).tolist(), value=value)


def _describe(candidate: Candidate, sample: dict, ignore_regions: str) -> Row:
    _, failure, scores = score_mask(
        _answered(sample, candidate.parsed, candidate.instances.masks), ignore_regions)
    return dict(response=candidate.response, usable=candidate.usable,
                failure=failure and failure.reason, truncated=candidate.truncated,
                tokens=candidate.tokens, **scores)


def _answered(sample: dict, parsed: ReasoningOutput | ParseFailure, masks: Any) -> dict:
    """The sample with another answer."""
    return dict(sample, pred_instances=dict(masks=masks), reasoning=dict(parsed=parsed))
