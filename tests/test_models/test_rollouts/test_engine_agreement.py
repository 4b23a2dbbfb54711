# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch
from torch.nn.functional import embedding

from mmdpad.models import SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.rollouts import agreement, decoding, shared_prefix_rollout

OPTIONS = dict(group_size=2, max_new_tokens=6)


def build(policy_config, targets, **more):
    pytest.importorskip('peft')
    return VLMReasoningHead(**policy_config, lora=dict(r=4, target_modules=targets), **more)


def encode(head):
    """Prompts of their own: a head whose vision tower is fixed leaves in them what it saw."""
    return head.encode_prompts([torch.full((3, 112, 112), value, dtype=torch.uint8)
                                for value in (9, 90, 200)], ['a', 'b', 'c'])


@pytest.fixture
def past_the_adapter(monkeypatch):
    """A decoding step as one that reads the weight in place of calling the module."""
    monkeypatch.setattr(decoding, '_embed', lambda language, tokens: embedding(
        tokens, language.embed_tokens.weight))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_an_engine_past_a_fresh_adapter_is_refused_at_the_first_call(
        policy_config, past_the_adapter, dtype):
    head = build(policy_config, ['embed_tokens'], dtype=dtype)
    with pytest.raises(RuntimeError, match=r'with the adapter in model.language_model.embed_tokens '
                                           r'its log-probabilities are off by \d.* nats'):
        SharedPrefixRollout()(head, encode(head), **OPTIONS)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_sound_engine_continues_and_everything_stays_as_it_was(policy_config, dtype, monkeypatch):
    head = build(policy_config, ['embed_tokens', 'lm_head', 'merger.mlp.0'], dtype=dtype).train()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    random = torch.get_rng_state()
    engine, calls = SharedPrefixRollout(), []
    monkeypatch.setattr(shared_prefix_rollout, 'check_agreement',
                        lambda *args: calls.append(agreement.check_agreement(*args)))
    for _ in range(2):
        responses = engine(head, encode(head), **OPTIONS)
    assert len(calls) == 1 and responses.ids.shape[0] == 6 and head.training
    assert torch.get_rng_state().equal(random)
    after = head.state_dict()
    assert all(value.equal(after[name]) for name, value in before.items())


def test_which_layers_are_beyond(policy_config, head):
    pytest.importorskip('peft')
    assert agreement.layers_beyond(head) == []
    assert agreement.layers_beyond(build(policy_config, 'language')) == []
    found = agreement.layers_beyond(build(policy_config, ['q_proj', 'lm_head', 'qkv']))
    assert found[-1] == 'lm_head' and all('visual.blocks' in name for name in found[:-1])
