# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""One pass over prompt and responses against one sequence per response: loss and every gradient."""
import math
from itertools import product

import pytest
import torch
from mmdet.structures import DetDataSample
from policy_folders import change_json, shrink_tiles

from mmdpad.models import ReasoningSegmentor
from mmdpad.models.heads import packed_attention, replicated_prefix, shared_prefix
from mmdpad.models.heads.families import FAMILIES
from mmdpad.models.heads.packed_attention import (
    CopiedPrompts,
    JoinedAttention,
    PackedGroup,
    Spans,
)
from mmdpad.models.heads.shared_prefix import PackedRow
from mmdpad.structures import RolloutBatch
from mmdpad.toy.policy_folder import make_policy_folder

LENGTHS = [[9, 1, 14], [5, 12, 7]]
CPU = torch.device('cpu')
LOSS = dict(type='GRPOLoss', kl_coef=0.05, entropy_coef=0.01)


def make_segmentor(policy_config, **policy):
    """A policy that is not its reference: all weights, the adapter's too, are moved a little."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # an adapter's first matrices are drawn
        model = ReasoningSegmentor(dict(type='VLMReasoningHead') | policy_config | policy,
                                   loss=LOSS,
                                   train_cfg=dict(group_size=3, temperature=1.3)).train()
    if policy.get('dtype') == 'float64':
        model.double()  # adapters are float32 by themselves
    model.build_reference()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            if parameter.requires_grad:
                parameter += 1e-2 * torch.randn(parameter.shape, generator=generator)
    return model


def make_rollout(model):
    """Two prompts of different lengths, three responses of random tokens to each, and an old
    policy so far away that the clip binds for some tokens."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor(LENGTHS).flatten()
    mask = torch.arange(14) < lengths[:, None]
    images = model.policy.processor.image_processor
    if 'height' in images.size:  # one tile, and two with a thumbnail
        sizes = [(56, 56), (56, 112)]
    else:
        side = max({8: 112, 14: 112, 16: 96}[images.patch_size],
                   math.isqrt(images.size['shortest_edge']))
        sizes = [(side, side)] * 2
    samples = [DetDataSample(metainfo=dict(question=q)) for q in ('star', 'something to roll')]
    rollout = RolloutBatch(
        samples, [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8)
                  for size in sizes], 3, [''] * 6, [None] * 6,
        response_ids=torch.randint(20, (6, 14), generator=generator), response_mask=mask,
        truncated=torch.zeros(6, dtype=torch.bool), reasoning_tokens=torch.zeros(6),
        advantages=torch.randn(2, 3, generator=generator))
    noise = 0.3 * torch.randn(mask.shape, generator=generator)
    rollout.old_logp = model.log_probs(rollout)[0] + noise
    return rollout


def replicate(model):
    """Let policy and reference compute the prompt once per response, by transformers' SDPA."""
    for head in (model.policy, model.reference):
        if head is not None:
            head.model.set_attn_implementation('sdpa')
            head._response_states = replicated_prefix.response_states


def loss_and_gradients(model, rollout):
    model.zero_grad()
    scalars = model.loss(rollout)
    scalars['loss'].backward()
    return scalars, {name: p.grad.clone() for name, p in model.policy.named_parameters()
                     if p.requires_grad}


def errors(model, rollout):
    """Relative difference of the loss, and that of the worst gradient, shared to replicated.

    A bias of keys in InternVL's tower shifts all scores of a query alike: only rounding is left of
    its gradient.
    """
    scalars, shared = loss_and_gradients(model, rollout)
    assert 0 < scalars['clip_frac'] < 1 and scalars['kl'] > 0 and scalars['entropy'] > 0
    replicate(model)
    expected, plain = loss_and_gradients(model, rollout)
    assert shared.keys() == plain.keys()
    return (abs(scalars['loss'] / expected['loss'] - 1).item(),
            max(((shared[name] - plain[name]).norm() / plain[name].norm()).item()
                for name in plain if not name.endswith('attention.k_proj.bias')))


def attend_by(kind, monkeypatch):
    monkeypatch.setattr(shared_prefix, 'joins_parts', lambda device: kind is JoinedAttention)


CASES = {
    'full': dict(),
    'checkpointing': dict(gradient_checkpointing=True),
    'vision frozen': dict(freeze_vision=True, gradient_checkpointing=True),
    'lora': dict(lora=dict(r=4), gradient_checkpointing=True),
    'lora everywhere': dict(lora=dict(r=4, target_modules=r'.*(qkv|q_proj|v_proj|down_proj)')),
}


@pytest.fixture(params=['qwen2_vl', 'qwen2_5', 'qwen3', 'qwen3_vl_moe', 'qwen3_5', 'glm4v',
                        'internvl'])
def family(request, policy_config, tmp_path):
    """Config of a policy head of one of the families."""
    if request.param == 'qwen2_5':
        return policy_config
    if request.param == 'qwen3_5':
        folder = make_policy_folder(tmp_path, 'qwen3_5')
        change_json(tmp_path / 'preprocessor_config.json',
                    size=dict(shortest_edge=64 * 64, longest_edge=128 * 128))
        return dict(policy_config, pretrained=folder)
    if request.param == 'internvl':
        make_policy_folder(tmp_path, 'internvl')
        return dict(policy_config, pretrained=shrink_tiles(tmp_path))
    if request.param in FAMILIES:
        return dict(policy_config, pretrained=make_policy_folder(tmp_path, request.param))
    return dict(policy_config, pretrained=request.getfixturevalue('qwen3_folder'))


@pytest.mark.parametrize('case', CASES)
def test_loss_and_gradients_in_float64(family, lift, case):
    model = make_segmentor(family, dtype='float64', **CASES[case])
    lift(model)
    rollout = make_rollout(model)
    assert max(errors(model, rollout)) < 1e-12


def test_loss_and_gradients_with_transformers_own_norms(family):
    """The norms round the gradient that flows through them to float32, once for a prompt's token
    here and once per response there: each tensor differs by some float32 roundings of 6e-8, how
    many depends on the processor."""
    model = make_segmentor(family, dtype='float64', gradient_checkpointing=True)
    loss, gradients = errors(model, make_rollout(model))
    assert loss < 1e-7 and gradients < 2e-6


@pytest.mark.parametrize('case', ['full', 'checkpointing'])
def test_loss_and_gradients_as_on_a_gpu(family, lift, case, monkeypatch):
    attend_by(CopiedPrompts, monkeypatch)
    model = make_segmentor(family, dtype='float64', **CASES[case])
    lift(model)
    assert max(errors(model, make_rollout(model))) < 1e-12


@pytest.mark.parametrize('case', CASES)
def test_loss_and_gradients_in_float32(family, case):
    """Both ways are 5e-5 from float64 here; they are closer to each other."""
    model = make_segmentor(family, **CASES[case])
    assert max(errors(model, make_rollout(model))) < 2e-5


@pytest.mark.parametrize('policy', [dict(), dict(dtype='bfloat16')], ids=['autocast', 'weights'])
@torch.no_grad()
def test_in_bfloat16(family, policy):
    """As far from float32 as the replicated batch is, which rounds in other places."""
    exact = make_segmentor(family)
    rollout = make_rollout(exact)
    expected = exact.log_probs(rollout)[0]
    model = make_segmentor(family, **policy)
    model.policy.load_state_dict(exact.policy.state_dict())
    distances = []
    for change in (lambda model: None, replicate):
        change(model)
        with torch.autocast('cpu', torch.bfloat16, enabled=not policy):
            logp = model.log_probs(rollout)[0]
        distances.append((logp - expected)[rollout.response_mask].abs().mean().item())
    shared, replicated = distances
    assert 1e-4 < shared < 1.5 * replicated < 0.3


def leak(monkeypatch):
    """A response sees its neighbor's tokens instead of its own."""
    def rolled(*args):
        spans = original(*args)
        spans.grid = lambda row: Spans.grid(spans, row).roll(1, dims=0)
        return spans

    original = packed_attention.response_spans
    monkeypatch.setattr(packed_attention, 'response_spans', rolled)


def no_prefix(monkeypatch):
    """A response does not see its prompt."""
    def kernel(query, key, *args, **kwargs):
        output, log_sum = original(query, key, *args, **kwargs)
        log_sum[:, :, key.shape[2]:] = -torch.inf
        return output, log_sum

    def hidden(prompts, responses):
        seen = visible(prompts, responses)
        seen[..., :prompts.longest] = False
        return seen

    original, visible = packed_attention._KERNEL, packed_attention._visible
    monkeypatch.setattr(packed_attention, '_KERNEL', kernel)
    monkeypatch.setattr(packed_attention, '_visible', hidden)


def one_too_far(monkeypatch):
    """A response's positions are off by one."""
    original = shared_prefix.response_positions
    monkeypatch.setattr(shared_prefix, 'response_positions', lambda *args: original(*args) + 1)


def one_dimensional(monkeypatch):
    """Image tokens have positions as if they were text."""
    monkeypatch.setattr(shared_prefix, 'prompt_positions',
                        lambda model, prompt: torch.arange(len(prompt)).expand(3, -1))


def predicted_from_itself(monkeypatch):
    """A token is scored by the state that has read it."""
    original = PackedRow.__init__

    def init(self, *args):
        original(self, *args)
        self.predictors += 1

    monkeypatch.setattr(PackedRow, '__init__', init)


@pytest.mark.parametrize('fault, kind', [
    *product([leak, no_prefix], [JoinedAttention, CopiedPrompts]),
    *product([one_too_far, one_dimensional, predicted_from_itself], [JoinedAttention])])
def test_faults_are_caught(policy_config, monkeypatch, fault, kind):
    attend_by(kind, monkeypatch)
    model = make_segmentor(policy_config)
    rollout = make_rollout(model)
    fault(monkeypatch)
    assert min(errors(model, rollout)) > 1e-3


def test_a_row_by_hand():
    """Prompts of 3 and 2 tokens; responses of 2 and 1, and of 0 and 2."""
    row = PackedRow([PackedGroup(3, [2, 1]), PackedGroup(2, [0, 2])], CPU)
    #   p p p a a b q q c c
    assert row.predictors.tolist() == [2, 3, 2, 7, 8]


def test_attention_by_hand():
    """One head of size 1, keys 0: every visible value weighs the same."""
    row = PackedRow([PackedGroup(2, [2, 1])], CPU)
    value = torch.tensor([1., 3., 8., 4., 11.]).reshape(1, 1, 5, 1)
    seen = row.attend(torch.ones_like(value), torch.zeros_like(value), value, 1.0, 0)
    assert seen.shape == (1, 5, 1, 1)
    torch.testing.assert_close(seen.flatten(), torch.tensor([1., 2., 4., 4., 5.]))


def test_a_prompt_without_responses_is_plain_causal_attention():
    value = torch.tensor([1., 3., 8.]).reshape(1, 1, 3, 1)
    seen = PackedRow([PackedGroup(3, [])], CPU).attend(
        torch.ones_like(value), torch.zeros_like(value), value, 1.0, 0)
    torch.testing.assert_close(seen.flatten(), torch.tensor([1., 2., 4.]))


def test_the_prompt_is_computed_once(policy_config):
    """Tokens that the language model sees: each prompt once, each response once."""
    model = make_segmentor(policy_config)
    rollout, sizes = make_rollout(model), []
    layers = model.policy.model.model.language_model
    layers.norm.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape))
    model.loss(rollout)
    prompts = model.policy.encode_prompts(rollout.model_images,
                                          [s.question for s in rollout.data_samples])
    assert sizes == [(1, sum(map(len, prompts)) + sum(map(sum, LENGTHS)), 128)]


def test_gradients_do_not_hang_on_the_timing_of_threads(policy_config):
    """A prompt's last state predicts the first token of each of its many responses."""
    model, group, threads = make_segmentor(policy_config), 600, torch.get_num_threads()
    ids = torch.randint(20, (group, 2), generator=torch.Generator().manual_seed(0))
    rollout = make_rollout(model)
    head, prompts = model.policy, model._tokens_of(rollout)[0][:1]
    found = []
    torch.set_num_threads(4)
    try:
        for _ in range(6):
            head.zero_grad()
            head.log_probs(prompts, ids, torch.ones_like(ids).bool())[0].sum().backward()
            found.append(torch.cat([p.grad.flatten() for p in head.parameters()
                                    if p.grad is not None]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_layer_that_mixes_tokens_by_itself_is_refused(tmp_path, monkeypatch):
    """As a recurrent layer would that no entry of config.json reveals."""
    head = make_segmentor(dict(pretrained=make_policy_folder(tmp_path, 'qwen3_vl'))).policy
    layer = head.model.model.language_model.layers[1]
    monkeypatch.setattr(layer.self_attn, 'forward', lambda hidden_states, **_: (
        hidden_states.cumsum(dim=1), None))
    prompts = head.encode_prompts([torch.zeros(3, 256, 256, dtype=torch.uint8)], ['star'])
    ids = torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(NotImplementedError, match=r'TextDecoderLayer \(layer 1\) of Qwen3-VL does '
                                                  "not; set 'sdpa'"):
        head.log_probs(prompts, ids, ids.bool())
