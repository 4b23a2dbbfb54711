# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import copy
import json
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdpad.engine.runner.grpo_loop import _mean_by_name, mean_over_processes
from mmdpad.models import ReasoningSegmentor
from mmdpad.registry import HOOKS, REWARDS


def train(config, **changes):
    """A finished run and its log lines."""
    config = copy.deepcopy(config)
    config.merge_from_dict(changes)
    runner = Runner.from_cfg(config)
    runner.train()
    lines = Path(runner._log_dir, 'vis_data', 'scalars.json').read_text().splitlines()
    return runner, [json.loads(line) for line in lines]


def policy_state(runner):
    return {k: v.clone() for k, v in runner.model.policy.state_dict().items()}


def test_a_run_logs_every_term_and_moves_the_policy_but_not_the_rest(tiny_config):
    start = Runner.from_cfg(tiny_config)
    before = policy_state(start)
    runner, lines = train(tiny_config)
    assert len(lines) == 2
    for name in ('reward', 'reward/thinking_format', 'reward/segmentation_format',
                 'reward/box_iou', 'reward/box_l1', 'reward/point_l1', 'reward/discriminative',
                 'signal/s_margin', 'reasoning_tokens', 'kl', 'clip_frac', 'entropy', 'loss',
                 'tokens_per_second', 'frac_reward_zero_std', 'parse_failures', 'truncated', 'lr'):
        assert name in lines[0], name
    total = sum(v for k, v in lines[0].items() if k.startswith('reward/'))
    assert lines[0]['reward'] == pytest.approx(total, abs=1e-5)
    assert lines[0]['kl'] == 0 and lines[1]['kl'] > 0  # the reference is the start policy
    after = policy_state(runner)
    assert any(not after[k].equal(before[k]) for k in after)
    reference = runner.model.reference.state_dict()
    assert all(reference[k].equal(before[k]) for k in before)


def test_checkpoints_hold_the_policy_only_and_load_as_plain_data(tiny_config):
    runner, _ = train(tiny_config)
    checkpoint = torch.load(Path(runner.work_dir, 'iter_2.pth'), weights_only=True)
    assert all(name.startswith('policy.') for name in checkpoint['state_dict'])
    assert len(checkpoint['state_dict']) == len(runner.model.policy.state_dict())


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tiny_config, tmp_path):
    straight, lines = train(tiny_config, **{'train_cfg.max_iters': 3})
    resumed, later = train(tiny_config, **{
        'train_cfg.max_iters': 3, 'resume': True, 'work_dir': str(tmp_path / 'other'),
        'load_from': str(Path(straight.work_dir, 'iter_1.pth'))})
    expected = policy_state(straight)
    assert all(v.equal(expected[k]) for k, v in policy_state(resumed).items())
    same = ('reward', 'kl', 'loss', 'entropy', 'grad_norm')
    assert [{k: line[k] for k in same} for line in later] == [
        {k: line[k] for k in same} for line in lines[1:]]


def test_load_from_is_the_start_policy_and_stays_the_reference_on_resume(tiny_config, tmp_path):
    first, _ = train(tiny_config)
    start = str(Path(first.work_dir, 'iter_2.pth'))
    second, lines = train(tiny_config, load_from=start, work_dir=str(tmp_path / 'second'))
    assert lines[0]['kl'] == 0
    third, _ = train(tiny_config, resume=True, load_from=str(tmp_path / 'second/iter_1.pth'),
                     work_dir=str(tmp_path / 'third'))
    expected = policy_state(first)
    for runner in (second, third):
        reference = runner.model.reference.state_dict()
        assert all(reference[k].equal(expected[k]) for k in expected)


def test_with_lora_the_base_is_the_reference_and_stays_as_it_is(tiny_config, tmp_path):
    tiny_config.model.policy.lora = dict(r=4, lora_alpha=8)
    before = policy_state(Runner.from_cfg(tiny_config))
    runner, lines = train(tiny_config)
    model = runner.model
    assert lines[0]['kl'] == 0 and lines[1]['kl'] > 0 and model.reference is None
    after = policy_state(runner)
    assert {key for key in after if not after[key].equal(before[key])} <= (
        model.policy.adapter_keys)

    again = copy.deepcopy(tiny_config)
    again.experiment_name += 'again'
    other = Runner.from_cfg(again)
    other.load_checkpoint(str(Path(runner.work_dir, 'iter_2.pth')))
    batch = next(iter(runner.train_dataloader))
    images, samples = batch['inputs']['model_image'], batch['data_samples']
    found = []
    for policy in (model.policy, other.model.policy):
        prompts = policy.encode_prompts(images, [sample.question for sample in samples])
        found.append(policy.supervised_loss(prompts, ['a star', 'no'])[0].item())
    assert found[0] == found[1]


def test_several_updates_refer_to_the_policy_that_sampled(tiny_config):
    one = {'train_cfg.max_iters': 1}
    _, (twice, ) = train(tiny_config, **one, **{'train_cfg.prompts_per_update': 1})
    # The second of two updates starts from a policy that the first has moved.
    assert abs(twice['approx_kl']) > 1e-6
    _, (once, ) = train(tiny_config, **one, **{'train_cfg.prompts_per_update': 2,
                                               'train_cfg.tokens_per_micro_batch': 1,
                                               'work_dir': tiny_config.work_dir + '_once'})
    assert once['approx_kl'] == 0


def test_without_the_hook_only_its_term_is_missing(tiny_config):
    config = dict(**{'train_cfg.max_iters': 1})
    _, (with_hook, ) = train(tiny_config, **config)
    tiny_config.custom_hooks = []
    tiny_config.work_dir += '_baseline'
    _, (baseline, ) = train(tiny_config, **config)
    assert 'reward/discriminative' not in baseline
    others = [k for k in baseline if k.startswith('reward/')] + [
        'response_tokens', 'reasoning_tokens']
    assert len(others) == 7
    assert [baseline[k] for k in others] == [with_hook[k] for k in others]


def test_a_term_is_the_same_whether_a_hook_or_the_loop_names_it(tiny_config):
    (hook, ) = tiny_config.custom_hooks
    term = dict(hook, type='DiscriminativeReward', weight=0.5)
    tiers = [0.3, 0.5]
    tiny_config.custom_hooks = [dict(hook, weight=0.5), dict(type='MaskRewardHook', tiers=tiers)]
    by_hooks, lines = train(tiny_config)
    tiny_config.custom_hooks = []
    tiny_config.train_cfg.rewards.update(
        discriminative=term, mask_iou=dict(type='MaskReward', tiers=tiers))
    tiny_config.work_dir += '_named'
    named, others = train(tiny_config)
    assert list(by_hooks.train_loop.composition.weights.items()) == list(
        named.train_loop.composition.weights.items())
    assert 'reward/mask_iou' in lines[0] and 'signal/s_margin' in lines[0]
    assert [{k: v for k, v in line.items() if not k.endswith(('time', 'per_second', 'memory'))}
            for line in lines] == [
        {k: v for k, v in line.items() if not k.endswith(('time', 'per_second', 'memory'))}
        for line in others]
    expected = policy_state(by_hooks)
    assert all(v.equal(expected[k]) for k, v in policy_state(named).items())


def test_a_run_without_a_reward_is_refused(tiny_config):
    tiny_config.train_cfg.rewards, tiny_config.custom_hooks = {}, []
    with pytest.raises(ValueError, match='at least one term, but there is none; add'):
        Runner.from_cfg(tiny_config).train()


def test_a_reward_that_is_no_term_is_noticed(tiny_config):

    @HOOKS.register_module(force=True)
    class ForgetfulHook(Hook):

        def before_trian(self, runner):
            runner.train_loop.composition.add('forgotten', lambda rollout: torch.zeros(2, 4))

        def after_rollout(self, runner, rollout):
            rollout.rewards['forgotten'] = torch.zeros(2, 4)

    tiny_config.custom_hooks = [dict(type='ForgetfulHook')]
    with pytest.raises(RuntimeError, match=r"not among them: \['forgotten'\]"):
        train(tiny_config)


@pytest.mark.parametrize('changes, message', [
    ({'train_cfg.prompts_per_update': 3}, 'divisible'),
    ({'train_cfg.prompts_per_update': -2}, '`prompts_per_update` should be at least 1'),
    ({'train_cfg.tokens_per_micro_batch': 0}, 'tokens_per_micro_batch'),
    ({'optim_wrapper.accumulative_counts': 2}, 'accumulative_counts'),
    ({'model.train_cfg.group_size': 1}, 'group_size'),
    ({'model.train_cfg.temperature': 0.0}, 'temperature'),
    ({'model.train_cfg.kl_coef': 0.1}, 'it is called model.loss.kl_coef now'),
    ({'model.loss.kl_in': 'advantage'}, 'kl_in'),
    ({'model.loss.surrogate': 'ppo'}, 'surrogate'),
    ({'train_cfg.advantage': 'gae'}, 'advantage'),
    ({'train_cfg.num_iterations': 0}, 'num_iterations'),
])
def test_settings_that_do_not_fit_are_refused_before_training(tiny_config, changes, message):
    with pytest.raises(ValueError, match=message):
        train(tiny_config, **changes)


@pytest.mark.parametrize('changes', [
    {'train_cfg.advantage': 'dr_grpo'}, {'train_cfg.advantage': 'rloo'},
    {'train_cfg.advantage': 'reinforce++'}, {'train_cfg.advantage': 'reinforce++-baseline'},
    {'model.loss.aggregation': 'token_mean'},
    {'model.loss.aggregation': 'seq_mean_token_sum_norm'},
    {'model.loss.clip_ratio_high': 0.28}, {'model.loss.surrogate': 'cispo'},
    {'model.loss.ratio_level': 'sequence'}, {'model.loss.kl_estimator': 'k2'},
    {'model.loss.mask_truncated': True}, {'model.loss.entropy_coef': 0.01}])
def test_every_switch_trains(tiny_config, changes):
    """Two updates of one rollout: the second has ratios that differ from 1."""
    runner, (line, ) = train(tiny_config, **{'train_cfg.num_iterations': 2,
                                             'train_cfg.max_iters': 1}, **changes)
    assert line['grad_norm'] > 0 and abs(line['approx_kl']) > 0
    assert all(torch.isfinite(v).all() for v in policy_state(runner).values())


def test_kl_in_the_reward_lowers_it_once_the_policy_has_moved(tiny_config):
    changes = {'model.loss.kl_in': 'reward', 'model.loss.kl_coef': 0.5,
               'model.loss.kl_estimator': 'k2'}
    _, (first, second) = train(tiny_config, **changes)

    def terms(line):
        return sum(v for k, v in line.items() if k.startswith('reward/'))

    assert first['reward'] == pytest.approx(terms(first), abs=1e-5)  # the log has the task's
    assert first['kl_penalty'] == 0 and second['kl_penalty'] > 0
    assert second['loss'] == pytest.approx(second['pg'], abs=1e-6)  # not in the loss as well


def test_kept_log_probs_are_computed_once_in_micro_batches(tiny_config, monkeypatch):
    """For the KL in the reward the whole rollout once went through the policy at a time, and for
    several updates once more in micro-batches."""
    seen, log_probs = [], ReasoningSegmentor.log_probs

    def spy(model, rollout):
        seen.append(rollout.num_prompts)
        return log_probs(model, rollout)

    monkeypatch.setattr(ReasoningSegmentor, 'log_probs', spy)
    train(tiny_config, **{'train_cfg.max_iters': 1, 'train_cfg.tokens_per_micro_batch': 1,
                          'train_cfg.num_iterations': 2, 'model.loss.kl_in': 'reward'})
    assert seen == [1, 1]


def test_truncated_responses_are_left_out_of_the_loss_if_asked(tiny_config):
    changes = {'train_cfg.max_iters': 1, 'model.train_cfg.max_new_tokens': 10,
               'model.loss.mask_truncated': True}
    _, (line, ) = train(tiny_config, **changes)
    assert line['truncated'] == 1.0 and line['grad_norm'] == 0.0


class ScriptedReward:
    """Tells the responses of a group apart only for prompts whose question has a word."""

    def __init__(self, word):
        self.word, self.calls = word, 0

    def __call__(self, rollout):
        self.calls += 1
        told = torch.tensor([self.word in sample.question for sample in rollout.data_samples])
        return told[:, None] * torch.arange(rollout.group_size).float()


def test_groups_without_a_signal_are_refilled(tiny_config):
    """The stream of prompts decides how many further batches are needed; it is read off first."""
    REWARDS.register_module(name='ScriptedReward', module=ScriptedReward, force=True)
    tiny_config.custom_hooks = []
    tiny_config.train_cfg.rewards = dict(script=dict(type='ScriptedReward', word='object'))
    config = {'train_cfg.max_iters': 1, 'model.train_cfg.max_new_tokens': 8}
    stream = iter(Runner.from_cfg(tiny_config).build_dataloader(
        tiny_config.train_dataloader, seed=0))
    told, batches = 0, 0
    while told < 2:
        told += sum('object' in s.question for s in next(stream)['data_samples'])
        batches += 1
    assert batches > 1, 'the first batch is full already: choose another word'
    runner, (line, ) = train(tiny_config, **config, **{'train_cfg.max_refills': 20})
    assert line['refills'] == batches - 1
    assert runner.train_loop.batches_drawn == batches
    assert line['frac_reward_zero_std'] == pytest.approx(1 - told / (2 * batches))
    assert line['grad_norm'] > 0
    bounded, (line, ) = train(tiny_config, **config, **{
        'train_cfg.max_refills': 1, 'train_cfg.rewards.script.word': 'no such word',
        'work_dir': tiny_config.work_dir + '_none'})
    assert line['refills'] == 1 and line['frac_reward_zero_std'] == 1 and line['grad_norm'] == 0


def test_a_resumed_run_continues_after_the_refills(tiny_config, tmp_path):
    """Also the memory of a term with a window is taken up."""
    tiny_config.train_cfg.rewards.box_iou = dict(
        type='QuantileReward', term=dict(type='BoxIoUReward', threshold=None))
    changes = {'train_cfg.max_iters': 3, 'train_cfg.max_refills': 2}
    straight, lines = train(tiny_config, **changes)
    resumed, later = train(tiny_config, **changes, **{
        'resume': True, 'work_dir': str(tmp_path / 'other'),
        'load_from': str(Path(straight.work_dir, 'iter_1.pth'))})
    assert resumed.train_loop.batches_drawn == straight.train_loop.batches_drawn
    state, expected = resumed.train_loop.state_dict(), straight.train_loop.state_dict()
    torch.testing.assert_close(state.pop('guesses')['tallies'], expected.pop('guesses')['tallies'],
                               rtol=0, atol=0)
    assert state == expected
    same = ('reward', 'reward/box_iou', 'loss', 'grad_norm', 'refills')
    assert [{k: line[k] for k in same} for line in later] == [
        {k: line[k] for k in same} for line in lines[1:]]


def test_the_mean_over_processes_is_of_those_that_have_a_number():
    assert mean_over_processes({'a': 1.5}) == {'a': 1.5}
    assert _mean_by_name([{'a': 1., 'm/max_r': 2.}, {'a': 2., 'm/max_r': 5.}]) == {
        'a': 1.5, 'm/max_r': 5.}


def test_the_mismatch_of_engine_and_update_is_logged_and_corrected(tiny_config):
    tiny_config.model.rollout_engine = dict(type='SharedPrefixRollout', records_log_probs=True)
    _, lines = train(tiny_config, **{'model.loss.importance_cap': 2.0,
                                     'train_cfg.tokens_per_micro_batch': 100})
    for line in lines:  # the same arithmetic but for the order of sums
        assert 0 <= line['mismatch/kl'] < 1e-6 and line['mismatch/clipped'] == 0
        assert 1 <= line['mismatch/max_ratio'] < 1.01
    tiny_config.model.rollout_engine = dict(type='HFRollout')
    with pytest.raises(ValueError, match='records_log_probs'):
        train(tiny_config, **{'model.loss.importance_cap': 2.0})
