# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The tables of a study of selectors in the toy world.

A study is a folder of ``POLICY/seed_0/WORLD.SPLIT.samples.jsonl``, the lines of
:class:`SelectionMetric` that ``tools/analysis_tools/run_selection_study.py`` writes. The weights of
a sum are fitted on the validation scenes of all worlds, and everything that is reported is about
the test scenes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdpad.evaluation.best_of_n import CONSENSUS, VOTE
from mmdpad.evaluation.measures import Row
from mmdpad.evaluation.results import read_result
from mmdpad.evaluation.selection_summary import SELECTION, describe_abstentions
from mmdpad.utils.markdown import markdown_table

from .selection_tables import (
    Summary,
    helpful,
    selection_rows,
    selectors_in,
    show_interval,
    table_by_number,
    table_of_gaps,
)
from .selector_weights import fit_weights

POLICIES = dict(start='the start policy', trained='the trained policy')
WORLDS = dict(few='few objects', many='many objects', look_alikes='look-alikes')
SUM = 'sum'

Cell = tuple[str, str]  # a policy and a world


def read_study(folder: Path) -> tuple[dict[Cell, Summary], dict[str, dict[str, float]]]:
    """Summarize the test scenes of all settings.

    Returns:
        The ``by_number`` and ``abstention`` of each policy and world
        (:mod:`mmdpad.evaluation.selection_summary`), with the weighted sum :data:`SUM`, and
        ``judged``: a selector -> ``abstention`` of what this one chooses; and each policy's weights
        of the sum.
    """
    found: dict[Cell, Summary] = {}
    weights: dict[str, dict[str, float]] = {}
    for policy in POLICIES:
        validation = [row for world in WORLDS for row in _read(folder, policy, world, 'val')]
        weights[policy] = fit_weights(
            validation, [*validation[0]['candidates'][0]['values'], CONSENSUS])
        for world in WORLDS:
            rows = _read(folder, policy, world, 'test', {SUM: weights[policy]})
            summary = SELECTION.tables(rows)
            found[policy, world] = dict(summary, judged={
                name: describe_abstentions(rows, name) for name in selectors_in(summary)
                if name != VOTE})
    return found, weights


def _read(folder: Path, policy: str, world: str, split: str,
          sums: Mapping[str, Mapping[str, float]] | None = None) -> list[Row]:
    path = folder / policy / 'seed_0' / f'{world}.{split}.samples.jsonl'
    return selection_rows(read_result(str(path)), sums or {})


def format_study(found: Mapping[Cell, Summary],
                 weights: Mapping[str, Mapping[str, float]]) -> str:
    """The conclusions that follow from the numbers, and all tables, in Markdown."""
    most = next(iter(found.values()))['by_number'][-1]['n']
    parts = [*conclude(found), f'### Choosing among {most}',
             f'gIoU in percent of each way to get an answer, over greedy: the difference to the '
             f'greedy answer to the same question, gap: the share of the distance between the mean '
             f'of the {most} and the best that is closed, in percent, AURC: the area under the '
             f'risk-coverage curve (lower is better). In brackets: 95 % bootstrap intervals over '
             f'scenes.']
    for policy, title in POLICIES.items():
        parts += [f'**{title.capitalize()}**; the weights of the sum, fitted on validation scenes: '
                  + ', '.join(f'{name} {weight:g}' for name, weight in weights[policy].items()),
                  _table_of_cells({world: found[policy, world] for world in WORLDS})]
    parts += ['### When to abstain',
              'AURC of what a selector chooses, if the value of another one says when to abstain, '
              'minus that by its own value; below 0 the other one is better at that.',
              _table_of_judges(found)]
    for (policy, world), summary in found.items():
        parts += [f'### {POLICIES[policy].capitalize()}, {WORLDS[world]}',
                  'gIoU in percent, and the cost of a question:', table_by_number(summary),
                  'Gap closed, in percent:', table_of_gaps(summary)]
    return '\n\n'.join(parts)


def conclude(found: Mapping[Cell, Summary]) -> list[str]:
    """Which selectors are shown to help (:func:`.selection_tables.helpful`), a sentence for each,
    and whether one can be recommended: only one that helps everywhere."""
    helps = {cell: helpful(summary) for cell, summary in found.items()}
    lines, everywhere = [], []
    for name in selectors_in(next(iter(found.values()))):
        where = [f'{POLICIES[policy]} with {WORLDS[world]}' for (policy, world), names in
                 helps.items() if name in names]
        if len(where) == len(found):
            everywhere.append(name)
        lines.append(f'- `{name}`: shown to help ' + (
            'nowhere.' if not where else 'everywhere.' if name in everywhere
            else f'in {len(where)} of {len(found)} settings: {"; ".join(where)}.'))
    told = ', '.join(f'`{name}`' for name in everywhere)
    return ['A selector is shown to help where the interval of its gain over the greedy answer is '
            'above 0.', '\n'.join(lines),
            f'**Shown to help in every setting: {told}.**' if everywhere else
            '**No selector is shown to help in every setting, so none is recommended.**']


def _table_of_cells(summaries: Mapping[str, Summary]) -> str:
    rows: list[Sequence[str]] = []
    for world, summary in summaries.items():
        for way, numbers in summary['by_number'][-1]['ways'].items():
            abstention: Mapping[str, Any] = summary['abstention'].get(way, {})
            rows.append([WORLDS[world], way, show_interval(numbers['giou']),
                         show_interval(numbers.get('over_greedy'), signed=True),
                         show_interval(numbers.get('gap_closed'), digits=0),
                         show_interval(abstention.get('aurc'), digits=3)])
    return markdown_table(['scenes', 'answer', 'gIoU', 'over greedy', 'gap', 'AURC'], rows)


def _table_of_judges(found: Mapping[Cell, Summary]) -> str:
    names = list(next(iter(found.values()))['judged'])
    return markdown_table(['policy', 'scenes', 'chosen by', *names], [
        [POLICIES[policy].removeprefix('the '), WORLDS[world], chooser,
         *(show_interval(by[name].get('over_own'), 3, signed=True) for name in names)]
        for (policy, world), summary in found.items()
        for chooser, by in summary['judged'].items()])
