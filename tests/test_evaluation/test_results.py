# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import os
from types import SimpleNamespace

import pytest

from mmdpad.evaluation.results import (
    describe_results,
    in_order,
    read_result,
    summarize_result,
    write_result,
)
from mmdpad.utils import write_jsonl


def row(index=0, iou=0.5, **more):
    return dict(index=index, id=f'i{index}', image=None, question='q', is_sentence=None, iou=iou,
                intersection=1, union=2, num_targets=1, area=1, failure=None, truncated=False,
                **more)


ROWS = [row(0), row(1, 1.0)]


def write(path, rows=ROWS, **protocol):
    return write_result(str(path), rows, summarize_result(rows, protocol, dict(seed=0)))


def test_either_file_and_the_folder_give_the_result(tmp_path):
    write(tmp_path / 'run/old.jsonl', [row(0)], split='val')
    write(tmp_path / 'run/new.jsonl', split='test')
    for name, age in (('old', 20), ('new', 10)):
        os.utime(tmp_path / f'run/{name}.json', (1e9 - age, 1e9 - age))
    (tmp_path / 'run/vis_data').mkdir()
    write_jsonl(str(tmp_path / 'run/vis_data/scalars.jsonl'), [dict(a=1)])
    (tmp_path / 'run/vis_data/scalars.json').write_text('{"a": 1}\n{"b": 2}\n')
    for path in ('run/new.jsonl', 'run/new.json', 'run', ''):
        result = read_result(str(tmp_path / path))
        assert result.rows == ROWS and result.summary['protocol'] == dict(split='test')
        assert result.summary['metrics']['giou'] == 75 and result.name == str(tmp_path / path)


def test_what_the_tool_wrote_leads_to_the_lines(tmp_path):
    where = write(tmp_path / 'run/a.jsonl')
    summary = json.loads((tmp_path / 'run/a.json').read_text()) | dict(samples=where)
    metric = SimpleNamespace(prefix='reasonseg', summary=summary)
    (tmp_path / 'out').mkdir()
    out = tmp_path / 'out/metrics.json'
    content = describe_results({'reasonseg/giou': 75.0, 'reward/total': 3.0},
                               SimpleNamespace(metrics=[metric, SimpleNamespace(prefix='reward')]),
                               str(out))
    assert content['metrics'] == {'reasonseg/giou': 75.0, 'reward/total': 3.0}
    assert content['results']['reasonseg']['samples'] == os.path.join('..', 'run', 'a.jsonl')
    assert 'metrics' not in content['results']['reasonseg'] and summary['metrics']['n'] == 2
    out.write_text(json.dumps(content))
    assert read_result(str(out)).rows == ROWS
    content['results']['other'] = content['results']['reasonseg']
    out.write_text(json.dumps(content))
    with pytest.raises(ValueError, match='name the file that ReasonSegMetric or .* wrote'):
        read_result(str(out))


def test_results_of_several_data_sets_have_names_of_their_own():
    metrics = [SimpleNamespace(prefix='reasonseg', summary=dict(metrics={}, samples=None, n=n))
               for n in range(2)]
    evaluator = SimpleNamespace(metrics=metrics, dataset_prefixes=['val', 'testA'])
    assert describe_results({}, evaluator, 'out.json')['results'] == {
        'val/reasonseg': dict(samples=None, n=0), 'testA/reasonseg': dict(samples=None, n=1)}


def test_lines_and_summary_have_one_number(tmp_path):
    (tmp_path / 'a.json').write_text('{}')  # somebody's
    assert write(tmp_path / 'a.jsonl') == str(tmp_path / 'a_2.jsonl')
    assert (tmp_path / 'a.json').read_text() == '{}'
    assert read_result(str(tmp_path / 'a_2.jsonl')).summary['metrics']['giou'] == 75


def test_lines_alone_have_no_summary(tmp_path):
    write_jsonl(str(tmp_path / 'a.jsonl'), ROWS)
    assert read_result(str(tmp_path / 'a.jsonl')).summary == {}
    (tmp_path / 'a.json').write_text(json.dumps(dict(samples='b.jsonl')))  # of another file
    assert read_result(str(tmp_path / 'a.jsonl')).summary == {}


def test_what_is_no_result_is_named(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'none.jsonl').touch()
    (tmp_path / 'unwritten.json').write_text(json.dumps(dict(samples=None)))
    write_jsonl(str(tmp_path / 'log.jsonl'), [row(0), dict(id=1, question='q', failure=None)])
    for name, message in (
            ('missing', 'or a folder with results, but does not exist'),
            ('empty', 'but holds none'), ('none.jsonl', 'but is empty'),
            ('unwritten.json', 'should name the lines of one result'),
            ('log.jsonl', 'line 2 lacks is_sentence, iou, intersection, union, truncated')):
        with pytest.raises(ValueError, match=message):
            read_result(str(tmp_path / name))


def indices(rows):
    return [row['index'] for row in rows]


def test_order():
    assert indices(in_order([row(2), row(0), row(1)])) == [0, 1, 2]
    assert indices(in_order([row(2), row(0), row(2)])) == [2, 0, 2]
