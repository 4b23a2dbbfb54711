# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper as amp
from mmengine.runner import Runner
from mostly_slow import mostly_slow
from text_readers import rollout_of

from mmdpad.engine.runner.finite import StepRefused, refused_steps, save_rollout
from mmdpad.geometry.crops import Crop
from mmdpad.structures import ConversationRecord


def test_a_saved_batch_of_conversations_is_plain_data(tmp_path):
    rollout = rollout_of(['a', 'b'], several=False)
    rollout.conversations = [ConversationRecord((text, ), (Crop((1, 2, 3, 4), (5, 6)), ), (),
                                                'answer') for text in rollout.texts]
    save_rollout(rollout, str(tmp_path / 'batch.pth'))
    found = torch.load(tmp_path / 'batch.pth', weights_only=True)['conversations']
    assert [(one['turns'], one['crops']) for one in found] == [
        (['a'], [[1, 2, 3, 4]]), (['b'], [[1, 2, 3, 4]])]


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf'), 3e38])
def test_weights_and_state_stay_as_they_are(value):
    """3e38 is finite and its square is not: clipping would make it 0, and it is no gradient."""
    weights = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.AdamW(weights, lr=0.1)
    wrapper = OptimWrapper(optimizer, clip_grad=dict(max_norm=1.0))
    weights[1].grad = torch.ones(2)  # the other one has none
    with refused_steps(wrapper):
        wrapper.step()
    before = [weight.detach().clone() for weight in weights]
    kept = optimizer.state[weights[1]]['exp_avg'].clone()
    assert before[0].equal(torch.ones(3)) and not before[1].equal(torch.ones(2))
    weights[0].grad = torch.tensor([0, value, 0])
    with pytest.raises(StepRefused), refused_steps(wrapper):
        wrapper.step()
    assert all(map(torch.equal, weights, before))
    assert weights[0] not in optimizer.state
    assert optimizer.state[weights[1]]['exp_avg'].equal(kept)


def spoil(runner, bad):
    """Make the gradient of a weight NaN in these iterations, from 1."""
    weight = next(runner.model.policy.parameters())
    weight.register_hook(
        lambda grad: grad * float('nan') if runner.iter + 1 in bad else grad)


def weights_of(path):
    return torch.load(path, weights_only=True)['state_dict']


def lines_of(runner):
    return [json.loads(line) for line in
            Path(runner._log_dir, 'vis_data/scalars.json').read_text().splitlines()]


@pytest.mark.promise('Training', 'Gradients are NaN or infinite',
                     'the step is skipped on all processes and counted; after '
                     '`train_cfg.max_skipped_steps` in a row the run ends with the batch saved')
def test_a_run_continues_without_the_steps_that_are_not_finite(tiny_config, tried):
    tiny_config.train_cfg.update(max_iters=3, max_skipped_steps=1)
    runner = Runner.from_cfg(tiny_config)
    spoil(runner, bad=[2])
    runner.train()
    first, second, third = (weights_of(Path(runner.work_dir, f'iter_{n}.pth')) for n in (1, 2, 3))
    assert all(first[name].equal(second[name]) for name in first)
    assert any(not first[name].equal(third[name]) for name in first)
    assert all(value.isfinite().all() for value in third.values())
    assert [line['skipped_steps'] for line in lines_of(runner)] == [0, 1, 0]
    assert 'iteration 2 are not finite' in next(
        Path(runner._log_dir).glob('*.log')).read_text()
    tried('one in a run: weights and optimizer bit for bit as before')


@pytest.mark.promise('Training', 'Gradients are NaN or infinite',
                     'the step is skipped on all processes and counted; after '
                     '`train_cfg.max_skipped_steps` in a row the run ends with the batch saved')
def test_too_many_in_a_row_end_it_and_the_batch_is_kept(tiny_config, tried):
    tiny_config.train_cfg.update(max_iters=5, max_skipped_steps=1)
    runner = Runner.from_cfg(tiny_config)
    spoil(runner, bad=[2, 3])
    with pytest.raises(FloatingPointError, match=(
            '2 steps in a row .*skipped_steps.*_rank_0.pth.* The forward pass is finite .*'
            'one from before iteration 2')):
        runner.train()
    kept = torch.load(next(Path(runner._log_dir).glob('not_finite_iter_3_rank_0.pth')),
                      weights_only=True)
    rows = [json.loads(line) for line in
            Path(runner._log_dir, 'rollouts.jsonl').read_text().splitlines()]
    assert kept['texts'] == [row['response'] for row in rows if row['iter'] == 3]
    assert kept['advantages'].isfinite().all() and kept['response_ids'].dtype == torch.long
    assert all('img_path' in sample for sample in kept['samples'])
    tried('more in a row than are allowed')


def test_a_resumed_run_knows_how_many_there_were(tiny_config, tmp_path):
    tiny_config.train_cfg.update(max_iters=2, max_skipped_steps=1)
    runner = Runner.from_cfg(tiny_config)
    spoil(runner, bad=[2])
    runner.train()
    tiny_config.merge_from_dict({
        'train_cfg.max_iters': 3, 'resume': True, 'work_dir': str(tmp_path / 'other'),
        'load_from': str(Path(runner.work_dir, 'iter_2.pth'))})
    resumed = Runner.from_cfg(tiny_config)
    spoil(resumed, bad=[3])
    with pytest.raises(FloatingPointError, match='2 steps in a row'):
        resumed.train()


@pytest.fixture
def amp_config(tiny_config, monkeypatch):
    """With mmengine's AMP wrapper and a loss scaler as on a GPU, on the CPU."""
    monkeypatch.setattr(amp, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp, 'GradScaler', partial(torch.amp.GradScaler, 'cpu'))
    tiny_config.optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
    return tiny_config


@pytest.mark.parametrize('fused, clip_grad', mostly_slow(
    product([True, False], [dict(max_norm=1.0), None]), fast=[(True, dict(max_norm=1.0))]))
def test_under_a_loss_scaler_steps_are_skipped_and_counted_as_without(amp_config, fused, clip_grad):
    """The published recipe has one, on bfloat16. It alone would skip for ever, or fail at the next
    step after a refused one."""
    amp_config.optim_wrapper.update(clip_grad=clip_grad)
    amp_config.optim_wrapper.optimizer.fused = fused
    amp_config.train_cfg.update(max_iters=6, max_skipped_steps=1)
    runner = Runner.from_cfg(amp_config)
    spoil(runner, bad=[2, 4, 5])
    with pytest.raises(FloatingPointError, match='2 steps in a row'):
        runner.train()
    first, second, third = (weights_of(Path(runner.work_dir, f'iter_{n}.pth')) for n in (1, 2, 3))
    assert all(first[name].equal(second[name]) for name in first)
    assert any(not first[name].equal(third[name]) for name in first)
    assert [line['skipped_steps'] for line in lines_of(runner)] == [0, 1, 0, 1]
    assert runner.optim_wrapper.loss_scaler.get_scale() == 65536 / 2**3


def test_a_scale_that_is_too_large_for_float16_is_searched_for(amp_config):
    """More steps than may be skipped in a row."""
    amp_config.optim_wrapper.update(dtype=None)  # on a GPU float16
    amp_config.train_cfg.update(max_iters=3, max_skipped_steps=0)
    runner = Runner.from_cfg(amp_config)
    spoil(runner, bad=[1, 2])
    runner.train()
    assert [line['skipped_steps'] for line in lines_of(runner)] == [1, 1, 0]
    assert runner.optim_wrapper.loss_scaler.get_scale() == 65536 / 2**2
