# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import copy
import json
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdpad.engine.runner.grpo_loop import describe_rollout
from mmdpad.prompts import parse_response
from mmdpad.registry import HOOKS
from mmdpad.structures import RolloutBatch


def train(config, **changes):
    """A finished run and its log lines."""
    config = copy.deepcopy(config)
    config.merge_from_dict(changes)
    config.experiment_name += str(len(changes)) + str(abs(hash(str(changes))))
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
                 'signal/s_margin', 'think_tokens', 'kl', 'clip_frac', 'entropy', 'loss',
                 'tokens_per_second', 'flat_groups', 'parse_failures', 'truncated', 'lr'):
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
    images, samples = batch['inputs']['prompt_image'], batch['data_samples']
    found = []
    for policy in (model.policy, other.model.policy):
        prompts = policy.encode_prompts(images, [sample.question for sample in samples])
        found.append(policy.supervised_loss(prompts, ['a star', 'no'])[0].item())
    assert found[0] == found[1]


@pytest.mark.parametrize('micro', [1, 2])
def test_accumulation_gives_the_update_of_the_whole_batch(tiny_config, micro):
    whole, _ = train(tiny_config, **{'train_dataloader.batch_size': 4, 'train_cfg.max_iters': 1,
                                     'train_cfg.prompts_per_micro_batch': 4})
    parts, _ = train(tiny_config, **{
        'train_dataloader.batch_size': 4, 'train_cfg.prompts_per_micro_batch': micro,
        'train_cfg.max_iters': 1, 'optim_wrapper.accumulative_counts': 4 // micro,
        'work_dir': tiny_config.work_dir + str(micro)})
    expected = policy_state(whole)
    for name, value in policy_state(parts).items():
        # Adam's first step is lr * sign(g): where g is rounding noise the sign may differ.
        far = (value - expected[name]).abs() > 1e-5
        assert far.float().mean() < 0.01, name


def test_several_updates_refer_to_the_policy_that_sampled(tiny_config):
    micro = {'train_cfg.prompts_per_micro_batch': 1, 'train_cfg.max_iters': 1}
    _, (twice, ) = train(tiny_config, **micro)
    # The second of two updates starts from a policy that the first has moved.
    assert abs(twice['approx_kl']) > 1e-6
    _, (once, ) = train(tiny_config, **micro, **{'optim_wrapper.accumulative_counts': 2,
                                                 'work_dir': tiny_config.work_dir + '_once'})
    assert once['approx_kl'] == 0


def test_without_the_hook_only_its_term_is_missing(tiny_config):
    config = dict(**{'train_cfg.max_iters': 1})
    _, (with_hook, ) = train(tiny_config, **config)
    tiny_config.custom_hooks = []
    tiny_config.work_dir += '_baseline'
    _, (baseline, ) = train(tiny_config, **config)
    assert 'reward/discriminative' not in baseline
    others = [k for k in baseline if k.startswith('reward/')] + ['response_tokens', 'think_tokens']
    assert len(others) == 7
    assert [baseline[k] for k in others] == [with_hook[k] for k in others]


def test_a_hook_with_a_misspelt_method_is_noticed(tiny_config):

    @HOOKS.register_module(force=True)
    class ForgetfulHook(Hook):

        def before_train(self, runner):
            runner.train_loop.composition.expect('forgotten')

        def after_roll_out(self, runner, rollout):
            rollout.rewards['forgotten'] = torch.zeros(2, 4)

    tiny_config.custom_hooks = [dict(type='ForgetfulHook')]
    with pytest.raises(RuntimeError, match=r"missing: \['forgotten'\]"):
        train(tiny_config)


@pytest.mark.parametrize('changes, message', [
    ({'train_cfg.prompts_per_micro_batch': 3}, 'divisible'),
    ({'optim_wrapper.accumulative_counts': 2}, 'divisible'),
    ({'model.train_cfg.group_size': 1}, 'group_size'),
    ({'model.train_cfg.temperature': 0.0}, 'temperature'),
    ({'model.train_cfg.kl_coeff': 0.1}, 'kl_coeff'),
])
def test_settings_that_do_not_fit_are_refused_before_training(tiny_config, changes, message):
    with pytest.raises(ValueError, match=message):
        train(tiny_config, **changes)


def test_describe_rollout_by_hand():
    texts = ['<think>a</think>', 'b', 'c', 'd']
    rollout = RolloutBatch(
        [0, 1], [0, 1], 2, texts, [parse_response(t) for t in texts],
        response_mask=torch.tensor([[1, 1], [1, 0], [1, 0], [1, 0]]).bool(),
        truncated=torch.tensor([True, False, False, False]),
        think_tokens=torch.tensor([3., float('nan'), 5., float('nan')]),
        signals={'s': torch.tensor([[1., float('nan')], [3., float('nan')]])},
        rewards={'a': torch.tensor([[1., 1.], [0., 2.]])})
    logs = describe_rollout(rollout, torch.tensor([[1., 1.], [0., 2.]]))
    assert logs == pytest.approx({
        'reward': 1.0, 'reward_std': 2**0.5 / 2, 'reward/a': 1.0, 'signal/s': 2.0,
        'flat_groups': 0.5, 'parse_failures': 1.0, 'truncated': 0.25, 'think_tokens': 4.0,
        'response_tokens': 1.25})
