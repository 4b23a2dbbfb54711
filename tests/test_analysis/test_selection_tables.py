# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What selectors are worth, as tables; and the weights of their sums."""
import json
import runpy
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from mmdpad.analysis.selection_study import POLICIES, WORLDS, conclude, format_study, read_study
from mmdpad.analysis.selection_tables import format_selection, helpful, selection_rows
from mmdpad.analysis.selector_weights import fit_weights
from mmdpad.evaluation.best_of_n import numbers_of_answers
from mmdpad.evaluation.results import Result
from mmdpad.evaluation.selection_summary import (
    SELECTION,
    describe_abstentions,
    reject_below,
)
from mmdpad.utils import write_jsonl

TOOL = Path(__file__).parents[2] / 'tools/analysis_tools/compare_selectors.py'


def answer(iou, **values):
    return dict(response=f'of {iou}', usable=True, failure=None, truncated=False, tokens=10,
                iou=iou, intersection=100 * iou, union=100, values=values)


def make_rows(number=40, most=4, seed=0, skill=1.0):
    """Lines about questions with four answers, whose IoU `clip` and `prior` know a part of each;
    the greedy answer has the mean IoU."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(number):
        parts = rng.random((2, most))
        ious = parts.mean(axis=0)
        clip, prior = skill * parts + (1 - skill) * rng.random((2, most))
        overlaps = np.eye(most) + .5 * (1 - np.eye(most))
        rows.append(dict(
            index=index, id=index, image='a.png', question='q', task='find', is_sentence=False,
            num_targets=1 if index % 4 else 0, iou=ious[0], intersection=100 * ious[0], union=100,
            failure=None, truncated=False,
            candidates=[answer(iou, clip=c, prior=10 * p)
                        for iou, c, p in zip(ious, clip, prior, strict=True)],
            greedy=answer(ious.mean()), overlaps=overlaps.tolist(), sums={}, chosen=0, value=None,
            vote={str(n): dict(scores=[.5, 50, 100, .5], value=.5)
                  for n in numbers_of_answers(most)},
            seconds=dict(sample=1.), clip_calls=8))
    return json.loads(json.dumps(rows))


ROWS = make_rows()


def test_tables():
    summary = SELECTION.tables(ROWS)
    page = format_selection(summary)
    clip = summary['by_number'][-1]['ways']['clip']
    for cell in ('| n | tokens | seconds | CLIP calls | greedy | mean | clip | prior | consensus |',
                 '| 2 | 20 | 0.50 | 4.0 |', '| 4 | 40 | 1.00 | 8.0 |',
                 f'| clip | {clip["giou"][0]:.1f} [', f'| {clip["gain"][0]:+.1f} [+'):
        assert cell in page, cell
    assert helpful(summary) == ['clip', 'prior'], 'consensus is the first answer, the vote 0.5'


def test_the_fitted_sum_knows_both_parts():
    """With equal shares of both, whose spreads differ by a factor of 10, the sum is the IoU."""
    weights = fit_weights(ROWS, ['clip', 'prior', 'consensus'])
    assert weights['clip'] / weights['prior'] == pytest.approx(10, rel=.15)
    rows = selection_rows(Result('a', ROWS, {}), dict(both=weights))
    ways = SELECTION.tables(rows)['by_number'][-1]['ways']
    assert ways['both']['gap_closed'][0] > 97 > 80 > ways['clip']['gap_closed'][0]
    alone = fit_weights([dict(row, candidates=[dict(one, values=dict(
        clip=one['iou'], noise=round(1e6 * one['iou']) % 7)) for one in row['candidates']])
        for row in ROWS], ['noise', 'clip'])
    assert list(alone) == ['clip']


@pytest.mark.parametrize('names, message', [
    (['clip', 'vote'], "'fitted' has one of vote"),
    (['consensus'], 'Of the selectors consensus, at least one should have different')])
def test_weights_that_cannot_be_fitted(names, message):
    with pytest.raises(ValueError, match=message):
        fit_weights(ROWS, names)


def test_rejections_by_hand():
    values = np.array([max(one['values']['clip'] for one in row['candidates']) for row in ROWS])
    nothing = np.array([row['num_targets'] == 0 for row in ROWS])
    found = reject_below(ROWS, 'clip', .9)
    assert found['coverage'] == np.mean(values >= .9)
    assert found['no_target_abstained'] == np.mean(values[nothing] < .9)
    assert found['target_abstained'] == np.mean(values[~nothing] < .9)
    assert reject_below(ROWS, 'clip', 2)['risk'] is None
    with pytest.raises(ValueError, match='one of clip, prior, consensus, vote, but got'):
        reject_below(ROWS, 'oracle', .9)


def test_rejections_by_another_selector_by_hand():
    """Its value of the answer that was chosen, not its highest one."""
    chosen = [max(row['candidates'], key=lambda one: one['values']['clip']) for row in ROWS]
    values = np.array([one['values']['prior'] for one in chosen])
    found = reject_below(ROWS, 'prior', 5, chosen_by='clip')
    own = reject_below(ROWS, 'prior', 5)
    assert 0 < found['coverage'] == np.mean(values >= 5) < own['coverage']
    assert found['risk'] == pytest.approx(1 - np.mean(
        [one['iou'] for one, value in zip(chosen, values, strict=True) if value >= 5]))
    by = describe_abstentions(ROWS, 'clip')
    assert list(by) == ['clip', 'prior', 'consensus']
    assert by['clip'] == SELECTION.tables(ROWS)['abstention']['clip']
    assert by['prior']['best_aurc'] == by['clip']['best_aurc'], 'the answers are the same'
    assert by['prior']['aurc'][0] < by['clip']['aurc'][0] < by['consensus']['aurc'][0]
    assert 'over_own' not in by['clip'] and by['prior']['over_own'][0] == (
        by['prior']['aurc'][0] - by['clip']['aurc'][0])
    for name, chooser in (('vote', 'clip'), ('clip', 'vote'), ('clip', 'oracle')):
        with pytest.raises(ValueError, match='one of clip, prior, consensus, but got'):
            reject_below(ROWS, name, 5, chooser)


def run_tool(capsys, *arguments):
    with patch.object(sys, 'argv', ['x', *map(str, arguments)]):
        runpy.run_path(str(TOOL), run_name='__main__')
    return capsys.readouterr().out


def test_the_command(tmp_path, capsys):
    log = write_jsonl(str(tmp_path / 'selection.jsonl'), ROWS)
    out, curve = tmp_path / 'table.json', tmp_path / 'risk.png'
    page = run_tool(capsys, log, '--sum', 'both', 'clip=10', 'prior=1', '--abstain-below',
                    'clip=0.9', 'consensus=0', '--out', out, '--curve', curve)
    assert '| both |' in page and '| clip | 0.9 |' in page and curve.stat().st_size > 1000
    summary = json.loads(out.read_text())
    assert summary['rejections'][0]['selector'] == 'clip' and 'both' in summary['abstention']
    assert 'by clip' not in page
    page = run_tool(capsys, log, '--chosen-by', 'clip', '--abstain-below', 'prior=5', '--out', out)
    assert 'less certain answers among those chosen by clip are rejected' in page
    assert '| selector | AURC | over clip | 50 % |' in page
    summary = json.loads((tmp_path / 'table_2.json').read_text())
    expected = reject_below(ROWS, 'prior', 5, 'clip')
    assert summary['rejections'] == [dict(expected, selector='prior')]
    assert list(summary['abstention']) == ['clip', 'prior', 'consensus']
    weights = dict(pair.split('=') for pair in run_tool(
        capsys, log, '--fit', 'clip', 'prior').split())
    assert weights.keys() == {'clip', 'prior'}


@pytest.mark.parametrize('arguments, message', [
    (['--sum', 'both', 'clip'], "--sum should have SELECTOR=NUMBER, but got 'clip'"),
    (['--sum', 'both', 'clip=nan'], "SELECTOR=NUMBER, but got 'clip=nan'"),
    (['--abstain-below', 'clip=inf'], "SELECTOR=NUMBER, but got 'clip=inf'"),
    (['--sum', 'both', 'vote=1', 'clip=1'], "'both' has one of vote; correct it"),
    (['--out', 'x.txt'], '--out should end in .md or .json'),
    (['--abstain-below', 'sam=1'], "but got 'sam'"),
    (['--chosen-by', 'vote'], "but got 'vote'")])
def test_wrong_arguments(tmp_path, capsys, arguments, message):
    log = write_jsonl(str(tmp_path / 'selection.jsonl'), ROWS[:2])
    with pytest.raises(SystemExit) as error:
        run_tool(capsys, log, *arguments)
    assert message in str(error.value) + capsys.readouterr().err


def test_results_of_other_metrics_are_refused():
    rows = [{name: value for name, value in ROWS[0].items() if name != 'candidates'}]
    with pytest.raises(ValueError, match='of SelectionMetric, but is one of ReasonSegMetric'):
        selection_rows(Result('a', rows, {}))


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    """The folder of a study in which `clip` and `prior` say nothing of the trained policy."""
    folder = tmp_path_factory.mktemp('study')
    for number, policy in enumerate(POLICIES):
        for place, world in enumerate(WORLDS):
            for split in ('val', 'test'):
                write_jsonl(str(folder / policy / 'seed_0' / f'{world}.{split}.samples.jsonl'),
                            make_rows(20, seed=10 * place + (split == 'test'), skill=1 - number))
    return folder


def test_a_study(study):
    found, weights = read_study(study)
    assert found.keys() == {(policy, world) for policy in POLICIES for world in WORLDS}
    assert weights['start'].keys() >= {'clip', 'prior'}
    text = format_study(found, weights)
    assert '- `clip`: shown to help in 3 of 6 settings: the start policy with few' in text
    assert '- `consensus`: shown to help nowhere.' in text
    assert '**No selector is shown to help in every setting, so none is recommended.**' in text
    assert text.count('| look-alikes | sum |') == 4
    assert '| start policy | few objects | clip | - |' in text and '| vote | - |' not in text
    judged = found['start', 'few']['judged']
    assert judged['sum'].keys() == judged['clip'].keys() == {'clip', 'prior', 'consensus', 'sum'}
    start = {cell: summary for cell, summary in found.items() if cell[0] == 'start'}
    assert '**Shown to help in every setting: `clip`, `prior`, `sum`.**' in conclude(start)
