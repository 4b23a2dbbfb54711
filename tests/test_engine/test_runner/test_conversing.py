# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Training and evaluation with conversations, through the loops."""
import copy
import json
from pathlib import Path

import pytest
from calling_rollout import CallingRollout
from mmengine.runner import Runner

from mmdpad.prompts.zoom import BAD_CALLS
from mmdpad.structures import read_turns
from mmdpad.structures.conversation import ENDINGS
from mmdpad.utils import read_jsonl


@pytest.fixture
def config(tiny_config):
    tiny_config.model.update(
        rollout_engine=dict(type=CallingRollout.__name__),
        conversation=dict(max_turns=2, max_tokens=400,
                          limits=dict(min_side=28, size=(112, 112))))
    tiny_config.model.test_cfg.max_new_tokens = 60
    tiny_config.train_cfg.rewards = dict(
        box_iou=dict(type='BoxIoUReward', threshold=None, frame='original'),
        turns=dict(type='TurnCostReward', weight=0.1), crop=dict(type='CropContainsTargetReward'))
    tiny_config.train_dataloader.dataset.pipeline[3].whole_pixels = False
    tiny_config.custom_hooks = []
    return tiny_config


def train(config, name, **changes):
    """A finished run, the lines of its log and its rollouts."""
    config = copy.deepcopy(config)
    config.work_dir, config.experiment_name = f'{config.work_dir}_{name}', f'talks_{name}'
    config.merge_from_dict(changes)
    runner = Runner.from_cfg(config)
    runner.train()
    log = Path(runner.log_dir, 'vis_data/scalars.json').read_text().splitlines()
    return runner, list(map(json.loads, log)), list(read_jsonl(f'{runner.log_dir}/rollouts.jsonl'))


def test_conversations_are_trained_on_and_logged(config):
    _, (line, ), rows = train(config, 'one', **{'train_cfg.max_iters': 1})
    own = [row['conversation'] for row in rows]
    assert len(own) == 8
    assert line['turns'] == sum(len(talk['turns']) for talk in own) / 8 and 1 < line['turns'] <= 2
    assert line['reward/turns'] == pytest.approx(1 - line['turns'])
    assert line['zoomed'] == sum(bool(talk['crops']) for talk in own) / 8 > 0
    assert line['bad_calls'] == sum(len(talk['bad_calls']) for talk in own) / 8
    assert line['bad_calls'] == sum(line[f'bad_calls/{reason}'] for reason in BAD_CALLS)
    assert sum(line[f'ended_by/{name}'] for name in ENDINGS) == 1
    assert line['reply_tokens'] > 49 * line['zoomed']  # image tokens of a crop
    assert line['grad_norm'] > 0
    assert all(row['response'] == row['conversation']['turns'][-1] for row in rows)


@pytest.mark.slow
def test_training_is_resumed_exactly(config):
    straight, lines, rows = train(config, 'straight')
    resumed, later, again = train(config, 'resumed', resume=True,
                                  load_from=str(Path(straight.work_dir, 'iter_1.pth')))
    expected = straight.model.policy.state_dict()
    assert all(value.equal(expected[name])
               for name, value in resumed.model.policy.state_dict().items())
    assert again == rows[8:]
    assert later[-1]['loss'] == lines[-1]['loss']


@pytest.mark.slow
def test_the_update_does_not_depend_on_micro_batches(config):
    config.model.policy.dtype = 'float64'
    config.model.loss = dict(type='GRPOLoss', aggregation='seq_mean_token_sum_norm')
    found = {}
    for name, tokens in dict(whole=None, parts=1).items():
        _, (line, ), _ = train(config, name, **{
            'train_cfg.max_iters': 1, 'train_cfg.num_iterations': 1,
            'train_cfg.tokens_per_micro_batch': tokens})
        found[name] = [line[entry] for entry in ('loss', 'kl', 'grad_norm')]
    assert found['parts'] == pytest.approx(found['whole'], rel=1e-6)


@pytest.mark.parametrize('name', ['max_staleness', 'replay_size'])
def test_what_would_need_kept_rollouts_is_refused(config, name):
    config.train_cfg[name] = 1
    config.model.rollout_engine.records_log_probs = True
    with pytest.raises(ValueError, match=f'`{name}` should be 0 with `model.conversation`'):
        Runner.from_cfg(config).train()


def test_an_interrupted_test_continues_and_its_answers_are_the_same(config):
    config.default_hooks.answers = dict(type='ResponseCacheHook')
    config.test_dataloader.batch_size = 3
    rewards = dict(config.train_cfg.rewards)
    config.test_evaluator = [config.test_evaluator[0], dict(type='RewardMetric', rewards=rewards)]
    for step in config.test_dataloader.dataset.pipeline:
        if step.type == 'TargetsFromMask':
            step.whole_pixels = False

    def test(name, **changes):
        again = copy.deepcopy(config)
        again.experiment_name += name
        again.merge_from_dict(changes)
        runner = Runner.from_cfg(again)
        metrics = runner.test()
        return runner, metrics, list(read_jsonl(f'{runner.log_dir}/answers.jsonl'))

    runner, metrics, (maker, *rows) = test('first')
    assert len(rows) == 6 and maker['conversation']['max_turns'] == 2
    talks = [read_turns(row['response']) for row in rows]
    assert {1, 2} == set(map(len, talks))
    assert metrics['reasonseg/turns'] == sum(map(len, talks)) / 6
    assert metrics['reward/turns'] == pytest.approx(1 - metrics['reasonseg/turns'])
    (path, ) = Path(runner.log_dir).glob('reasonseg*.jsonl')
    assert {row['id']: row['conversation']['turns'] for row in read_jsonl(str(path))} == {
        row['id']: talk for row, talk in zip(rows, talks, strict=True)}
    answers = Path(runner.log_dir, 'answers.jsonl')
    answers.write_bytes(b''.join(answers.read_bytes().splitlines(keepends=True)[:4]))
    runner, again, (_, *new) = test('second', **{'default_hooks.answers.resume': True})
    assert again == metrics and new == rows[3:]
    with pytest.raises(ValueError, match='`conversation`: .*there, .*here'):
        test('other', **{'default_hooks.answers.resume': True, 'model.conversation.max_turns': 3})
