# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What layers keep within a memory budget, against what the tensors of real updates hold."""
import copy
import math
import pickle
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from measuring import (
    OTHERS,
    measure_update,
    segmentor,
    synthetic_conversations,
    synthetic_rollout,
    tiny_policy,
    tiny_qwen3_vl_moe,
)
from mostly_slow import mostly_slow
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from mmdpad.models import VLMReasoningHead
from mmdpad.models.cost.budget import spend, update_peak
from mmdpad.models.cost.memory import gradient_bytes, standing
from mmdpad.models.cost.shapes import PolicyShape
from mmdpad.models.cost.workload import Kept, Setup, Workload
from mmdpad.models.heads.policy_source import policy_problems
from mmdpad.models.heads.recomputation import SHARE, _shards, _workload, keep

LORA = dict(lora=dict(r=8, lora_alpha=8))
# Arguments of the policy, whether autocast is on.
CASES = {
    'full': ({}, False),
    'frozen vision': (dict(freeze_vision=True), False),
    'LoRA': (LORA, False),
    'autocast': ({}, True),
    'LoRA on bfloat16, autocast': (LORA | dict(dtype='bfloat16'), True),
    'prompts repeated': (dict(attn_implementation='sdpa'), False),
}


def case_of(name, folder):
    """A policy with memory for nothing, a rollout, whether autocast is on, and the policy's shape
    and how it is trained."""
    policy, amp = CASES.get(name, ({}, False))
    if name in OTHERS:
        pretrained, side = OTHERS[name](folder), 224
    else:
        pretrained, side = tiny_policy(folder, hidden=128, intermediate=384, layers=6, depth=4,
                                       side=112), 112
    model = segmentor(pretrained, dict(policy, memory_budget=1e-9), group_size=4)
    batch, work = synthetic_rollout(model, side, prompts=1, group_size=4, length=50)
    budget = model.policy.memory_budget
    return model, batch, amp, budget.shape, replace(
        budget.setup, entropy='grad', amp=amp, checkpointing=True, on_cpu=True), replace(
        work, shared='attn_implementation' not in policy)


@pytest.mark.parametrize('name', mostly_slow((*CASES, *OTHERS), fast=('full', 'frozen vision')))
def test_an_update_takes_what_was_planned(name, tmp_path):
    """For budgets from all recomputed to all kept, within 15 %."""
    model, batch, amp, shape, setup, work = case_of(name, tmp_path)
    known = sum(standing(shape, replace(setup, reference=True)).values())
    least = update_peak(shape, setup, work)
    most = update_peak(shape, replace(setup, checkpointing=False), work)
    assert most > 1.3 * least
    seen, budget = set(), model.policy.memory_budget
    for share in (0.0, 0.45, 0.9):
        budget.bytes = least + share * (most - least)
        measured = measure_update(model, batch, amp)
        del measured['optimizer step']
        taken = max(measured.values()) - known
        seen.add(budget.kept)
        planned = update_peak(shape, replace(setup, kept=budget.kept), work)
        assert planned <= budget.bytes
        assert planned == pytest.approx(taken, rel=0.15)
    assert len(seen) == 3


@pytest.mark.parametrize('case', ['as on a GPU', 'prompts repeated'])
def test_responses_of_other_lengths_are_padded(case, tmp_path, monkeypatch):
    """One of 150 tokens and three of 5, in attention, or in all of the pass."""
    policy, on_cpu = CASES.get(case, ({}, ))[0], case != 'as on a GPU'
    monkeypatch.setattr('mmdpad.models.heads.shared_prefix.joins_parts', lambda device: on_cpu)
    model = segmentor(tiny_policy(tmp_path, layers=6), dict(policy, memory_budget=1e3),
                      group_size=4)
    batch, _ = synthetic_rollout(model, 112, prompts=1, group_size=4, length=150)
    batch.response_mask[1:, 5:] = False
    measured = measure_update(model, batch, steps=1)
    del measured['optimizer step']
    shape, setup = model.policy.memory_budget.shape, replace(
        model.policy.memory_budget.setup, entropy='grad', on_cpu=on_cpu)
    work = _workload(batch.prompts, batch.response_mask, not policy)
    taken = max(measured.values()) - sum(standing(shape, replace(setup, state=0.0)).values())
    assert update_peak(shape, setup, work) == pytest.approx(taken, rel=0.15)


@pytest.mark.parametrize('policy', [{}, dict(freeze_vision=True)], ids=['full', 'frozen vision'])
def test_replies_count_with_their_images(policy, tmp_path):
    """Three conversations of two turns of 20 tokens, and one of a turn that has no reply."""
    model = segmentor(tiny_policy(tmp_path, layers=6), dict(policy, memory_budget=1e3),
                      group_size=4)
    batch, _ = synthetic_conversations(model, 112, prompts=1, group_size=4, length=20)
    batch.response_mask[3, 20:] = False
    batch.replies[3] = []
    reply = batch.response_ids.shape[1] - 40
    work = _workload(batch.prompts, batch.response_mask, True, batch.replies)
    assert (work.response_tokens, work.reply_tokens) == (
        math.ceil((3 * (40 + reply) + 20) / 4) - 3 * reply // 4, 3 * reply // 4)
    assert work.all_images == {work.image: 4} and work.longest == 40 + reply
    measured = measure_update(model, batch, steps=1)
    del measured['optimizer step']
    budget = model.policy.memory_budget
    shape, setup = budget.shape, replace(budget.setup, entropy='grad', on_cpu=True)
    taken = max(measured.values()) - sum(standing(shape, replace(setup, state=0.0)).values())
    assert update_peak(shape, setup, work) == pytest.approx(taken, rel=0.15)
    without = _workload(batch.prompts, batch.response_mask[:, :20], True)
    assert update_peak(shape, setup, without) < 0.7 * taken


@pytest.mark.parametrize('policy', [{}, LORA], ids=['full', 'LoRA'])
def test_no_bit_depends_on_what_is_recomputed(policy, tmp_path):
    check_bits(tiny_policy(tmp_path, layers=3, depth=2, side=64), 64, policy)


@pytest.mark.parametrize('experts', ['mmdpad', pytest.param('grouped_mm',
                                                           marks=pytest.mark.slow)])
def test_nor_with_experts(experts, tmp_path):
    check_bits(tiny_qwen3_vl_moe(tmp_path), 224, {}, [None, Kept(3, 1, 1)], experts)


PLANS = [None, Kept(), Kept(products=2), Kept(3, 0, 1), Kept(3, 2, 1), Kept(3, 3, 2)]


def check_bits(pretrained, side, policy, plans=PLANS, experts=None):
    found = []
    for kept in plans:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of the adapter
            head = segmentor(pretrained, policy, group_size=3)
        if experts:
            head.policy.model.set_experts_implementation(experts)
        batch, _ = synthetic_rollout(head, side, prompts=2, group_size=3, length=7)
        if kept is not None:
            keep(head.policy.model, kept, policy.get('lora', {}).get('r', 0))
        head.loss(batch)['loss'].backward()
        found.append({name: p.grad for name, p in head.named_parameters() if p.requires_grad})
    for other in found[1:]:
        assert all(torch.equal(other[name], value) for name, value in found[0].items())


def test_what_saves_most_for_its_bytes_is_kept_first(head):
    """A budget grows: products of the language model's layers or vision blocks, one by one, and
    the rest of the layers last; never more than fits."""
    shape = PolicyShape.of(head.model.config)
    work = Workload(2, 8, 300, 100, shape.image(256, 256))
    setup = Setup(on_cpu=True, reference=False)
    text, vision = shape.text.layers, shape.blocks
    least = update_peak(shape, replace(setup, checkpointing=True), work)
    most = update_peak(shape, setup, work)
    found = [spend(shape, setup, work, least + share / 20 * (most - least)) for share in range(21)]
    for spending in found:
        plan = replace(setup, checkpointing=True, kept=spending.kept)
        assert update_peak(shape, plan, work) == spending.peak <= spending.budget
        assert not spending.exceeds
    plans = [spending.kept for spending in found]
    assert plans[-1] == Kept(text, text, vision)
    assert spend(shape, setup, work, least - 1) == (Kept(), least, least - 1)
    assert spend(shape, setup, work, least - 1).exceeds
    for smaller, larger in pairwise(plans):
        assert larger.products + larger.vision + larger.text >= (
            smaller.products + smaller.vision + smaller.text)
    assert any(plan.products == text > plan.text for plan in plans)


def test_processes_that_share_the_weights_have_memory_for_activations(head):
    shape = PolicyShape.of(head.model.config)
    work, setup = Workload(1, 2, 20, 4, shape.image(32, 32)), Setup(on_cpu=True, checkpointing=True)
    alone, shared = (update_peak(shape, replace(setup, shards=n), work) for n in (1, 8))
    gradients = gradient_bytes(shape, setup)
    assert alone > gradients > shared > gradients / 8
    budget = update_peak(shape, replace(setup, shards=8, checkpointing=False), work)
    assert spend(shape, replace(setup, shards=8), work, budget).kept.products == shape.text.layers
    assert spend(shape, setup, work, budget).kept == Kept()


def test_shared_weights_are_recognized():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    assert _shards(model) == 1
    dist.init_process_group('fake', store=FakeStore(), rank=0, world_size=4)
    try:
        fully_shard(model[1], mesh=init_device_mesh('cpu', (4, )))
        assert _shards(model) == 4
    finally:
        dist.destroy_process_group()


def test_auto_is_what_is_free_at_the_first_update_without_adams_state(tmp_path, monkeypatch):
    free = [1e9]
    monkeypatch.setattr('mmdpad.models.heads.recomputation.free_memory', lambda device: free[0])
    model = segmentor(tiny_policy(tmp_path, layers=2, side=64), dict(memory_budget='auto'),
                      group_size=2)
    batch, _ = synthetic_rollout(model, 64, prompts=1, group_size=2, length=5)
    model.log_probs(batch)  # nothing to decide without gradients
    budget = model.policy.memory_budget
    assert budget.bytes is None
    for free[0] in (1e9, 1e3):
        model.loss(batch)['loss'].backward()
        state = 2 * sum(p.nbytes for p in model.policy.parameters())
        assert budget.bytes == SHARE * (1e9 - state) and budget.kept == Kept(2, 2, 2)
    budget.bytes, budget.has_state, free[0] = None, True, 1e9  # of a resumed run
    model.loss(batch)
    assert budget.bytes == SHARE * 1e9


def test_memory_that_cannot_be_known_is_named_before_training(policy_config, monkeypatch):
    policy = VLMReasoningHead(**policy_config, memory_budget='auto')
    policy.check_trainable()
    monkeypatch.setattr(VLMReasoningHead, 'device', torch.device('mps'))
    with pytest.raises(ValueError, match="free memory of 'mps' is unknown, but got 'auto'"):
        policy.check_trainable()


def test_an_adapter_of_the_tower_is_refused_before_weights_are_read(policy_config, monkeypatch):
    monkeypatch.delattr(VLMReasoningHead, '_load_model')
    policy = policy_config | dict(lora=dict(r=2, target_modules='language_and_vision'),
                                  memory_budget=1.0)
    message = r"`memory_budget`, but .* matches \['model.visual.blocks.0.*leave `memory_budget` out"
    with pytest.raises(ValueError, match=message):
        VLMReasoningHead(**policy)
    (problem, ) = policy_problems(policy)  # in a dry run
    assert re.search(message, problem)


def test_the_log_says_what_is_kept(tmp_path, caplog):
    from mmengine.logging import MMLogger
    logger = MMLogger.get_instance('budget')
    logger.addHandler(caplog.handler)
    pretrained = tiny_policy(tmp_path, layers=2, side=64)
    model = segmentor(pretrained, dict(memory_budget=1e-9), group_size=2)
    batch, _ = synthetic_rollout(model, 64, prompts=1, group_size=2, length=5)
    model.loss(batch)
    assert 'of 2 layers, 0 keep all activations and 0 the outputs of matrix products' in caplog.text
    assert 'more than the budget although everything is recomputed' in caplog.text


def test_the_log_says_once_that_a_later_pass_exceeds_the_budget(tmp_path, caplog):
    from mmengine.logging import MMLogger
    logger = MMLogger.get_instance('exceeded')
    logger.addHandler(caplog.handler)
    model = segmentor(tiny_policy(tmp_path, layers=2, side=64), dict(memory_budget=10.0),
                      group_size=2)
    batch, _ = synthetic_rollout(model, 64, prompts=1, group_size=2, length=5)
    budget = model.policy.memory_budget
    found = []
    for budget.bytes in (1e10, 1.0, 1e10, 1.0):
        caplog.clear()
        model.loss(batch)
        found.append([record.levelname for record in caplog.records])
    assert found == [['INFO'], ['WARNING'], [], []]


@pytest.mark.parametrize('budget', [0, -1.0, True, 'all', float('nan'), float('inf'), [8.0]])
def test_a_wrong_budget_is_named(policy_config, budget):
    with pytest.raises(ValueError, match='`memory_budget` should be a positive number of GB'):
        VLMReasoningHead(**policy_config, memory_budget=budget)


def test_a_policy_with_a_budget_can_be_copied_and_pickled(policy_config):
    """What was measured is measured anew."""
    policy = VLMReasoningHead(**policy_config, memory_budget=1.0)
    budget = policy.memory_budget
    work = Workload(1, 2, 20, 4, budget.shape.image(32, 32))
    spending = spend(budget.shape, budget.setup, work, 1e9)
    for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        own = other.memory_budget
        assert own.shape == budget.shape and own.shape.measurements is not budget.shape.measurements
        assert spend(own.shape, own.setup, work, 1e9) == spending
