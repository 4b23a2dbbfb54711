# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest

from mmdpad.analysis.comparison import compare_results, format_comparison, paired_differences
from mmdpad.evaluation.results import Result, summarize_result, write_result

DATA = dict(items=30, files=60, sha256='a' * 64)


def make_rows(ious, **more):
    return [dict(id=i // 2, question=f'Q {i % 2}.', is_sentence=bool(i % 2), iou=iou,
                 intersection=round(100 * iou), union=100, num_targets=1, area=1, failure=None,
                 truncated=False, index=i, image=None, **more) for i, iou in enumerate(ious)]


def make_result(name, ious, data=DATA, protocol=(), **more):
    rows = make_rows(ious, **more)
    about = dict(checkpoint='x.pth', weights=dict(policy='b' * 64), config='c' * 64,
                 data_root='ReasonSeg', data=data, versions=dict(torch='2'), device='a CPU')
    summary = summarize_result(rows, dict(dict(split='val', test_cfg=dict(temperature=0)),
                                          **dict(protocol)), about)
    return Result(name, rows, summary)


IOUS = np.random.default_rng(0).random(30) * 0.8
A, B = make_result('A', IOUS), make_result('B', IOUS + 0.1)


def test_a_constant_gain_is_sure_although_both_numbers_are_not():
    comparison = compare_results([A, B])
    (found, ) = comparison['differences']
    assert found['name'] == 'B'
    gain = found['metrics']['giou']
    assert (gain['difference'], gain['low'], gain['high']) == pytest.approx((10, 10, 10))
    assert gain['other_side'] == 0
    low, high = comparison['results'][0]['intervals']['giou']
    assert high - low > 10
    assert comparison['warnings'] == []


def test_shares_on_the_other_side():
    """One of two samples gains, the other loses: of four draws one is each sample twice."""
    first, second = make_rows([0.5, 0.5]), make_rows([0.9, 0.3])
    found = paired_differences(first, second)['giou']
    assert found['difference'] == pytest.approx(10)
    assert (found['low'], found['high']) == pytest.approx((-20, 40))
    assert found['other_side'] == pytest.approx(0.25, abs=0.03)
    back = paired_differences(second, first)['giou']
    assert back['other_side'] == found['other_side'] and back['difference'] == -found['difference']
    assert paired_differences(first, first)['giou'] == dict(
        difference=0, low=0, high=0, other_side=1)


def test_samples_are_paired_whatever_their_order():
    shuffled = Result('B', B.rows[::-1], B.summary)
    assert compare_results([A, shuffled])['differences'] == compare_results([A, B])['differences']
    twice = [dict(row, id=0, question='q') for row in A.rows]  # told apart by their order
    gained = [dict(row, iou=row['iou'] + 0.1) for row in twice]
    gain = compare_results([Result('A', twice, {}), Result('B', gained, {})])['differences'][0]
    assert gain['metrics']['giou']['low'] == pytest.approx(10)


def test_results_without_questions_are_paired_by_id():
    first, second = ([dict(row, id=i, question=None) for i, row in enumerate(result.rows)]
                     for result in (A, B))
    gain = compare_results([Result('A', first, {}), Result('B', second[::-1], {})])
    assert gain['differences'][0]['metrics']['giou']['low'] == pytest.approx(10)


@pytest.mark.filterwarnings('error')
def test_what_no_draw_has_is_not_a_number():
    """Nothing is meant and nothing was drawn: there is no union to divide by."""
    rows = [dict(row, union=0, intersection=0) for row in A.rows]
    found = paired_differences(rows, rows)['ciou']
    assert found['difference'] == 0 and all(
        np.isnan(found[key]) for key in ('low', 'high', 'other_side'))


def test_different_samples_are_an_error():
    other = Result('C', [*B.rows[2:], dict(B.rows[0], id='new')], {})
    with pytest.raises(ValueError) as error:
        compare_results([A, other])
    assert "'C' lacks 2 ('0' 'q 0', '0' 'q 1') of 'A'; 'A' lacks 1 ('new' 'q 0') of 'C'" in str(
        error.value)


def test_other_protocols_and_data_are_named():
    other = make_result('B', IOUS, dict(DATA, items=29),
                        protocol=dict(split='test', test_cfg=dict(temperature=1), texts='all'))
    warnings = compare_results([A, other, Result('C', A.rows, {})])['warnings']
    assert warnings == [
        "protocols of 'A' and 'B' differ: split val and test; test_cfg.temperature 0 and 1; "
        'texts unknown and all',
        "data of 'A' and 'B' differ: items 30 and 29",
        "protocols of 'A' and 'C' cannot be compared: one is unknown",
        "data of 'A' and 'C' cannot be compared: one is unknown"]


def test_the_page():
    page = format_comparison(compare_results([A, B, make_result('C|', IOUS, pointing=0.5)]))
    lines = page.splitlines()
    assert lines[0].startswith('| result | n | gIoU | cIoU | short gIoU |')
    assert '| pointing |' in lines[0] and '| box |' not in lines[0]
    assert lines[2].startswith('| A | 30 | ') and lines[4].startswith('| C/ | 30 | ')
    assert f'| {100 * IOUS.mean():.1f} [' in lines[2] and '50.0 [50.0, 50.0]' in lines[4]
    assert '| B | +10.0 [+10.0, +10.0], p 0.000 |' in page
    assert ('- A: checkpoint x.pth, data of ReasonSeg, policy bbbbbbbbbbbb, config cccccccccccc, '
            'data aaaaaaaaaaaa, mmdpad None, torch 2') in page
    assert 'Warning' not in page


def test_the_tool(run_tool, tmp_path):
    for name, result in (('a', A), ('b', make_result('b', IOUS, protocol=dict(split='test')))):
        write_result(str(tmp_path / name / 'r.jsonl'), result.rows, result.summary)
    out = [tmp_path / 'x/table.md', tmp_path / 'x/table.json']
    output = run_tool('compare_results', tmp_path / 'a', tmp_path / 'b/r.jsonl', '--out', *out)
    assert output.startswith('**Warning:** protocols of ') and 'split val and test.' in output
    assert output.startswith(out[0].read_text())
    assert json.loads(out[1].read_text())['results'][1]['metrics']['n'] == 30
    with pytest.raises(SystemExit, match='does not exist'):
        run_tool('compare_results', tmp_path / 'a', tmp_path / 'c.json')
    (tmp_path / 'b/r.jsonl').rename(tmp_path / 'b/moved.jsonl')
    with pytest.raises(SystemExit, match='r.jsonl'):
        run_tool('compare_results', tmp_path / 'a', tmp_path / 'b/r.json')
    for arguments in ([tmp_path / 'a'], [tmp_path / 'a', tmp_path / 'b', '--out', 'x.txt']):
        with pytest.raises(SystemExit, match='2'):
            run_tool('compare_results', *arguments)
