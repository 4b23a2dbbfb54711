# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Copies of weights for decoding: made once while nobody trains, and again after every change."""
import pytest
import torch

from mmdpad.models import SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.rollouts import decoding, packed_linear
from mmdpad.models.rollouts.kept_weights import KeptWeights
from mmdpad.toy.policy_folder import make_policy_folder

OPTIONS = dict(max_new_tokens=6, seed=3)


@pytest.fixture
def frozen(policy_config):
    return VLMReasoningHead(**policy_config).eval().requires_grad_(False)


@pytest.fixture
def made(monkeypatch):
    """Counts the times that layers are fused."""
    count, fuse = [], decoding.FusedLayers.__init__
    monkeypatch.setattr(decoding.FusedLayers, '__init__',
                        lambda self, model: (count.append(1), fuse(self, model))[1])
    return count


@pytest.fixture
def prompts(head):
    image = torch.randint(0, 256, (3, 112, 112), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(0))
    return head.encode_prompts([image], ['the red circle'])


def samples_of(head, prompts, engine):
    return engine(head, prompts, **OPTIONS)


def check(engine, head, prompts, made, count):
    """The kept copies give what new ones give."""
    found = samples_of(head, prompts, engine)
    assert len(made) == count
    expected = samples_of(head, prompts, SharedPrefixRollout(records_log_probs=True))
    made.pop()
    assert found.ids.equal(expected.ids)
    torch.testing.assert_close(found.logp, expected.logp, rtol=0, atol=1e-4)


def test_a_frozen_policy_is_copied_again_only_after_a_change(frozen, prompts, made, tmp_path):
    engine = SharedPrefixRollout(records_log_probs=True)
    samples_of(frozen, prompts, engine)
    check(engine, frozen, prompts, made, 1)
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    # A step of an optimizer, in place.
    name, parameter = next((name, p) for name, p in frozen.named_parameters() if 'down_proj' in name
                           and 'language' in name)
    parameter.requires_grad_(True)
    parameter.grad = torch.ones_like(parameter)
    for fused in (False, True):
        torch.optim.AdamW([parameter], lr=0.1, fused=fused).step()
        parameter.requires_grad_(False)
        check(engine, frozen, prompts, made, 2 + fused)
    # Other weights, other tensors, other types.
    frozen.load_state_dict(before)
    check(engine, frozen, prompts, made, 4)
    parameter.data = parameter.data * 2
    check(engine, frozen, prompts, made, 5)
    parameter.data.copy_(before[name])
    check(engine, frozen, prompts, made, 6)
    frozen.double()
    check(engine, frozen, prompts, made, 7)
    check(engine, frozen, prompts, made, 7)
    with torch.autocast('cpu', torch.bfloat16):
        check(engine, frozen.float(), prompts, made, 8)
    check(engine, frozen, prompts, made, 9)


def test_of_a_policy_that_is_trained_nothing_is_kept(policy_config, prompts, made):
    head, engine = VLMReasoningHead(**policy_config), SharedPrefixRollout(records_log_probs=True)
    for count in (1, 2):
        samples_of(head, prompts, engine)
        assert len(made) == count and engine.decoding._kept._made is None


def test_an_adapter_that_is_turned_off_is_seen(policy_config, prompts, made):
    pytest.importorskip('peft')
    head = VLMReasoningHead(**policy_config, lora=dict(r=4)).eval().requires_grad_(False)
    for name, parameter in head.named_parameters():
        if name in head.adapter_keys:
            parameter.normal_(std=0.2)
    engine = SharedPrefixRollout(records_log_probs=True)
    check(engine, head, prompts, made, 1)
    with head.adapter_off():
        check(engine, head, prompts, made, 2)
    check(engine, head, prompts, made, 3)
    next(iter(head.model.model.language_model.layers)).self_attn.q_proj.scaling['default'] = 7.
    check(engine, head, prompts, made, 4)


def test_layers_that_are_called_are_packed_once(tmp_path, monkeypatch):
    """Those of a family whose layers are not fused."""
    monkeypatch.setattr(packed_linear, 'MIN_WEIGHTS', 1)
    packed = []
    reorder = packed_linear.packed_product
    monkeypatch.setattr(packed_linear, 'packed_product',
                        lambda *arguments: (packed.append(1), reorder(*arguments))[1])
    head = VLMReasoningHead(make_policy_folder(tmp_path, 'glm4v'), 'find "{question}"')
    head.eval().requires_grad_(False)
    image = torch.zeros(3, 112, 112, dtype=torch.uint8)
    prompts, engine = head.encode_prompts([image], ['x']), SharedPrefixRollout(max_guess=0)
    samples_of(head, prompts, engine)
    packed.clear()
    first = samples_of(head, prompts, engine)
    assert not packed
    with torch.no_grad():
        head.model.lm_head.weight.mul_(-1)
    assert not samples_of(head, prompts, engine).ids.equal(first.ids) and packed


def test_a_result_is_made_for_each_key():
    kept, model, made = KeptWeights(), torch.nn.Linear(2, 2).requires_grad_(False), []
    for key, count in (('a', 1), ('a', 1), ('b', 2), (None, 3)):
        kept.get(model, lambda: made.append(1) or len(made), key)
        assert len(made) == count
