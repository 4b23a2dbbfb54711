# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What selectors are worth, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmdpad.evaluation.best_of_n import NOT_SELECTORS, check_sums
from mmdpad.evaluation.measures import Row
from mmdpad.evaluation.results import Result
from mmdpad.evaluation.selection_summary import SELECTION
from mmdpad.evaluation.summary import kind_of
from mmdpad.utils.markdown import markdown_table

COVERAGES = (0.5, 0.7, 0.8, 0.9, 1.0)

NO_SUMS: Mapping[str, Mapping[str, float]] = {}

Summary = Mapping[str, Any]


def selection_rows(result: Result, sums: Mapping[str, Mapping[str, float]] = NO_SUMS
                   ) -> list[Row]:
    """The lines of a result of :class:`SelectionMetric`, with further weighted sums.

    Raises:
        ValueError: It is a result of another metric, or a selector in a sum is unknown.
    """
    if (kind := kind_of(result.rows)) is not SELECTION:
        raise ValueError(f'{result.name!r} should be a result of SelectionMetric, but is one of '
                         f'{kind.metric}; evaluate with SelectionMetric and '
                         f'`model.test_cfg.num_samples`')
    check_sums(sums, result.rows[0]['candidates'][0]['values'])
    return [dict(row, sums={**row['sums'], **sums}) for row in result.rows]


def format_selection(summary: Summary) -> str:
    """All tables of a result of :class:`SelectionMetric`, in Markdown.

    Args:
        summary: Its ``by_number`` and ``abstention``, see
            :mod:`mmdpad.evaluation.selection_summary`; ``chosen_by`` if that is about the choices
            of one selector.
    """
    most = summary['by_number'][-1]['n']
    return '\n\n'.join([
        'gIoU in percent of answers chosen among n, and what they cost a question:',
        table_by_number(summary),
        'Share of the gap between the mean and the best of n that is closed, in percent '
        '(95 % bootstrap intervals over questions):',
        table_of_gaps(summary),
        f'Choosing among {most}; over the mean and over greedy are differences of gIoU on the same '
        f'questions:',
        table_of_ways(summary),
        f'If the less certain answers {_chooser(summary)}are rejected: AURC is the area under the '
        f'risk-coverage curve (lower is better; in parentheses that of the best possible order), '
        + _compared(summary) + 'then the gIoU of the share of questions that is answered:',
        table_of_coverage(summary)]) + '\n'


def _chooser(summary: Summary) -> str:
    return f'among those chosen by {summary["chosen_by"]} ' if 'chosen_by' in summary else ''


def _compared(summary: Summary) -> str:
    return (f'over {summary["chosen_by"]} is the difference to the AURC by its own value, '
            if 'chosen_by' in summary else '')


def selectors_in(summary: Summary) -> list[str]:
    """The names of the selectors in a summary."""
    return [way for way in summary['by_number'][-1]['ways'] if way not in NOT_SELECTORS]


def table_by_number(summary: Summary) -> str:
    """The gIoU of each way for each n, without intervals."""
    ways = list(summary['by_number'][-1]['ways'])
    return markdown_table(
        ['n', 'tokens', 'seconds', 'CLIP calls', *ways, 'pass@n'],
        [[str(at['n']), f'{at["tokens"]:.0f}', f'{at["seconds"]:.2f}', f'{at["clip_calls"]:.1f}',
          *(f'{at["ways"][way]["giou"][0]:.1f}' for way in ways),
          f'{at["ways"]["oracle"]["accuracy"][0]:.1f}'] for at in summary['by_number']])


def table_of_gaps(summary: Summary) -> str:
    """The gap that each selector closes, for each n above 1."""
    names = selectors_in(summary)
    return markdown_table(['n', *names], [
        [str(at['n']), *(show_interval(at['ways'][name]['gap_closed'], 0) for name in names)]
        for at in summary['by_number'] if at['n'] > 1])


def table_of_ways(summary: Summary) -> str:
    """Everything about each way at n = N."""
    return markdown_table(
        ['answer', 'gIoU', 'cIoU', 'IoU > 0.5', 'over the mean', 'over greedy'],
        [[way, *(show_interval(found[number]) for number in ('giou', 'ciou', 'accuracy')),
          *(show_interval(found.get(number), signed=True) for number in ('gain', 'over_greedy'))]
         for way, found in summary['by_number'][-1]['ways'].items()])


def table_of_coverage(summary: Summary) -> str:
    """AURC of each selector, and the gIoU at some coverages."""
    over = [f'over {summary["chosen_by"]}'] if 'chosen_by' in summary else []
    return markdown_table(
        ['selector', 'AURC', *over, *(f'{100 * share:.0f} %' for share in COVERAGES)],
        [[name, f'{show_interval(found["aurc"], 3)} ({found["best_aurc"]:.3f})',
          *(show_interval(found.get('over_own'), 3, signed=True) for _ in over),
          *(f'{100 * (1 - _at(found["curve"], share)["risk"]):.1f}' for share in COVERAGES)]
         for name, found in summary['abstention'].items()])


def format_rejections(rejections: Sequence[Mapping[str, Any]]) -> str:
    """A table of what :func:`mmdpad.evaluation.selection_summary.reject_below` returns, with the
    ``selector``; empty without any."""
    if not rejections:
        return ''
    table = markdown_table(
        ['selector', 'below', 'answered, %', 'gIoU of these', 'rejected without a target, %',
         'rejected with one, %'],
        [[found['selector'], f'{found["threshold"]:g}', f'{100 * found["coverage"]:.1f}',
          '-' if found['risk'] is None else f'{100 * (1 - found["risk"]):.1f}',
          *(f'{100 * found[key]:.1f}' if key in found else '-'
            for key in ('no_target_abstained', 'target_abstained'))] for found in rejections])
    return f'\n{table}\n'


def helpful(summary: Summary) -> list[str]:
    """The selectors that are shown to help at n = N: the interval of their gain over the greedy
    answer, or without one over the mean of the N, is above 0."""
    found = summary['by_number'][-1]['ways']
    return [name for name in selectors_in(summary)
            if found[name].get('over_greedy', found[name]['gain'])[1] > 0]


def _at(curve: Sequence[Mapping[str, Any]], coverage: float) -> Mapping[str, Any]:
    return next(point for point in curve if point['coverage'] >= coverage - 1e-9)


def show_interval(found: Sequence[float] | None, digits: int = 1, signed: bool = False) -> str:
    """'value [low, high]', or a dash for None."""
    if found is None:
        return '-'
    value, low, high = (f'{one:{"+" if signed else ""}.{digits}f}' for one in found)
    return f'{value} [{low}, {high}]'
