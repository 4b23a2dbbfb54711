# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Runs that are resumed with other settings than they had."""
import copy
import json
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from mmdpad.engine.build import UnsuitableConfig, build_runner

COSINE = dict(type='CosineAnnealingLR', by_epoch=False)  # to the end of the training


def train(config, name, changes=None, by=Runner.from_cfg, **resume):
    """A finished run of a config with changes: its runner, logged values by iteration and log."""
    config = copy.deepcopy(config)
    config.merge_from_dict({**(changes or {}), **resume, 'work_dir': f'{config.work_dir}_{name}'})
    config.experiment_name += name
    runner = by(config)
    runner.train()
    lines = [json.loads(line) for path in Path(runner._log_dir).glob('vis_data/scalars.json')
             for line in path.read_text().splitlines()]
    log = next(Path(runner._log_dir).glob('*.log')).read_text()
    return runner, {line['step']: line for line in lines}, log


def saved(runner, iteration):
    return str(Path(runner.work_dir, f'iter_{iteration}.pth'))


@pytest.fixture(params=['grpo', 'supervised'])
def config(request, tiny_config, tiny_sft_config):
    config = tiny_config if request.param == 'grpo' else tiny_sft_config
    config.default_hooks.rollout_log = None
    del config.default_hooks['rollout_log']
    return config


@pytest.mark.promise('Training', '`--resume` with another learning rate or a longer schedule',
                     'the config applies from there on, as in an uninterrupted run with it, and '
                     'each changed value is logged')
def test_a_lower_learning_rate_applies(config, tried):
    """What our errors and alarms advise."""
    first, before, _ = train(config, 'first')
    lr = config.optim_wrapper.optimizer.lr
    changes = {'optim_wrapper.optimizer.lr': lr / 2, 'train_cfg.max_iters': 3}
    second, after, log = train(config, 'second', changes, resume=True, load_from=saved(first, 2))
    assert before[2]['lr'] == lr and after.keys() == {3} and after[3]['lr'] == lr / 2
    assert second.optim_wrapper.optimizer.param_groups[0]['lr'] == lr / 2
    assert f'lr {lr} of the checkpoint -> {lr / 2} of the config, which applies' in log
    assert 'train_cfg.max_iters 2 -> 3' in log and 'work_dir' not in log.partition('--resume')[2]
    # The step is half of what it would have been: the moments are the same.
    third, _, log = train(config, 'third', {'train_cfg.max_iters': 3,
                                            'optim_wrapper.optimizer.lr': lr},
                          resume=True, load_from=saved(first, 2))
    assert '-> ' + str(lr) not in log
    start, half, whole = (torch.load(path, weights_only=True)['state_dict']
                          for path in (saved(first, 2), saved(second, 3), saved(third, 3)))
    name = max(start, key=lambda one: (whole[one] - start[one]).abs().max())
    torch.testing.assert_close(half[name] - start[name], (whole[name] - start[name]) / 2,
                               rtol=1e-2, atol=3e-7)
    tried('GRPO and supervised, a lower rate and a longer cosine')


@pytest.mark.promise('Training', '`--resume` with another learning rate or a longer schedule',
                     'the config applies from there on, as in an uninterrupted run with it, and '
                     'each changed value is logged')
def test_a_longer_cosine_is_that_of_an_uninterrupted_run(config, tried):
    config.param_scheduler = COSINE
    _, whole, _ = train(config, 'whole', {'train_cfg.max_iters': 4})
    first, short, _ = train(config, 'first', {'train_cfg.max_iters': 2})
    assert short[2]['lr'] < whole[2]['lr']
    resumed, longer, log = train(config, 'second', {'train_cfg.max_iters': 4}, resume=True,
                                 load_from=saved(first, 2))
    assert [longer[n]['lr'] for n in (3, 4)] == [whole[n]['lr'] for n in (3, 4)]
    assert 'param_scheduler.T_max 2 of the checkpoint -> 4 of the config' in log
    again, _, log = train(config, 'third', {'train_cfg.max_iters': 4}, resume=True,
                          load_from=saved(resumed, 4))
    assert 'of the checkpoint ->' not in log and 'Nothing is left to train' in log
    tried('GRPO and supervised, a lower rate and a longer cosine')


def test_other_settings_are_reported_and_those_of_the_config_apply(tiny_config):
    first, _, _ = train(tiny_config, 'first', {'train_cfg.max_iters': 1})
    changes = {'optim_wrapper.clip_grad.max_norm': 1e-9, 'train_dataloader.batch_size': 1,
               'train_cfg.max_skipped_steps': 7, 'train_cfg.max_iters': 2,
               'model.policy.memory_budget': 'auto'}
    second, _, log = train(tiny_config, 'second', changes, resume=True, load_from=saved(first, 1))
    assert second.model.policy.memory_budget.has_state
    said = next(line for line in log.splitlines() if 'these settings differ' in line)
    for line in ('optim_wrapper.clip_grad.max_norm 1.0 -> 1e-09', 'train_dataloader.batch_size '
                 '2 -> 1', 'train_cfg.max_skipped_steps (none) -> 7', 'max_iters 1 -> 2'):
        assert line in said
    assert 'samples may be repeated' in log
    assert second.optim_wrapper.clip_grad_kwargs['max_norm'] == 1e-9
    assert second.train_loop.max_skipped_steps == 7


def test_the_seed_of_the_checkpoint_stays_and_data_go_on_in_its_order(tiny_config):
    """Whether the config has none, so that each run draws one, or another one."""
    tiny_config.train_cfg.max_iters = 4
    tiny_config.randomness = dict(seed=None)
    whole, values, _ = train(tiny_config, 'whole', by=build_runner)
    for name, seed in (('second', None), ('third', whole.seed + 1)):
        resumed, later, log = train(tiny_config, name, {'randomness.seed': seed}, build_runner,
                                    resume=True, load_from=saved(whole, 1))
        assert resumed.seed == whole.seed
        assert [later[n]['reward'] for n in (2, 3, 4)] == [values[n]['reward'] for n in (2, 3, 4)]
        assert (seed is not None) == (f'stays {whole.seed}, as in the checkpoint' in log)


@pytest.mark.parametrize('changes, message', [
    ({'optim_wrapper.optimizer': dict(_delete_=True, type='SGD', lr=0.1)}, 'AdamW.*but got SGD'),
    ({'model.policy.lora': dict(r=2)}, 'undo the changes to the policy')],
    ids=['optimizer', 'lora'])
def test_what_cannot_go_on_is_refused_before_anything_is_loaded(tiny_config, changes, message):
    first, _, _ = train(tiny_config, 'first', {'train_cfg.max_iters': 1})
    config = copy.deepcopy(tiny_config)
    config.merge_from_dict({**changes, 'resume': True, 'load_from': saved(first, 1)})
    config.experiment_name += 'other'
    runner = build_runner(config)
    before = {name: value.clone() for name, value in runner.model.policy.state_dict().items()}
    with pytest.raises(UnsuitableConfig, match=message):
        runner.train()
    after = runner.model.policy.state_dict()
    assert all(value.equal(before[name]) for name, value in after.items())


def test_a_kl_term_that_begins_later_has_the_start_policy_as_reference(tiny_config):
    start, _, _ = train(tiny_config, 'start')
    first, _, _ = train(tiny_config, 'first', {'model.loss.kl_coef': 0.0},
                        load_from=saved(start, 2))
    second, _, _ = train(tiny_config, 'second', resume=True, load_from=saved(first, 1))
    expected = start.model.policy.state_dict()
    assert all(value.equal(expected[name])
               for name, value in second.model.reference.state_dict().items())


def test_a_checkpoint_without_a_config_is_compared_by_its_values(tiny_config, tmp_path):
    first, _, _ = train(tiny_config, 'first', {'train_cfg.max_iters': 1})
    checkpoint = torch.load(saved(first, 1), weights_only=True)
    del checkpoint['meta']['cfg']
    del checkpoint['message_hub']['runtime_info']['grpo_loop']['guesses']  # older ones have none
    torch.save(checkpoint, tmp_path / 'old.pth')
    _, values, log = train(tiny_config, 'second', {'optim_wrapper.optimizer.lr': 1e-5},
                           resume=True, load_from=str(tmp_path / 'old.pth'))
    assert values[2]['lr'] == 1e-5 and '-> 1e-05 of the config' in log
    assert 'the checkpoint has no past rollouts to guess tokens from' in log


def test_nothing_is_logged_or_kept_where_nothing_is_guessed(tiny_config, tmp_path):
    """And a checkpoint from before there were guesses is as good as any."""
    engine = {'model.rollout_engine': dict(type='SharedPrefixRollout', pass_cost=0.1)}
    first, values, _ = train(tiny_config, 'first', {'train_cfg.max_iters': 1, **engine})
    assert not [name for name in values[1] if name.startswith('speculation/')]
    checkpoint = torch.load(saved(first, 1), weights_only=True)
    assert checkpoint['message_hub']['runtime_info']['grpo_loop']['guesses'] is None
    guessing, values, _ = train(tiny_config, 'guessing', {'train_cfg.max_iters': 1})
    with_guesses = torch.load(saved(guessing, 1), weights_only=True)
    assert with_guesses['message_hub']['runtime_info']['grpo_loop']['guesses'] is not None
    del checkpoint['message_hub']['runtime_info']['grpo_loop']['guesses']
    torch.save(checkpoint, tmp_path / 'old.pth')
    for number, path in enumerate((tmp_path / 'old.pth', saved(guessing, 1))):
        _, values, log = train(tiny_config, f'second_{number}', engine, resume=True,
                               load_from=str(path))
        assert 2 in values and 'guess tokens' not in log
