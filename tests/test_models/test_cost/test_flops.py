# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The estimate against torch's own count of what a real step computes."""
from dataclasses import replace

import pytest
import torch
from measuring import (
    OTHERS,
    ask_for_all_of_the_image,
    segmentor,
    shape_of,
    synthetic_conversations,
    synthetic_rollout,
    tiny_policy,
    tiny_qwen3_vl_moe,
)
from mostly_slow import mostly_slow
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from mmdpad.geometry.crops import CropLimits
from mmdpad.models import HFRollout
from mmdpad.models.cost.flops import (
    ROLLOUT,
    adapter_flops,
    forward_flops,
    repeated_flops,
    rollout_flops,
    step_flops,
    text_flops,
    update_flops,
)
from mmdpad.models.cost.shapes import PolicyShape
from mmdpad.models.cost.workload import Setup, Workload
from mmdpad.models.heads import shared_prefix
from mmdpad.models.rollouts.conversations import ConversationSampler


@pytest.fixture(autouse=True)
def countable_attention(monkeypatch):
    """The attention that GPUs use, which torch can count on a CPU."""
    monkeypatch.setattr(shared_prefix, 'joins_parts', lambda device: False)


def total(passes):
    return sum(sum(parts.values()) for parts in passes.values())


def counted(call):
    """Operations of ``call``; the kernel that torch can count computes hidden pairs, too."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def hidden_pairs(shape, work):
    """Operations of a forward pass on pairs that causal attention does not need."""
    square = work.prefixes * work.prompt_tokens**2
    own = work.responses * work.length * (work.prompt_tokens + work.length)
    return 4 * shape.text.attended * (
        square + own - work.prefix_pairs - work.response_pairs)


SETUPS = {
    'full': ({}, Setup()),
    'checkpointing': (dict(gradient_checkpointing=True), Setup(checkpointing=True)),
    'frozen vision': (dict(freeze_vision=True), Setup(freeze_vision=True)),
    'lora': (dict(lora=dict(r=8, lora_alpha=8)), Setup(lora_rank=8)),
}


@pytest.mark.parametrize('name', SETUPS)
def test_a_step_costs_what_torch_counts(name, tmp_path):
    policy, setup = SETUPS[name]
    model = segmentor(tiny_policy(tmp_path, hidden=192, side=224), policy, group_size=4)
    rollout, work = synthetic_rollout(model, 224, prompts=2, group_size=4, length=30)
    setup = replace(setup, rollout='none', groups=2)
    shape = PolicyShape.of(model.policy.model.config, policy.get('lora'))
    measured = counted(lambda: model.loss(rollout)['loss'].backward())
    # Policy: forward, twice as much backward, perhaps once more; reference: forward.
    measured -= hidden_pairs(shape, work) * (4 + setup.checkpointing)
    assert total(step_flops(shape, setup, work)) == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize('policy, setup', mostly_slow(
    [({}, Setup()), SETUPS['lora']], fast=[SETUPS['lora']]), ids=['full', 'lora'])
def test_a_step_with_experts_costs_what_torch_counts(policy, setup, tmp_path):
    """Only those that a token uses; one after the other, since torch counts no grouped products."""
    model = segmentor(tiny_qwen3_vl_moe(tmp_path), policy, group_size=4)
    rollout, work = synthetic_rollout(model, 224, prompts=2, group_size=4, length=30)
    setup = replace(setup, rollout='none', groups=2)
    shape = PolicyShape.of(model.policy.model.config, policy.get('lora'))
    measured = counted(lambda: model.loss(rollout)['loss'].backward())
    measured -= hidden_pairs(shape, work) * 4
    assert total(step_flops(shape, setup, work)) == pytest.approx(measured, rel=0.05)


def test_a_forward_pass_costs_what_torch_counts(tmp_path):
    model = segmentor(tiny_policy(tmp_path, vocab=4000, layers=2), group_size=5)
    rollout, work = synthetic_rollout(model, 112, prompts=1, group_size=5, length=40)
    shape = shape_of(model)
    measured = counted(lambda: model.log_probs(rollout)) / 2  # policy and reference
    assert sum(forward_flops(shape, work).values()) == pytest.approx(
        measured - hidden_pairs(shape, work), rel=0.01)


@pytest.mark.parametrize('name', ['Qwen3-VL', 'GLM-4.1V'])
def test_a_step_of_another_family_costs_what_torch_counts(name, tmp_path):
    model = segmentor(OTHERS[name](tmp_path), group_size=4)
    rollout, work = synthetic_rollout(model, 224, prompts=1, group_size=4, length=30)
    setup, shape = Setup(rollout='none'), shape_of(model)
    measured = counted(lambda: model.loss(rollout)['loss'].backward())
    measured -= hidden_pairs(shape, work) * 4
    assert total(step_flops(shape, setup, work)) == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize('name', ['full', 'frozen vision'])
def test_a_step_of_conversations_costs_what_torch_counts(name, tmp_path):
    policy, setup = SETUPS[name]
    model = segmentor(tiny_policy(tmp_path, hidden=192), policy, group_size=4)
    rollout, work = synthetic_conversations(model, 112, prompts=2, group_size=4, length=20)
    setup, shape = replace(setup, rollout='none', groups=2), shape_of(model)
    measured = counted(lambda: model.loss(rollout)['loss'].backward())
    measured -= hidden_pairs(shape, work) * 4
    assert total(step_flops(shape, setup, work)) == pytest.approx(measured, rel=0.05)


def test_a_rollout_of_conversations_computes_turns_again(tmp_path, monkeypatch):
    """Three turns of 20 tokens."""
    model = segmentor(tiny_policy(tmp_path), group_size=2)
    rollout, work = synthetic_conversations(model, 112, 2, 2, 20, turns=3)
    head, image = model.policy, torch.zeros(3, 112, 112, dtype=torch.uint8)
    head.end_tokens = [511]
    ask_for_all_of_the_image(monkeypatch)
    sampler = ConversationSampler(HFRollout(), head, 3, 1000, CropLimits(size=(112, 112)))
    talks = []
    measured = counted(lambda: talks.extend(sampler(
        rollout.prompts, [image] * 2, [(112, 112)] * 2, group_size=2, max_new_tokens=20)[1]))
    assert [talk.ended_by for talk in talks] == ['turns'] * 4
    work = replace(work, reply_tokens=len(talks[0]) - 60)
    setup = Setup(rollout='replicated')
    passes = step_flops(shape_of(model), setup, work)
    found = {name: passes[name] for name in ROLLOUT}
    assert total(found) == pytest.approx(measured, rel=0.1)
    assert sum(found[ROLLOUT[1]].values()) > 0.3 * total(found)
    kept = step_flops(shape_of(model), replace(setup, keeps_turns=True), work)
    assert ROLLOUT[1] not in kept and kept['rollout'] == passes['rollout']


def test_turns_that_are_computed_again_by_hand(head):
    """Of six conversations: the prompt and the first turn, then also the first reply and the second
    turn. Two groups share their prompts."""
    shape = PolicyShape.of(head.model.config, dict(r=4))
    image, crop = shape.image(112, 112), shape.image(56, 112)
    work = Workload(2, 3, 65, 30, image, turns=3, reply_tokens=80, reply_images=2.0,
                    reply_image=crop)
    short, long = 10, 10 + 40 + 10
    pairs = 6 * sum(n * 65 + n * (n + 1) // 2 for n in (short, long))
    vision = [shape.measurements.image_flops(one)[0] for one in (image, crop)]
    adapter = shape.measurements.adapter(4)
    for rollout, prefixes in (('shared', 2), ('replicated', 6)):
        tokens = 2 * prefixes * 65 + 6 * (short + long)
        text = text_flops(shape, tokens, pairs + 2 * prefixes * 65 * 66 // 2)
        setup = Setup(rollout=rollout)
        found = repeated_flops(shape, setup, work)
        assert found == dict(text=text, head=0, vision=2 * prefixes * vision[0] + 6 * vision[1])
        assert repeated_flops(shape, replace(setup, lora_rank=4), work)['text'] == text + 2 * (
            adapter.per_token * tokens + 2 * adapter.per_pass)
        encoded = repeated_flops(shape, replace(setup, freeze_vision=True), work)['vision']
        assert encoded == (0 if rollout == 'shared' else found['vision'])


def test_a_rollout_computes_its_prompts_once_per_response(tmp_path):
    model = segmentor(tiny_policy(tmp_path, side=224), group_size=4)
    rollout, work = synthetic_rollout(model, 224, prompts=2, group_size=4, length=20)
    model.policy.end_tokens = [511]  # hardly ever sampled
    measured = counted(lambda: HFRollout()(
        model.policy, rollout.prompts, group_size=4, max_new_tokens=20))
    estimate = rollout_flops(shape_of(model), Setup(rollout='replicated'), work)
    assert sum(estimate.values()) == pytest.approx(measured, rel=0.1)


def test_what_is_frozen_costs_no_backward_pass(head):
    shape = PolicyShape.of(head.model.config)
    work = Workload(2, 4, 65, 30, shape.image(112, 112))
    full, frozen, lora = (step_flops(shape, setup, work) for setup in (
        Setup(), Setup(freeze_vision=True), Setup(lora_rank=4)))
    # Seen once, in the rollout.
    assert [passes['vision'] > 0 for passes in frozen.values()] == [True, False, False]
    assert full['update']['vision'] == 3 * full['rollout']['vision']
    assert full['update']['head'] == 3 * full['reference']['head']
    assert lora['update']['head'] == 2 * full['reference']['head']
    assert lora['update']['text'] < 0.8 * full['update']['text']


def test_an_adapter_of_experts_is_multiplied_out_once_per_pass(tmp_path):
    """In four layers of eight experts with matrices 192 x 128 and 128 x 96."""
    config = AutoConfig.from_pretrained(tiny_qwen3_vl_moe(tmp_path))
    shape = PolicyShape.of(config, dict(r=4, target_modules=['q_proj'], target_parameters=[
        'mlp.experts.gate_up_proj', 'mlp.experts.down_proj']))
    work = Workload(2, 4, 65, 30, shape.image(64, 64))
    once, twice = (adapter_flops(shape, Setup(lora_rank=4, groups=groups), work)
                   for groups in (2, 1))
    assert twice - once == 2 * 4 * 4 * 8 * (192 * 128 + 128 * 96)
    assert once - (twice - once) == 2 * 4 * 4 * (128 + 256) * work.tokens  # of `q_proj`


def test_logits_in_parts_are_computed_twice(head):
    shape = PolicyShape.of(head.model.config)
    work = Workload(1, 4, 65, 30, shape.image(112, 112))
    whole, parts = (update_flops(shape, Setup(max_logits=size), work)['head']
                    for size in (120 * 512, 120 * 512 - 1))
    assert parts * 3 == whole * 4


def test_every_pass_of_several_updates_is_counted(head):
    shape = PolicyShape.of(head.model.config)
    work = Workload(2, 4, 65, 30, shape.image(112, 112))
    once = step_flops(shape, Setup(), work)
    twice = step_flops(shape, Setup(updates=2, kept_log_probs=True), work)
    assert twice['update'] == {part: 2 * value for part, value in once['update'].items()}
    assert twice['old log-probs'] == once['reference'] == twice['reference']
    assert 'old log-probs' not in once
