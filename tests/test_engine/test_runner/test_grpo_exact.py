# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The whole loop against the formulas, and against itself cut and spread in other ways."""
import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from mmdpad.models import ReasoningSegmentor
from mmdpad.structures import RolloutBatch

ROOT = Path(__file__).parents[3]
RESPONSES = ['<think>it is the red circle.</think>', 'a red circle', '<answer>', 'star star star']
FLOAT64 = dict(dtype='float64')
TEMPERATURE, CLIP, KL, ENTROPY = 1.3, 0.2, 0.05, 0.01


@pytest.fixture
def segmentor(policy_config, lift):
    """In float64, with a reference that differs from it a little."""
    model = ReasoningSegmentor(
        dict(policy_config, type='VLMReasoningHead', **FLOAT64),
        loss=dict(type='GRPOLoss', clip_ratio=CLIP, kl_coef=KL, entropy_coef=ENTROPY),
        train_cfg=dict(group_size=2, temperature=TEMPERATURE))
    model.build_reference()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in model.policy.parameters():
            parameter += 2e-3 * torch.randn(parameter.shape, generator=generator,
                                            dtype=torch.float64)
    lift(model)
    return model


def make_rollout(model, sample_class) -> RolloutBatch:
    tokenizer = model.policy.processor.tokenizer
    ids = [tokenizer(text)['input_ids'] + [tokenizer.eos_token_id] for text in RESPONSES]
    length = max(map(len, ids))
    generator = torch.Generator().manual_seed(1)
    images = [torch.randint(256, (3, 112, 112), generator=generator, dtype=torch.uint8)
              for _ in range(2)]
    rollout = RolloutBatch(
        [sample_class(metainfo=dict(question=q)) for q in ('the star', 'something to roll')],
        images, 2, RESPONSES, [None] * 4,
        response_ids=torch.tensor([i + [tokenizer.pad_token_id] * (length - len(i)) for i in ids]),
        response_mask=torch.tensor([[j < len(i) for j in range(length)] for i in ids]),
        truncated=torch.zeros(4, dtype=torch.bool), reasoning_tokens=torch.zeros(4),
        advantages=torch.tensor([[0.7, -0.7], [-1.1, 1.1]], dtype=torch.float64))
    # An old policy far enough away that some ratios are clipped.
    noise = torch.randn(rollout.response_ids.shape, generator=generator, dtype=torch.float64)
    rollout.old_logp = model.log_probs(rollout)[0] + 0.3 * noise
    return rollout


def plain_log_softmax(head, prompts, row, ids):
    """One sequence without padding through the model: (T, V) log-probabilities of its tokens."""
    prompt = prompts[row]
    inputs = torch.cat([prompt.input_ids, ids])[None]
    types = torch.cat([prompt.token_types, torch.zeros_like(ids)])[None]
    logits = head.model(input_ids=inputs, mm_token_type_ids=types,
                        pixel_values=prompt.pixel_values, image_grid_thw=prompt.grid).logits[0]
    logits = logits[-len(ids) - 1:-1] / TEMPERATURE
    forbidden = torch.zeros(logits.shape[1], dtype=torch.bool)
    forbidden[head.vision_token_ids] = True
    return logits.masked_fill(forbidden, -1e300).log_softmax(-1)


def test_gradients_equal_a_plain_derivation(segmentor):
    """GRPO (arXiv 2402.03300, eq. 3-4) with the entropy bonus, one sequence at a time."""
    from mmdet.structures import DetDataSample
    rollout = make_rollout(segmentor, DetDataSample)
    segmentor.zero_grad()
    loss = segmentor.loss(rollout)
    loss['loss'].backward()
    ours = {name: p.grad.clone() for name, p in segmentor.policy.named_parameters()}
    segmentor.zero_grad()

    prompts = segmentor.encode_prompts(dict(model_image=rollout.model_images), rollout.data_samples)
    total, clipped = 0, 0
    for row in range(4):
        ids = rollout.response_ids[row][rollout.response_mask[row]]
        log_softmax = plain_log_softmax(segmentor.policy, prompts, row // 2, ids)
        logp = log_softmax.gather(1, ids[:, None])[:, 0]
        with torch.no_grad():
            reference = plain_log_softmax(segmentor.reference, prompts, row // 2, ids)
            reference = reference.gather(1, ids[:, None])[:, 0]
        advantage = rollout.advantages.flatten()[row]
        ratio = (logp - rollout.old_logp[row][:len(ids)]).exp()
        bounded = ratio.clamp(1 - CLIP, 1 + CLIP)
        surrogate = torch.min(advantage * ratio, advantage * bounded)
        clipped += int((advantage * bounded < advantage * ratio).sum())
        kl = (reference - logp).exp() - (reference - logp) - 1
        entropy = -(log_softmax.exp() * log_softmax).sum(-1)
        total = total + (-surrogate + KL * kl - ENTROPY * entropy).mean() / 4
    assert 0 < clipped < int(rollout.response_mask.sum())
    total.backward()
    assert loss['loss'].item() == pytest.approx(total.item(), rel=1e-9)
    for name, parameter in segmentor.policy.named_parameters():
        error = (ours[name] - parameter.grad).norm() / parameter.grad.norm().clamp(min=1e-12)
        assert error < 1e-9, f'{name}: {error}'


def trajectory_config(config, name, batch=8, tokens=None, **changes):
    """Three steps of `batch` prompts x 2 responses in float64, in micro-batches of `tokens`."""
    config = copy.deepcopy(config)
    config.merge_from_dict({
        **{f'model.policy.{key}': value for key, value in FLOAT64.items()},
        'model.train_cfg.group_size': 2, 'model.train_cfg.max_new_tokens': 40,
        'train_cfg.max_iters': 3,
        'train_dataloader.batch_size': batch, 'train_cfg.tokens_per_micro_batch': tokens,
        'default_hooks.checkpoint.interval': 3,
        'work_dir': str(Path(config.work_dir).with_name(name)), **changes})
    config.experiment_name += name
    return config


def run(config):
    Runner.from_cfg(config).train()
    return policy_of(config)


def policy_of(config):
    return torch.load(Path(config.work_dir, 'iter_3.pth'), weights_only=True)['state_dict']


def farthest(state, other):
    return max(float((state[name] - other[name]).abs().max()) for name in state)


@pytest.mark.parametrize('aggregation', [
    'seq_mean_token_mean', pytest.param('token_mean', marks=pytest.mark.slow)])
def test_one_trajectory_however_the_batch_is_cut(tiny_config, aggregation):
    """In one micro-batch, in unequal ones of some groups, and in 8 of one group."""
    changes = {'model.loss.aggregation': aggregation}
    whole = run(trajectory_config(tiny_config, 'whole', **changes))
    for tokens in (450, 1):
        parts = run(trajectory_config(tiny_config, f'tokens{tokens}', tokens=tokens, **changes))
        assert farthest(parts, whole) < 1e-6


def test_one_trajectory_however_many_processes(tiny_config, tmp_path):
    """Two processes (gloo) with 4 prompts each against one with 8, with switches that need the
    whole batch; the same seed twice gives the same bits."""
    changes = {'train_cfg.advantage': 'reinforce++-baseline',
               'model.loss.aggregation': 'token_mean'}
    whole = run(trajectory_config(tiny_config, 'one', tokens=450, **changes))
    again = run(trajectory_config(tiny_config, 'again', tokens=450, **changes))
    assert all(again[name].equal(whole[name]) for name in whole)

    config = trajectory_config(tiny_config, 'two', batch=4, tokens=450, **changes)
    config.dump(tmp_path / 'config.py')
    command = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2',
               'tools/train.py', str(tmp_path / 'config.py'), '--launcher', 'pytorch',
               '--work-dir', config.work_dir]
    result = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert farthest(policy_of(config), whole) < 1e-6
