# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Picking sampled responses as targets of supervised training."""
import runpy
import sys
from math import isnan
from pathlib import Path
from unittest.mock import patch

import pytest
from mmengine.runner import Runner

from mmdpad.analysis.rejection_sampling import as_targets, pick_responses, read_responses
from mmdpad.prompts import format_response
from mmdpad.utils import read_jsonl, write_jsonl

TOOL = Path(__file__).parents[2] / 'tools/analysis_tools/rejection_sampling.py'


def rollout(text, total, question='q', number=1, failure=None, truncated=False, **more):
    """A line of RolloutLogHook."""
    return dict(iter=1, group=0, index=0, id=number, image='a.png', question=question, task='find',
                response=text, failure=failure, truncated=truncated, rewards=dict(iou=total / 2),
                total=total, advantage=0.0, signals=dict(s_margin=None)) | more


def read(tmp_path, *rows, by=None):
    return read_responses(write_jsonl(str(tmp_path / 'log.jsonl'), rows), by)


def picked(tmp_path, *rows, per_question=9, above=None):
    kept, left_out = pick_responses(read(tmp_path, *rows), per_question, above)
    return [one.text for one in kept], dict(left_out)


def test_rejection_sampling(tmp_path):
    """Of a question the best first; a higher score wins, of equal ones the earlier response."""
    rows = [rollout('a', 2), rollout('b', 3, 'other'), rollout('c', 3), rollout('d', 1),
            rollout('e', 3, failure='missing_key'), rollout('f', 3, truncated=True),
            rollout('c \n', 4), rollout('g', 3), rollout('h', 5, number=2)]
    assert picked(tmp_path, *rows, above=1) == (
        ['c \n', 'g', 'a', 'b', 'h'],
        {'not above 1': 1, 'unusable': 1, 'cut off': 1, 'duplicate': 1})
    assert picked(tmp_path, *rows, per_question=1) == (
        ['c \n', 'b', 'h'], {'unusable': 1, 'cut off': 1, 'duplicate': 1,
                             'beyond the best 1 of a question': 3})
    assert picked(tmp_path, *rows, above=5) == ([], {
        'not above 5': 7, 'unusable': 1, 'cut off': 1})


def test_an_answer_about_a_crop_is_no_target(tmp_path):
    """Its coordinates are not those of the model image; a conversation of one turn is."""
    rows = [rollout(name, 1, name, conversation=dict(turns=turns))
            for name, turns in dict(a=['a'], b=['call', 'b']).items()]
    assert picked(tmp_path, *rows) == (['a'], {'of several turns': 1})


def test_the_same_question_in_several_iterations_counts_once(tmp_path):
    rows = [rollout('a', 2, 'The Thing '), rollout('b', 3, 'the thing', iter=7)]
    assert picked(tmp_path, *rows, per_question=1)[0] == ['b']
    rows[1]['task'] = 'detect'
    assert picked(tmp_path, *rows, per_question=1)[0] == ['a', 'b']


def test_scores_by_name(tmp_path):
    assert read(tmp_path, rollout('a', 2), by='iou')[0].score == 1
    assert isnan(read(tmp_path, rollout('a', 2), by='s_margin')[0].score)
    assert pick_responses(read(tmp_path, rollout('a', 2), by='s_margin'), 1)[1] == {
        'without a score': 1}


def selection():
    """A line of SelectionMetric about four answers."""
    answers = [dict(response=name, usable=usable, failure=None if usable else 'x', truncated=False,
                    iou=iou, intersection=1, union=1, values=dict(clip=clip))
               for name, iou, clip, usable in [('a', .9, .1, True), ('b', .2, None, True),
                                               ('c', .3, .3, True), ('d', 0, .9, False)]]
    overlaps = [[1, .1, .2, 0], [.1, 1, .7, 0], [.2, .7, 1, 0], [0, 0, 0, 0]]
    return dict(id='x', image='a.png', question='q', task='find', candidates=answers, greedy=None,
                overlaps=overlaps, vote={}, sums=dict(both=dict(clip=-10, consensus=1)))


@pytest.mark.parametrize('by, best', [
    (None, 'a'), ('iou', 'a'), ('clip', 'c'), ('consensus', 'c'), ('both', 'a')])
def test_the_best_answers_of_an_evaluation(tmp_path, by, best):
    kept, left_out = pick_responses(read(tmp_path, selection(), by=by), 1)
    assert [one.text for one in kept] == [best] and left_out['unusable'] == 1


@pytest.mark.parametrize('rows, by, message', [
    ([], None, 'should hold responses, but is empty'),
    ([dict(response='a')], None, 'line 1 is neither'),
    ([rollout('a', 1), rollout('b', 1, image=None)], None, 'line 2 has no image'),
    ([rollout('a', 1)], 'clip', "line 1 has no 'clip', only total, s_margin, iou; name"),
    ([selection()], 'vote', "has no 'vote', only iou, clip, consensus, both; name")])
def test_logs_without_what_is_needed_are_refused(tmp_path, rows, by, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, *rows, by=by)
    with pytest.raises(ValueError, match='1 of 1 do not, such as a.png; run this in the folder'):
        as_targets(read(tmp_path, rollout('a', 1)), str(tmp_path))


def test_supervised_training_on_rollouts(shapes_data, tiny_sft_config, tmp_path, capsys):
    """The tool's file is all that the data set needs, in place of the masks."""
    def respond(word):
        return format_response(word, (1, 2, 30, 40), ((3, 4), (5, 6)), 'a red circle')

    images = sorted(map(str, (shapes_data / 'train').glob('*.jpg')))[:2]
    rows = [rollout(respond(word), total, f'the {word}', number, image=image, task=None)
            for number, image in enumerate(images)
            for word, total in [('good', 5), ('best', 6), ('bad', 1)]]
    log = write_jsonl(str(tmp_path / 'rollouts.jsonl'), rows)
    out = str(tmp_path / 'rft' / 'train.jsonl')
    with patch.object(sys, 'argv', ['x', log, '--above', '2', '--out', out]):
        runpy.run_path(str(TOOL), run_name='__main__')
    assert capsys.readouterr().out.splitlines() == [
        '4 of 6 responses to 4 of 6 questions are kept; left out: 2 not above 2', out]
    assert [(line['id'], 'task' in line) for line in read_jsonl(out)] == [
        ('0', False), ('0_2', False), ('1', False), ('1_2', False)]
    loading, _, resize, _, compose, pack = tiny_sft_config.train_dataloader.dataset.pipeline
    tiny_sft_config.train_dataloader.dataset = dict(
        type='JsonLinesDataset', ann_file=out, pipeline=[loading, resize, compose, pack])
    runner = Runner.from_cfg(tiny_sft_config)
    before = {name: value.clone() for name, value in runner.model.policy.state_dict().items()}
    runner.train()
    assert {runner.train_dataloader.dataset[i]['data_samples'].response for i in range(4)} == {
        respond('good'), respond('best')}
    assert any((value != before[name]).any()
               for name, value in runner.model.policy.state_dict().items())
    losses = runner.message_hub.get_scalar('train/loss')._log_history
    assert len(losses) == 2 and (losses > 0).all()
