# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Rollouts of policies with recurrent layers, against transformers' `generate`."""
import pytest
import torch
from mostly_slow import mostly_slow

from mmdpad.models import HFRollout, SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.heads.recurrent_layers import RecurrentState
from mmdpad.models.rollouts import hf_rollout
from mmdpad.models.rollouts.recurrent_states import RecurrentStates
from mmdpad.toy.policy_folder import make_policy_folder

QUESTIONS = ['the red circle', 'something you could roll', 'x', 'what is left of the star']
SAMPLED = dict(group_size=2, max_new_tokens=45, seed=2)
ENTERING = dict(max_samples=4)


@pytest.fixture(scope='module', params=['qwen3_5', 'lfm2_vl'])
def recurrent(request, tmp_path_factory):
    """A policy in float64, and twelve prompts of four lengths."""
    folder = make_policy_folder(tmp_path_factory.mktemp('recurrent'), request.param)
    head = VLMReasoningHead(folder, 'find "{question}"', dtype='float64').eval()
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (3, 32 * rows, 288), dtype=torch.uint8, generator=generator)
              for rows in (8, 10, 8, 9)]
    return head, 3 * head.encode_prompts(images, QUESTIONS)


@pytest.fixture(scope='module')
def expected(recurrent):
    """Responses by `generate`, some of which end early."""
    if not hf_rollout._DECODES_DELTA_NET:
        pytest.skip('this transformers cannot')
    responses = HFRollout()(*recurrent, **SAMPLED)
    assert (~responses.truncated).sum() >= 4
    return responses


@pytest.mark.parametrize('options', [
    dict(), ENTERING, dict(prefill_tokens=300)], ids=['leaving', 'entering', 'several prefills'])
def test_the_tokens_are_those_of_generate(recurrent, expected, options):
    found = SharedPrefixRollout(**options)(*recurrent, **SAMPLED)
    assert found.ids.equal(expected.ids) and found.mask.equal(expected.mask)


def test_the_recorded_log_probs_are_those_of_the_update(recurrent, expected):
    head, prompts = recurrent
    found = SharedPrefixRollout(records_log_probs=True, **ENTERING)(head, prompts, **SAMPLED)
    with torch.no_grad():
        logp, _ = head.log_probs(prompts, found.ids, found.mask)
    # Gated DeltaNet computes in float32.
    torch.testing.assert_close(found.logp, logp.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize('fault', mostly_slow(
    ['keep', 'replace', 'start_samples'], fast=['replace']))
def test_faults_are_caught(recurrent, expected, monkeypatch, fault):
    """Samples get the states of others when some leave or enter, or none of their prompt's."""
    if (recurrent[0].family.name, fault) == ('LFM2-VL', 'start_samples'):
        pytest.skip('its state is the last two tokens, which all prompts have in common')
    original = getattr(RecurrentStates, fault)

    def wrong(self, *args):
        original(self, *args)
        self._layers = {layer: RecurrentState(*(x.roll(1, dims=0) for x in state.tensors()))
                        for layer, state in self._layers.items()}

    monkeypatch.setattr(RecurrentStates, fault, wrong)
    found = SharedPrefixRollout(**ENTERING)(*recurrent, **SAMPLED)
    assert not found.ids.equal(expected.ids)


def test_generate_of_an_old_transformers_is_refused(recurrent, monkeypatch):
    if recurrent[0].family.name != 'Qwen3.5':
        pytest.skip('has no gated DeltaNet')
    monkeypatch.setattr(hf_rollout, '_DECODES_DELTA_NET', False)
    with pytest.raises(ImportError, match=r'needs transformers 5\.22 or later for Qwen3\.5, '):
        HFRollout()(*recurrent, **SAMPLED)


def test_nothing_is_guessed_and_the_log_says_so_once(recurrent, monkeypatch):
    lines = []
    monkeypatch.setattr('mmdpad.models.rollouts.decoding.print_log',
                        lambda text, **kwargs: lines.append(text))
    engine, passes = SharedPrefixRollout(pass_cost=1e3), []
    feed = engine.decoding.__class__.__call__
    monkeypatch.setattr(engine.decoding.__class__, '__call__', lambda self, cache, feed_, *args: (
        passes.append(feed_.width), feed(self, cache, feed_, *args))[1])
    for _ in range(2):
        engine(*recurrent, **dict(SAMPLED, max_new_tokens=5))
    assert {*passes} == {1}
    assert sum('guesses no tokens' in line for line in lines) == 1


def test_states_by_hand():
    """Two prompts, two samples each; one leaves, and those of another prompt enter."""
    def state(*values):
        column = torch.tensor(values, dtype=torch.float32)
        return RecurrentState(column.view(-1, 1, 1), column.view(-1, 1, 1, 1))

    def values(states):
        conv, recurrent = states._layers[0].tensors()
        assert conv.flatten().equal(recurrent.flatten())
        return conv.flatten().tolist()

    states, new = RecurrentStates(), RecurrentStates()
    states.put_prompts(0, state(1.))
    states.put_prompts(0, state(2.))
    states.start_samples(2)
    assert values(states) == [1, 1, 2, 2]
    states.keep(torch.tensor([1, 2, 3]))
    new.put_prompts(0, state(5.))
    states.replace([0, 3], new, 2, 4)
    assert values(states) == [5, 2, 2, 5]

    def mixer(tokens, cache):
        cache.conv, cache.recurrent = (x + 1 for x in cache.tensors())
        return tokens + cache.conv

    tokens = torch.zeros(2, 1, 1)
    assert states.run(mixer, tokens, 0, torch.tensor([1, 3])).flatten().tolist() == [3, 6]
    assert values(states) == [5, 3, 2, 6]
    assert states.run(mixer, torch.zeros(4, 1, 1), 0, None).flatten().tolist() == [6, 4, 3, 7]
