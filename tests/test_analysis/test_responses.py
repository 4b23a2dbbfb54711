# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import re
from pathlib import Path

import pytest

from mmdpad.analysis.responses import (
    build_rule_terms,
    find_rule_terms,
    score_responses,
    summarize_responses,
)
from mmdpad.prompts import format_objects_response, format_response
from mmdpad.registry import REWARDS
from mmdpad.tasks import DetectionTask, SegmentationTask
from mmdpad.utils import read_jsonl

TOOL = 'score_responses'
GOLDEN = Path(__file__).parents[1] / 'data/golden/rewards.jsonl'
SOLUTION = '<box>(10,20),(30,40)</box><points>(15,25),(18,30)</points>'
GOOD = format_response('t', (10, 20, 30, 40), ((15, 25), (18, 30)), 'c')
TERMS = dict(form=dict(type='ThinkingFormatReward', weight=2), box=dict(type='BoxIoUReward'))


def test_by_hand():
    two = '[{"bbox_2d": [0, 0, 9, 9], "point_2d": [5, 5]}, {"bbox_2d": [20, 0, 29, 9], ' \
          '"point_2d": [25, 5]}]'
    rows = [dict(response=GOOD, solution=SOLUTION, id=7), dict(response='', solution=SOLUTION),
            dict(solution=two, response=format_objects_response(
                't', [((0, 0, 9, 9), ((5, 5), ))], 'c')),
            dict(solution='[]', response=format_objects_response('t', [], 'c'))]
    scored = score_responses(rows, build_rule_terms(TERMS))
    assert [row['rewards'] for row in scored] == [
        dict(form=1, box=1), dict(form=0, box=0), dict(form=1, box=0.5), dict(form=1, box=1)]
    assert [row['total'] for row in scored] == [3, 0, 2.5, 3]
    assert [row['failure'] for row in scored] == [None, 'no_answer', None, None]
    assert scored[0]['id'] == 7 and scored[0]['published']['box_iou'] == 1
    assert scored[2]['published'] is None
    summary = summarize_responses(scored)
    assert summary['n'] == 4 and summary['total'] == 8.5 / 4 and summary['box'] == 2.5 / 4
    assert summary['published/box_iou'] == 0.5, 'over the two that the published scorer can score'
    assert summary['failed_no_answer'] == 1


def test_the_published_view_is_that_of_the_golden_vectors():
    rows = list(read_jsonl(str(GOLDEN)))
    for row in score_responses(rows, build_rule_terms(TERMS)):
        assert row['published'] == pytest.approx(row['expected'])


def test_responses_in_relative_coordinates():
    """(10, 20, 30, 40) in an image 40 wide and 80 high."""
    text = format_response('t', (250, 250, 750, 500), ((375, 312), (450, 375)), 'c')
    rows, terms = [dict(response=text, solution=SOLUTION)], build_rule_terms(TERMS)
    (row, ) = score_responses(rows, terms, 'relative_1000', (80, 40))
    assert row['rewards'] == dict(form=1, box=1) and row['published'] is None
    assert score_responses(rows, terms)[0]['rewards']['box'] == 0


def test_lines_of_a_task_with_labels_are_refused():
    tasks = dict(segmentation=SegmentationTask(), detection=DetectionTask())
    terms = build_rule_terms(dict(
        {name: dict(term, tasks=['segmentation']) for name, term in TERMS.items()},
        f1=dict(type='DetectionF1Reward', tasks=['detection'])))
    row = dict(response=GOOD, solution=SOLUTION)
    assert score_responses([row], terms, tasks=tasks)[0]['rewards'] == dict(form=1, box=1)
    with pytest.raises(ValueError, match=r"line 2: .*'f1' needs targets with labels.*'detection'"):
        score_responses([row, dict(row, task='detection')], terms, tasks=tasks)


@pytest.mark.parametrize('kind, told', [
    ('AnswerReward', "'term' .* needs `answers` to be compared with.*leave out the term"),
    ('needs_a_count', "'term' .* no attribute 'count'.*leave out the term")])
def test_terms_that_need_more_than_a_solution_are_refused(kind, told):
    if kind == 'needs_a_count':
        REWARDS.register_module(name=kind, force=True, module=lambda rollout: rollout.per_response(
            [float(sample.count) for sample in rollout.data_samples]))
    with pytest.raises(ValueError, match=told):
        score_responses([dict(response=GOOD, solution=SOLUTION)],
                        build_rule_terms(dict(term=dict(type=kind))))


def test_terms_that_count_tokens_need_them():
    terms = build_rule_terms(dict(reasoning=dict(type='ReasoningLengthReward', soft=2, hard=4)))
    row = dict(response=GOOD, solution=SOLUTION)
    with pytest.raises(ValueError, match="term 'reasoning' counts tokens, so each line should"):
        score_responses([dict(row, reasoning_tokens=3), row], terms)
    scored = score_responses([dict(row, reasoning_tokens=3), dict(row, reasoning_tokens=None)],
                             terms)
    assert [row['total'] for row in scored] == [0.5, 0]


def test_terms_that_need_a_model_are_refused():
    for config in (dict(type='DiscriminativeReward'),
                   dict(type='QuantileReward', term=dict(type='DiscriminativeReward'))):
        with pytest.raises(ValueError, match="'clip' is a DiscriminativeReward; leave it out"):
            build_rule_terms(dict(clip=config))


def test_terms_are_prepared_before_they_score():
    @REWARDS.register_module(force=True)
    class Prepared:
        given = None

        def prepare(self, model, dataset):
            self.given = [model, dataset]

        def __call__(self, rollout):
            return rollout.per_response([float(self.given == [None, None])])

    (row, ) = score_responses([dict(response=GOOD, solution=SOLUTION)],
                              build_rule_terms(dict(own=dict(type='Prepared'))))
    assert row['total'] == 1


def test_terms_of_a_config_that_need_a_model_are_left_out():
    config = dict(train_cfg=dict(rewards=TERMS), custom_hooks=[
        dict(type='DiscriminativeRewardHook', discriminator=dict(type='CLIPDiscriminator')),
        dict(type='IterTimerHook')])
    assert find_rule_terms(config) == (TERMS, ['discriminative'])
    config['train_cfg']['rewards'] = {
        'mask': dict(type='QuantileReward', term=dict(type='MaskReward')), **TERMS}
    assert find_rule_terms(config) == (TERMS, ['mask', 'discriminative'])


@pytest.mark.parametrize('row, message', [
    (dict(response=GOOD), 'line 2 .* `solution` is None; the files of RolloutLogHook hold no sol'),
    (dict(response=3, solution=SOLUTION), 'line 2 .* `response` is 3'),
    (dict(response=GOOD, solution=SOLUTION, reasoning_tokens='3'),
     'line 2: `reasoning_tokens` should be'),
    (dict(response=GOOD, solution=SOLUTION, reasoning_tokens=10**400),
     'line 2: `reasoning_tokens` should'),
    (dict(response=GOOD, solution='box'), 'line 2: `solution` should be "<box>'),
    (dict(response=GOOD, solution='[1]'), 'line 2: `solution` should be a JSON list'),
])
def test_lines_that_cannot_be_scored_are_named(row, message):
    with pytest.raises(ValueError, match=message):
        score_responses([dict(response=GOOD, solution=SOLUTION), row], build_rule_terms(TERMS))


def test_the_tool_prints_means_and_writes_lines(run_tool, tmp_path):
    output = run_tool(TOOL, GOLDEN, '--out', tmp_path / 'scored.jsonl')
    printed = dict(line.split() for line in output.splitlines() if ' ' in line)
    expected = [json.loads(line)['expected'] for line in GOLDEN.read_text().splitlines()]
    for name in expected[0]:
        mean = sum(row[name] for row in expected) / len(expected)
        assert float(printed[f'published/{name}']) == pytest.approx(mean, rel=1e-3)
    assert printed['n'] == '400' and float(printed['box_l1']) > 0
    rows = list(read_jsonl(str(tmp_path / 'scored.jsonl')))
    assert len(rows) == 400 and rows[0]['rewards'].keys() == {
        'thinking_format', 'segmentation_format', 'box_iou', 'box_l1', 'point_l1'}


def test_the_tool_reads_relative_coordinates(run_tool, tmp_path):
    text = format_response('t', (250, 250, 750, 500), ((375, 312), (450, 375)), 'c')
    path = tmp_path / 'in.jsonl'
    path.write_text(json.dumps(dict(response=text, solution=SOLUTION)) + '\n')
    found = run_tool(TOOL, path, '--coordinates', 'relative_1000', '--model-image-size', 40, 80)
    assert re.search(r'^box_iou +1$', found, re.M), found


def test_the_tool_names_what_is_wrong(run_tool, tmp_path):
    (tmp_path / 'empty.jsonl').touch()
    (tmp_path / 'config.py').write_text('a = 1')
    (tmp_path / 'config.json').write_text('{')
    for arguments, message in (
            (['none.jsonl'], "responses 'none.jsonl' does not exist"),
            ([tmp_path / 'empty.jsonl'], 'holds no lines'),
            ([GOLDEN, '--config', tmp_path / 'config.py'], 'has no reward term that works'),
            ([GOLDEN, '--config', tmp_path / 'config.json'], 'cannot be read'),
            ([GOLDEN, '--config', 'tiny_shapez'], 'did you mean mmdpad::dpad/tiny_shapes.py')):
        with pytest.raises(SystemExit, match=message):
            run_tool(TOOL, *arguments)
