# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The report of a study (:mod:`mmdpad.analysis.study`) as a page and as Markdown.

Its conclusions are derived from the numbers. Model text is escaped, and its control characters
are replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmdpad.analysis.seeds import format_interval, format_number
from mmdpad.utils.markdown import markdown_table, wrap_markdown
from mmdpad.visualization.curves import plot_seeds
from mmdpad.visualization.text_panel import printable

from .answer_html import answer_as_html
from .html import bullets, page, picture, safe, table

Study = Mapping[str, Any]
Row = dict[str, Any]

MAIN = ('geometric', 'discriminative')
"""Reference and arm of the study's question."""
CAPTION = 'caption'
"""The arm that differs from the second one of :data:`MAIN` only in its reward."""
START, END = '<!-- study -->', '<!-- /study -->'
HIGHER, LOWER, UNCLEAR, UNKNOWN = 'higher', 'lower', 'not distinguishable from zero', 'unknown'

# Reference -> measure, its name in a sentence, its unit there, and DPAD's claim about it.
_IN_BOTH = (('ciou', 'cIoU', ' points', HIGHER),
            ('reasoning_tokens_percent', 'reasoning length', ' %', LOWER))
_CLAIMS = {MAIN[0]: _IN_BOTH,
           CAPTION: (*_IN_BOTH, ('specificity', 'share of specific captions', ' points', HIGHER))}
_DIGITS = dict(rank=2, margin=3)
_MAIN_ARMS = ('giou', 'ciou', 'reasoning_tokens', 'specificity')
_MAIN_CHANGES = ('giou', 'ciou', 'reasoning_tokens_percent', 'specificity')
_HOW = (
    'gIoU is the mean IoU of the samples. cIoU is their summed intersection over their summed '
    'union. Both are in percent. "reasoning" and "caption" are mean lengths in tokens. "specific" '
    "is the share of samples whose caption fits the true object's crop better than every other "
    "object's crop (unknown for runs that write no captions). \"rank\" is the mean rank of the "
    "true object's crop under the caption (1 is "
    'best), over the samples with a usable caption; "ranked" is their share. "margin" is the mean '
    'of S1 - S2, over the samples that have it. "failures" are answers that cannot be parsed. '
    'A group without signal is a prompt whose responses all earn the same; the share is a mean '
    'over the training, known for runs whose logs have it.',
    "Numbers are means over seeds; [low, high] is the 95 % interval of Student's t over seeds, "
    'with the scenes taken as fixed. Differences are paired by seed. "reasoning, %" is the change '
    'in reasoning length relative to the reference. After a slash comes a second 95 % interval, '
    'over seeds and scenes: a percentile bootstrap that draws seeds, then scenes, {resamples} '
    'times, with the same draws for both arms and all seeds. With few seeds it is too narrow. A '
    'difference is called higher or lower if neither interval contains zero. A single seed has no '
    'interval. Seeds with identical answers, such as those of the start policy in greedy decoding, '
    'have an interval of width zero. Nothing is corrected for multiple comparisons.')


@dataclass(frozen=True)
class Table:
    """A title, the names of the columns, and cells as text."""
    title: str
    head: list[str]
    rows: list[list[str]]


def judge(found: Mapping[str, float]) -> str:
    """The conclusion from a difference's intervals: :data:`HIGHER` or :data:`LOWER` if all of them
    are on that side of zero, else :data:`UNCLEAR`; :data:`UNKNOWN` if one is NaN."""
    ends = [(found['low'], found['high'])]
    if 'scenes_low' in found:
        ends.append((found['scenes_low'], found['scenes_high']))
    if any(math.isnan(end) for pair in ends for end in pair):
        return UNKNOWN
    if all(low > 0 for low, _ in ends):
        return HIGHER
    return LOWER if all(high < 0 for _, high in ends) else UNCLEAR


def headlines(study: Study) -> list[tuple[str, str]]:
    """Answers to the study's question: 'Holds', 'Does not hold', 'Not shown' or 'Unknown', and a
    sentence with the numbers, for each claim and mode; then what is incomplete."""
    arm, lines = MAIN[1], []
    found = {one['reference']: one for one in study['differences'] if one['arm'] == arm}
    for mode in study['modes']:
        for reference, claims in _CLAIMS.items():
            if reference not in found or not found[reference]['seeds'][mode]:
                lines.append(('Unknown', f'{mode} answers: {arm} is not compared with '
                                         f'{reference}, as no seed is complete in both.'))
                continue
            numbers = found[reference]['numbers'][mode]['all']
            lines += [_headline(claim, numbers[claim[0]], f'{mode} answers', reference)
                      for claim in claims]
    if left_out := [line for arm in study['arms'] for line in arm['missing']]:
        lines.append(('Incomplete', f'{len(left_out)} entries are in the list of what is missing.'))
    return lines


def _headline(claim: tuple[str, str, str, str], found: Mapping[str, float], where: str,
              reference: str) -> tuple[str, str]:
    _, name, unit, claimed = claim
    verdict = judge(found)
    status = {claimed: 'Holds', UNCLEAR: 'Not shown', UNKNOWN: 'Unknown'}.get(
        verdict, 'Does not hold')
    return status, (f'{where}, {name} of {MAIN[1]} compared with {reference}: {verdict}, '
                    f'{_in_words(found, unit)}.')


def comparison_lines(study: Study, arm: str, reference: str) -> list[str]:
    """A sentence for each mode in which both have a seed: how an arm differs from another one."""
    return [f'{arm} minus {reference}, {mode} answers: ' + '; '.join(
        f'{name} {_in_words(found["numbers"][mode]["all"][measure], unit)}'
        for measure, name, unit, _ in _CLAIMS[CAPTION]) + '.'
        for found in study['differences'] if (found['arm'], found['reference']) == (arm, reference)
        for mode in study['modes'] if found['seeds'][mode]]


def arms_table(study: Study, mode: str, sets: Sequence[str],
               measures: Sequence[str] = ()) -> Table:
    """Each arm's numbers, set by set; a column names the set if there are several. ``measures``
    are the columns, all by default."""
    measures = measures or list(study['arms'][0]['numbers'][mode]['all'])
    rows = [[arm['title'], f'{len(arm["complete"][mode])} of {arm["seeds"]}',
             *([name] if len(sets) > 1 else []),
             *(_cell(measure, arm['numbers'][mode][name][measure]) for measure in measures)]
            for name in sets for arm in study['arms']]
    head = ['arm', 'seeds', *(['set'] if len(sets) > 1 else []),
            *(study['titles'][measure] for measure in measures)]
    return Table(f'Arms, {mode} answers, {_scope(sets)}', head, rows)


def differences_table(study: Study, mode: str, sets: Sequence[str],
                      measures: Sequence[str] = ()) -> Table:
    """Each arm minus the one that it is compared with, as :func:`arms_table`."""
    differences = study['differences']
    if not measures:
        measures = list(differences[0]['numbers'][mode]['all']) if differences else []
    rows = [[f'{found["arm"]} minus {found["reference"]}', str(len(found['seeds'][mode])),
             *([name] if len(sets) > 1 else []),
             *(_cell(measure, found['numbers'][mode][name][measure], '+') for measure in measures)]
            for name in sets for found in differences]
    head = ['difference', 'pairs', *(['set'] if len(sets) > 1 else []),
            *(study['titles'][measure] for measure in measures)]
    return Table(f'Differences, {mode} answers, {_scope(sets)}', head, rows)


def signal_table(study: Study) -> Table:
    """The share of groups without signal in the training of each arm whose logs have it, and how
    it differs from the arms that it is compared with."""
    changes = {arm['name']: '; '.join(
        f'{_cell("no_signal", found["no_signal"], "+")} (to {found["reference"]})'
        for found in study['differences']
        if found['arm'] == arm['name'] and found['no_signal']['n']) for arm in study['arms']}
    return Table('Groups without signal in training', [
        'arm', 'seeds', study['titles']['no_signal'], 'difference'], [
        [arm['name'], str(arm['no_signal']['n']), _cell('no_signal', arm['no_signal']),
         changes[arm['name']] or '-'] for arm in study['arms'] if arm['no_signal']['n']])


def main_tables(study: Study) -> list[Table]:
    """The tables to read first, of all sets together: the main and control arms, how they differ,
    how every other arm differs from one of :data:`MAIN`, the same of greedy answers without the
    control arms, and groups without signal. A table without rows is left out."""
    groups = {arm['name']: arm['group'] for arm in study['arms']}

    def part(*wanted: str, references: Sequence[str] = tuple(groups)) -> dict[str, Any]:
        return dict(study, arms=[arm for arm in study['arms'] if arm['group'] in wanted],
                    differences=[found for found in study['differences'] if groups[found['arm']]
                                 in wanted and found['reference'] in references])

    both, sets = part('main', 'control'), study['sets'][:1]
    variants = part('other', references=MAIN)
    tables = [
        replace(arms_table(both, 'sampled', sets, _MAIN_ARMS),
                title='Main and control arms, sampled answers'),
        replace(differences_table(both, 'sampled', sets, _MAIN_CHANGES),
                title='Differences between them, sampled answers'),
        replace(differences_table(variants, 'sampled', sets, _MAIN_CHANGES),
                title='Variants, sampled answers'),
        replace(arms_table(part('main'), 'greedy', sets, _MAIN_ARMS),
                title='Main arms, greedy answers'),
        replace(differences_table(variants, 'greedy', sets, _MAIN_CHANGES),
                title='Variants, greedy answers'),
        signal_table(part(*groups.values(), references=MAIN))]
    return [found for found in tables if found.rows]


def all_tables(study: Study) -> list[Table]:
    """All sets together, then one by one; for each mode, the arms and the differences."""
    parts = [study['sets'][:1], study['sets'][1:]]
    return [make(study, mode, sets) for sets in parts for make in (arms_table, differences_table)
            for mode in study['modes']] + [
        found for found in [signal_table(study)] if found.rows]


def missing_lines(study: Study) -> list[str]:
    """Every run that is excluded and every comparison that is not made, with the reason."""
    return [*(line for arm in study['arms'] for line in arm['missing']), *study['notes']]


def study_as_markdown(study: Study) -> str:
    """The answers in words, how numbers are found, all tables, and what is missing, between
    :data:`START` and :data:`END`."""
    missing = '\n'.join(f'- {line}' for line in missing_lines(study)) or 'Nothing.'
    return _as_block(['\n'.join(f'- **{status}:** {line}' for status, line in headlines(study)),
                      *_how(study), *map(_as_markdown, all_tables(study)),
                      '### Missing', missing])


def summary_as_markdown(study: Study) -> str:
    """:func:`main_tables` between :data:`START` and :data:`END`, and how much is missing."""
    left_out = len(missing_lines(study))
    return _as_block([*map(_as_markdown, main_tables(study)),
                      *([f'Missing runs and comparisons: {left_out}.'] if left_out else [])])


def _as_block(parts: Sequence[str]) -> str:
    return wrap_markdown('\n\n'.join([START, *parts, END]))


def _as_markdown(found: Table) -> str:
    rows = [[*map(_plain, row)] for row in found.rows]
    return f'### {found.title}\n\n{markdown_table([*map(_plain, found.head)], rows)}'


def study_as_html(study: Study, folder: Path, pairs: Sequence[tuple[Row, Row]] | None,
                  read_image: Callable[[str], np.ndarray | None]) -> str:
    """The report as a self-contained page without scripts.

    Args:
        study: See :func:`mmdpad.analysis.study.analyze_study`.
        folder: The study's folder, for its training logs.
        pairs: The same questions answered by both arms of :data:`MAIN`; None if the responses were
            not kept.
        read_image: Path of an image -> (H, W, 3) uint8 RGB, or None if it cannot be read.
    """
    curves = plot_training(study, folder)
    return page('Study', [
        '<h1>Study: what holds and what does not</h1>',
        bullets(f'<b>{safe(status)}:</b> {safe(line)}' for status, line in headlines(study)),
        *(f'<p>{safe(text)}</p>' for text in _how(study)),
        *(f'<h2>{safe(found.title)}</h2>{table(found.head, found.rows)}'
          for found in all_tables(study)),
        '<h2>Training</h2>',
        '<p>Main arms: the mean over seeds, and a band from the lowest to the highest seed, '
        'at the steps that all seeds have; each seed is smoothed first where it has 30 '
        'values or more.</p>' + picture(curves, 'png', 'Training curves') if curves else
        '<p>No main arm has a training log.</p>',
        '<h2>The same questions, answered by two arms</h2>',
        '<p>The first scenes in the order of the file, not chosen by result; sampled answers '
        'of the first seed that both arms have.</p>' if pairs else
        '<p>The archive of a study has no responses; <code>make study</code> generates them.</p>'
        if pairs is None else f'<p>{" and ".join(MAIN)} have no complete seed in common.</p>',
        *(_html_pair(study, pair, read_image) for pair in pairs or ()),
        '<h2>Runs</h2>', bullets(safe(line) for line in _included(study)),
        '<h2>Missing</h2>', bullets([safe(x) for x in missing_lines(study)] or ['Nothing.'])])


def plot_training(study: Study, folder: Path) -> bytes | None:
    """Training curves of the main arms as PNG; None if there are no logs."""
    return plot_seeds({arm['title']: [[str(folder / log) for log in logs]
                                      for logs in arm['logs'].values() if logs]
                       for arm in study['arms'] if arm['group'] == 'main'})


def _html_pair(study: Study, pair: tuple[Row, Row],
               read_image: Callable[[str], np.ndarray | None]) -> str:
    titles = {arm['name']: arm['title'] for arm in study['arms']}
    answers = ''.join(answer_as_html(titles[name], row, read_image(row['image']))
                      for name, row in zip(MAIN, pair, strict=True))
    scene = '/'.join(Path(pair[0]['image']).parts[-3:])
    return (f'<h3>{safe(pair[0]["question"])}</h3><p>{safe(scene)}</p>'
            f'<div class="pair">{answers}</div>')


def _included(study: Study) -> list[str]:
    """A line for each run whose numbers are in the report, by its folder."""
    return [f'{arm["name"]}/seed_{seed}: '
            + ', '.join(mode for mode in study['modes'] if seed in arm['complete'][mode])
            for arm in study['arms'] for seed in sorted(set().union(*arm['complete'].values()))]


def _how(study: Study) -> list[str]:
    samples = ', '.join(f'{name} {count}' for name, count in study['samples'].items())
    return [*(text.format(**study['method']) for text in _HOW), f'Samples: {samples}.']


def _scope(sets: Sequence[str]) -> str:
    return 'set by set' if len(sets) > 1 else 'all sets together' if sets[0] == 'all' else sets[0]


def _cell(measure: str, found: Mapping[str, float], sign: str = '') -> str:
    """Value and intervals; '-' if unknown."""
    if math.isnan(found['mean']):
        return '-'
    digits = _DIGITS.get(measure, 1)
    text = format_number(found['mean'], sign, digits) + format_interval(found, '', sign, digits)
    scenes = format_interval(found, 'scenes_', sign, digits)
    return f'{text} /{scenes}' if scenes else text


def _in_words(found: Mapping[str, float], unit: str) -> str:
    seeds = f'{found["n"]} seed{"" if found["n"] == 1 else "s"}'
    scenes = format_interval(found, 'scenes_', '+')
    return (f'{format_number(found["mean"], "+")}{unit}{format_interval(found, "", "+")} over '
            + seeds + (f',{scenes} over seeds and scenes' if scenes else ''))


def _plain(text: str) -> str:
    return printable(text).replace('\n', ' ')
