# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Switches of loss and advantages that need the loop: entropies of a rollout, state on resume."""
import copy
import json
from pathlib import Path

import pytest
from mmengine.runner import Runner


def train(config, name, **changes):
    """A finished run and its log lines."""
    config = copy.deepcopy(config)
    config.work_dir, config.experiment_name = f'{config.work_dir}_{name}', f'signal_{name}'
    config.merge_from_dict(changes)
    runner = Runner.from_cfg(config)
    runner.train()
    lines = Path(runner._log_dir, 'vis_data', 'scalars.json').read_text().splitlines()
    return runner, [json.loads(line) for line in lines]


def test_what_adapts_is_resumed_exactly(tiny_config):
    tiny_config.train_cfg.update(max_iters=3, advantage='ema_grpo', replay_size=4)
    tiny_config.train_dataloader.sampler = dict(type='SelectiveSampler', delay=2)
    tiny_config.model.loss = dict(
        type='GRPOLoss', kl_estimator='k3_unbiased', top_entropy_quantile=0.2,
        adaptive_entropy=dict(target=100.0, delta=1e-3, high=2.5e-3))
    straight, lines = train(tiny_config, 'straight')
    assert [line['entropy_coef'] for line in lines] == pytest.approx([1e-3, 2e-3, 2.5e-3])
    assert lines[0]['entropy_per_token'] > 0 and lines[0]['kl'] == 0 < lines[1]['kl']
    resumed, later = train(tiny_config, 'resumed', resume=True,
                           load_from=str(Path(straight.work_dir, 'iter_1.pth')))
    assert later[-1]['entropy_coef'] == lines[-1]['entropy_coef']
    expected = straight.model.policy.state_dict()
    assert all(value.equal(expected[name])
               for name, value in resumed.model.policy.state_dict().items())
    states = [runner.train_loop.state_dict() for runner in (straight, resumed)]
    assert states[0]['loss'] == states[1]['loss'] == dict(coef=2.5e-3, is_applied=True)
    assert states[0]['spread'] == states[1]['spread'] and list(states[0]['spread']) == ['']
    signals = [state['selective']['signals'] for state in states]
    assert signals[0].equal(signals[1]) and len(signals[0]) == 6 and 'passed_over' in lines[0]
    kept = [[(group['question'], group['score']) for group in state['replay']] for state in states]
    assert kept[0] == kept[1] and len(kept[0]) > 2


@pytest.mark.slow
def test_replayed_groups_are_resumed_exactly(tiny_config):
    """Most groups are flat, since hardly any reasoning is that short; a KL penalty in the reward,
    which differs between responses, is no signal."""
    tiny_config.model.loss = dict(type='GRPOLoss', kl_in='reward', kl_coef=0.01)
    tiny_config.train_cfg.update(max_iters=4, replay_size=4, rewards=dict(
        length=dict(type='ReasoningLengthReward', soft=1, hard=2)))
    tiny_config.custom_hooks = []
    straight, lines = train(tiny_config, 'straight')
    assert all(0 <= line['replayed'] <= 1 for line in lines)
    assert max(line['replayed'] for line in lines) > 0, [line['replayed'] for line in lines]
    resumed, later = train(tiny_config, 'resumed', resume=True,
                           load_from=str(Path(straight.work_dir, 'iter_2.pth')))
    assert [line['replayed'] for line in later] == [line['replayed'] for line in lines[2:]]
    expected = straight.model.policy.state_dict()
    assert all(value.equal(expected[name])
               for name, value in resumed.model.policy.state_dict().items())


@pytest.mark.slow
def test_questions_that_are_passed_over_are_resumed_exactly(tiny_config):
    """3 questions, most groups of which are flat; workers draw 2 of 2 prompts ahead in one run."""
    tiny_config.train_cfg.update(max_iters=6, rewards=dict(
        length=dict(type='ReasoningLengthReward', soft=1, hard=2)))
    tiny_config.custom_hooks = []
    tiny_config.model.train_cfg.update(group_size=2, max_new_tokens=10)
    tiny_config.train_dataloader.dataset.num_samples = 3
    tiny_config.train_dataloader.sampler = dict(
        type='SelectiveSampler', explore=0.1, delay=6)
    straight, lines = train(tiny_config, 'straight')
    assert [line['passed_over'] for line in lines[:3]] == [0, 0, 0]
    assert max(line['passed_over'] for line in lines) > 0
    with pytest.raises(ValueError, match='`train_dataloader.sampler.delay` should be at least 10'):
        train(tiny_config, 'overtaken', **{'train_dataloader.num_workers': 2})
    resumed, later = train(tiny_config, 'resumed', resume=True, **{
        'train_dataloader.num_workers': 1,
        'load_from': str(Path(straight.work_dir, 'iter_3.pth'))})
    assert [line['passed_over'] for line in later] == [line['passed_over'] for line in lines[3:]]
    expected = straight.model.policy.state_dict()
    assert all(value.equal(expected[name])
               for name, value in resumed.model.policy.state_dict().items())
    signals = [runner.train_loop.state_dict()['selective']['signals']
               for runner in (straight, resumed)]
    assert signals[0].equal(signals[1]) and len(signals[0]) == 12


@pytest.mark.slow
def test_tokens_of_high_entropy_are_those_of_the_rollout_and_not_of_a_micro_batch(tiny_config):
    tiny_config.train_cfg.update(max_iters=1, advantage='gdpo')
    tiny_config.model.loss = dict(type='GRPOLoss', top_entropy_quantile=0.3)
    found = {}
    for name, changes in dict(whole={}, parts={'train_cfg.tokens_per_micro_batch': 1},
                              all={'model.loss.top_entropy_quantile': 1.0}).items():
        _, (line, ) = train(tiny_config, name, **changes)
        found[name] = (line['pg'], line['grad_norm'])
    assert found['parts'] == pytest.approx(found['whole'], rel=1e-3, abs=1e-6)
    assert found['all'][1] != pytest.approx(found['whole'][1], rel=1e-2)
