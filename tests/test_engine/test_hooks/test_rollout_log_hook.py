# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.runner import Runner
from torch import tensor

from mmdpad.engine.hooks import RolloutLogHook
from mmdpad.engine.hooks import rollout_log_hook as module
from mmdpad.prompts import format_response, parse_response
from mmdpad.structures import RolloutBatch
from mmdpad.utils import read_jsonl

GOOD = format_response('so', (0, 0, 2, 2), ((1, 1), (2, 2)), 'dog')
TOTALS = tensor([[1., 0.], [2., 2.]])


@pytest.fixture
def runner(tmp_path):
    return SimpleNamespace(log_dir=str(tmp_path), iter=4, logger=logging.getLogger('test'))


def rollout(texts=(GOOD, 'a\n"\ud800\u2028', '', '<answer>x</answer>')):
    samples = [DetDataSample(metainfo=dict(img_id=7, img_path='a.jpg', question='the dog')),
               DetDataSample(metainfo=dict(question='the cat'))]
    return RolloutBatch(samples, [0, 1], 2, list(texts), [parse_response(t) for t in texts],
                        truncated=tensor([False, True, False, False]),
                        signals={'s': tensor([[.5, math.nan], [1., 2.]])},
                        rewards={'a': TOTALS, 'b': tensor([[0, 1], [2, 3]])},
                        total_rewards=TOTALS,
                        advantages=tensor([[1., -1.], [0., 0.]]))


def test_a_line_per_response(runner):
    RolloutLogHook().before_update(runner, rollout())
    rows = list(read_jsonl(f'{runner.log_dir}/rollouts.jsonl'))
    assert rows[0] == dict(
        iter=5, group=0, index=0, id=7, image='a.jpg', question='the dog', task=None,
        response=GOOD, failure=None, truncated=False, rewards=dict(a=1.0, b=0), total=1.0,
        advantage=1.0, signals=dict(s=0.5))
    assert rows[1]['response'] == 'a\n"\ud800\u2028' and rows[1]['signals'] == dict(s=None)
    assert rows[3] == dict(
        iter=5, group=1, index=1, id=None, image=None, question='the cat', task=None,
        response='<answer>x</answer>', failure='no_json', truncated=False,
        rewards=dict(a=2.0, b=3), total=2.0, advantage=0.0, signals=dict(s=2.0))
    assert [(row['group'], row['index'], row['truncated'], row['failure']) for row in rows[1:3]
            ] == [(0, 1, True, 'no_answer'), (1, 0, False, 'no_answer')]


def test_every_interval_is_appended_by_one_write(runner):
    hook = RolloutLogHook(interval=2)
    path, sizes = Path(runner.log_dir, 'rollouts.jsonl'), []
    for runner.iter in range(4):
        hook.before_update(runner, rollout())
        sizes.append(path.stat().st_size if path.exists() else 0)
    assert sizes == [0, sizes[1], sizes[1], 2 * sizes[1]] and sizes[1] > 0
    assert [row['iter'] for row in read_jsonl(str(path))] == [2] * 4 + [4] * 4


def test_a_file_at_its_limit_keeps_complete_rollouts_and_is_reported_once(runner, caplog):
    RolloutLogHook().before_update(runner, rollout())
    path = Path(runner.log_dir, 'rollouts.jsonl')
    one = path.stat().st_size
    hook = RolloutLogHook(max_bytes=3 * one - 1)
    for _ in range(4):
        hook.before_update(runner, rollout())
    hook.before_update(runner, rollout([''] * 4))  # would fit, but leaves a hole
    assert path.stat().st_size == 2 * one
    (warning, ) = caplog.messages
    assert f'{2 * one} bytes' in warning and 'iteration 5' in warning


def test_each_process_has_a_file(runner, monkeypatch):
    monkeypatch.setattr(module, 'get_rank', lambda: 3)
    RolloutLogHook().before_update(runner, rollout())
    assert [path.name for path in Path(runner.log_dir).iterdir()] == ['rollouts_rank3.jsonl']


@pytest.mark.parametrize('name', ['interval', 'max_bytes'])
def test_bounds_are_positive(name):
    with pytest.raises(ValueError, match=f'`{name}` should be at least 1, but got 0'):
        RolloutLogHook(**{name: 0})


def test_a_run_leaves_what_its_log_averages(tiny_config):
    runner = Runner.from_cfg(tiny_config)
    runner.train()
    rows = list(read_jsonl(f'{runner.log_dir}/rollouts.jsonl'))
    logs = [json.loads(line) for line in
            Path(runner.log_dir, 'vis_data', 'scalars.json').read_text().splitlines()]
    assert [log['iter'] for log in logs] == [1, 2]
    for log in logs:
        step = [row for row in rows if row['iter'] == log['iter']]
        assert [(row['group'], row['index']) for row in step] == [
            (group, index) for group in range(2) for index in range(4)]
        totals = tensor([row['total'] for row in step])
        assert totals.mean().item() == pytest.approx(log['reward'], abs=1e-5)
        for name in step[0]['rewards']:
            term = tensor([float(row['rewards'][name]) for row in step])
            assert term.mean().item() == pytest.approx(log[f'reward/{name}'], abs=1e-5)
            assert term.std().item() == pytest.approx(log[f'reward_std/{name}'], abs=1e-5)
        assert sum(row['failure'] is not None for row in step) / 8 == log['parse_failures']
        # Within a group the better response has the greater advantage, and they add up to 0.
        groups = tensor([[row['advantage'], row['total']] for row in step]).reshape(2, 4, 2)
        torch.testing.assert_close(groups[..., 0].sum(dim=1), torch.zeros(2))
        assert (groups[..., 0].argmax(dim=1) == groups[..., 1].argmax(dim=1)).all()
        for row in step:
            assert Path(row['image']).is_file() and Path(row['image']).stem == row['id']
            assert row['question'] and row['response']
