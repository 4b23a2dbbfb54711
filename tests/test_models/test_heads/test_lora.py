# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import ast
import builtins
import copy
import re

import pytest
import torch
import transformers

from mmdpad.models import HFRollout, VLMReasoningHead
from mmdpad.models.heads.adapter_reach import adapted_layers, describe_reach, exclusion_of
from mmdpad.models.heads.lora import add_lora
from mmdpad.toy.policy_folder import make_policy_folder

QUESTIONS = ['the red circle', 'something you could roll']
TEXTS = ['a red star', 'no']


@pytest.fixture
def lora_head(policy_config) -> VLMReasoningHead:
    return VLMReasoningHead(**policy_config, lora=dict(r=4, lora_alpha=8))


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, 112, 112), dtype=torch.uint8, generator=generator)
            for _ in QUESTIONS]


def give_effect(head):
    """What training does: B starts at zero, so that the adapter has no effect. A is drawn too, so
    that the effect is one and the same in whatever order tests run."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in head.named_parameters():
            if name in head.adapter_keys:
                p.normal_(std=0.2, generator=generator)


@torch.no_grad()
def log_probs(head, images):
    prompts = head.encode_prompts(images, QUESTIONS)
    return head.log_probs(prompts, *head.encode_responses(TEXTS))[0]


def test_only_the_adapter_of_the_language_model_trains(lora_head, images):
    loss, _ = lora_head.supervised_loss(lora_head.encode_prompts(images, QUESTIONS), TEXTS)
    loss.backward()
    got = {name: p for name, p in lora_head.named_parameters() if p.grad is not None}
    assert lora_head.has_adapter and got.keys() == lora_head.adapter_keys
    # Four layers with seven linear modules, A and B each.
    assert len(got) == 4 * 7 * 2
    assert all('.language_model.' in name and '.lora_' in name for name in got)


def test_without_its_adapter_it_is_the_base_model_to_the_bit(head, lora_head, images):
    expected = log_probs(head, images)
    assert log_probs(lora_head, images).equal(expected)
    give_effect(lora_head)
    with lora_head.adapter_off():
        assert log_probs(lora_head, images).equal(expected)
    assert not log_probs(lora_head, images).equal(expected)
    assert {n for n, p in lora_head.named_parameters() if p.requires_grad} == (
        lora_head.adapter_keys)


def test_the_adapter_is_on_again_after_an_error(lora_head):
    with pytest.raises(KeyError), lora_head.adapter_off():
        raise KeyError
    assert {n for n, p in lora_head.named_parameters() if p.requires_grad} == (
        lora_head.adapter_keys)


def test_a_look_at_the_reference_between_forward_and_backward_changes_no_gradient(
        policy_config, images):
    gradients = []
    for checkpointing, look in ((False, False), (False, True), (True, True)):
        head = VLMReasoningHead(**policy_config, lora=dict(r=4),
                                gradient_checkpointing=checkpointing).train()
        for name, p in head.named_parameters():
            if name in head.adapter_keys:
                torch.nn.init.normal_(p, std=0.02, generator=torch.Generator().manual_seed(1))
        loss, _ = head.supervised_loss(head.encode_prompts(images, QUESTIONS), TEXTS)
        if look:
            with head.adapter_off():
                log_probs(head, images)
        loss.backward()
        gradients.append({n: p.grad for n, p in head.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == head.adapter_keys
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, msg=name)


def test_rollouts_go_through_the_adapter(head, lora_head, images):
    prompts = head.encode_prompts(images, QUESTIONS)

    def greedy(policy):
        return HFRollout()(policy, prompts, temperature=0, max_new_tokens=12).ids

    expected = greedy(head)
    assert greedy(lora_head).equal(expected)
    give_effect(lora_head)
    assert not greedy(lora_head).equal(expected)
    with lora_head.adapter_off():
        assert greedy(lora_head).equal(expected)


def test_adapters_over_bfloat16_weights_are_float32(policy_config, images):
    head = VLMReasoningHead(**policy_config, dtype='bfloat16', lora=dict(r=4))
    dtypes = {name in head.adapter_keys: p.dtype for name, p in head.named_parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    assert log_probs(head, images).isfinite().all()


def test_other_targets_can_be_named(policy_config):
    head = VLMReasoningHead(**policy_config, lora=dict(r=4, target_modules=['qkv']))
    assert head.adapter_keys and all('.visual.' in name for name in head.adapter_keys)


@pytest.mark.parametrize('lora, message', [
    (dict(rank=4), r"arguments of peft.LoraConfig .* but got \['rank'\]"),
    (dict(lora_dropout=0.1), r'`lora.lora_dropout` should be 0, .* but got 0.1; leave it out'),
    (dict(bias='all'), "`lora.bias` should be 'none'"),
    (dict(init_lora_weights='pissa'), "`lora.init_lora_weights` should be True or 'gaussian'"),
    (dict(target_modules=['no_such_layer']), 'no_such_layer'),
    (dict(layers_to_transform=[0]), r"`lora.target_modules` should be a list of names with "
     r"`lora.layers_to_transform`, such as .*, but got 'language'; list them"),
    (dict(target_modules='.*q_proj', layers_to_transform=0), "but got '.*q_proj'; list them"),
    (dict(trainable_token_indices=[3]), '`lora.trainable_token_indices` should be None'),
    (dict(target_modules=['lm_head'], ensure_weight_tying=True), '`lora.ensure_weight_tying`'),
    (dict(alpha_pattern={'q_prj': 2}), "`lora.alpha_pattern` .* got 'q_prj', which none matches"),
])
def test_settings_that_do_not_fit_are_refused(policy_config, lora, message):
    with pytest.raises(ValueError, match=message):
        VLMReasoningHead(**policy_config, lora=lora)


def test_without_peft_it_says_what_to_install(policy_config, monkeypatch):
    plain_import = builtins.__import__

    def no_peft(name, *args, **kwargs):
        if name.split('.')[0] == 'peft':
            raise ImportError('No module named peft')
        return plain_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', no_peft)
    with pytest.raises(ImportError, match=r'pip install "mmdpad\[lora\]"'):
        VLMReasoningHead(**policy_config, lora=dict(r=4))


@pytest.fixture(scope='module')
def mixture():
    """Qwen3-VL with experts, which are parameters of three dimensions and no linear layers."""
    config = transformers.Qwen3VLMoeConfig(
        text_config=dict(
            vocab_size=512, hidden_size=32, intermediate_size=64, moe_intermediate_size=16,
            num_experts=4, num_experts_per_tok=2, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16, rope_parameters=dict(
                rope_type='default', rope_theta=1e6, mrope_section=[2, 3, 3],
                mrope_interleaved=True)),
        vision_config=dict(depth=2, num_heads=2, hidden_size=32, intermediate_size=64,
                           out_hidden_size=32, patch_size=16, num_position_embeddings=2304,
                           deepstack_visual_indexes=[0]))
    with torch.device('meta'):
        return transformers.Qwen3VLMoeForConditionalGeneration(config)


@pytest.mark.parametrize('targets', ['language', 'language_and_vision', 'all-linear'])
def test_a_name_for_all_reaches_attention_and_reports_the_experts(mixture, targets):
    pytest.importorskip('peft')
    model = copy.deepcopy(mixture)
    add_lora(model, dict(r=4, target_modules=targets))
    text = describe_reach(model)
    assert all(f'2 {name}_proj' in text for name in 'qkvo')
    assert text.endswith('; none in mlp.experts.gate_up_proj, mlp.experts.down_proj, '
                         'mlp.gate.weight, which are not linear layers '
                         '(`lora.target_parameters` would name them)')


def test_a_name_for_all_that_misses_a_linear_layer_is_refused(mixture):
    pytest.importorskip('peft')
    model = copy.deepcopy(mixture)
    for layer in model.model.language_model.layers:
        layer.mlp.shared = torch.nn.Linear(32, 32, device='meta')
    with pytest.raises(ValueError, match=(
            r"`lora.target_modules='language'` should reach every kind of linear layer .* misses "
            r'mlp.shared; .*`language_linears`')) as error:
        add_lora(copy.deepcopy(model), dict(r=4))
    add_lora(model, dict(r=4, target_modules=offered(error)))
    assert describe_reach(model).startswith('adapter in 8 layers: 2 k_proj, 2 o_proj, 2 q_proj, ')


def test_layers_beside_experts_get_an_adapter(tmp_path, images):
    """In GLM-4.5V, the MLPs of the first layers and the shared experts have names that peft alone
    takes for those of the experts."""
    pytest.importorskip('peft')
    folder = make_policy_folder(tmp_path, 'glm4v_moe')
    head = VLMReasoningHead(folder, 'find "{question}"', lora=dict(r=2)).train()
    assert describe_reach(head.model).startswith(
        'adapter in 14 layers: 2 down_proj, 2 gate_proj, 2 k_proj, 2 o_proj, 2 q_proj, 2 up_proj, '
        '2 v_proj; none in mlp.experts.gate_up_proj, ')
    assert head.vision_is_fixed and head.model.config.model_type == 'glm4v_moe'
    head.supervised_loss(head.encode_prompts(images, QUESTIONS), TEXTS)[0].backward()
    assert {name for name, p in head.named_parameters() if p.grad is not None} == head.adapter_keys


def test_what_is_reached_is_reported(mixture):
    pytest.importorskip('peft')
    model = copy.deepcopy(mixture)
    add_lora(model, dict(r=4, target_modules=['q_proj', 'v_proj'],
                         target_parameters=['mlp.experts.gate_up_proj']))
    assert describe_reach(model).startswith(
        'adapter in 6 layers: 2 experts.gate_up_proj, 2 q_proj, 2 v_proj; none in '
        'mlp.experts.down_proj, mlp.gate.weight, ')


@pytest.mark.parametrize('settings, message', [
    # Qwen2.5-VL's, of which the experts have those of the MLP.
    (dict(target_modules=['q_proj', 'up_proj', 'gate_proj']),
     r'there is no up_proj, gate_proj \(the nearest names are .*o_proj.* and are, in '
     r'`target_parameters`, mlp.experts.gate_up_proj.*\); correct or remove them'),
    (dict(target_modules=['qproj']), r'there is no qproj \(the nearest names are q_proj'),
    (dict(target_modules=['model.layers.0.self_attn.q_proj']), 'nearest names are q_proj'),
    (dict(target_modules=['xyz']), 'there is no xyz; correct'),
    (dict(target_modules='q_proj'), r"'q_proj'` should match full names of layers, such as "
     r'model.language_model.layers.0.self_attn.q_proj, but matches none; .* list last parts'),
    (dict(target_modules=['q_proj'], target_parameters=['experts.up_proj']),
     r'`lora.target_parameters` .* no experts.up_proj .* mlp.experts.gate_up_proj'),
    (dict(exclude_modules=['self_attn.q_proj', 'o_prj']),
     r"`lora.exclude_modules=.*` should match layers .*, but o_prj matches none; correct"),
    (dict(exclude_modules='self_attn'), 'but self_attn matches none'),
])
def test_names_that_match_nothing_are_refused_with_the_nearest(mixture, settings, message):
    pytest.importorskip('peft')
    with pytest.raises(ValueError, match=message):
        add_lora(copy.deepcopy(mixture), dict(r=4, **settings))


def test_names_that_reach_elsewhere_or_nothing_are_reported(tmp_path, mixture):
    """Those of Qwen2.5-VL in a model whose MLPs have one layer for two."""
    pytest.importorskip('peft')
    head = VLMReasoningHead(make_policy_folder(tmp_path, 'glm4v'), lora=dict(
        r=2, target_modules=['q_proj', 'gate_proj']))
    assert describe_reach(head.model) == (
        'adapter in 5 layers (3 of them in the vision tower): 3 gate_proj, 2 q_proj')
    model = copy.deepcopy(mixture)
    add_lora(model, dict(r=4, target_modules=['q_proj', 'v_proj'],
                         exclude_modules=r'.*v_proj'))
    assert describe_reach(model).startswith(
        'adapter in 2 layers: 2 q_proj; no layer with one is named v_proj; none in ')


@pytest.fixture(scope='module')
def hybrid():
    """Qwen3.5: three layers with linear attention, one with full attention."""
    config = transformers.Qwen3_5Config(
        text_config=dict(
            vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, linear_key_head_dim=8,
            linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4,
            rope_parameters=dict(rope_type='default', rope_theta=1e6, mrope_section=[1, 1, 0],
                                 mrope_interleaved=True, partial_rotary_factor=0.25)),
        vision_config=dict(depth=1, num_heads=2, hidden_size=32, intermediate_size=64,
                           out_hidden_size=32, patch_size=16, num_position_embeddings=2304))
    with torch.device('meta'):
        return transformers.Qwen3_5ForConditionalGeneration(config)


@pytest.mark.parametrize('targets', [['q_proj', 'v_proj'], r'.*\.(q|v)_proj'])
def test_targets_that_leave_out_all_layers_of_a_kind_are_refused(hybrid, targets):
    """Unless other settings leave them out by name or number."""
    pytest.importorskip('peft')
    usual = dict(r=4, target_modules=targets)
    with pytest.raises(ValueError, match=(
            rf'target_modules={re.escape(repr(targets))}` should reach .*none of the 3 '
            r'linear_attention layers has .* in_proj_qkv, .*add targets, or confirm')) as error:
        add_lora(copy.deepcopy(hybrid), usual)
    offer, = re.findall(r'`exclude_modules=(.*)`$', str(error.value))
    assert ast.literal_eval(offer) == '.*[.](linear_attn)[.].*'
    model = copy.deepcopy(hybrid)
    add_lora(model, dict(usual, exclude_modules=ast.literal_eval(offer)))
    assert adapted_layers(model).keys() == {
        f'model.language_model.layers.3.self_attn.{name}_proj' for name in 'qv'}


def test_layers_of_a_kind_may_be_left_out_by_number_or_with_all(hybrid):
    pytest.importorskip('peft')
    for settings, count in ((dict(target_modules=['q_proj'], layers_to_transform=[3]), 1),
                            (dict(target_modules=['q_proj', 'out_proj']), 4),
                            (dict(target_modules=['lm_head']), 1)):
        model = copy.deepcopy(hybrid)
        add_lora(model, dict(r=4, **settings))
        assert describe_reach(model).startswith(f'adapter in {count} layers')


def test_layers_without_parts_of_their_own_are_left_out_by_number(mixture, hybrid):
    """Together with what is left out already."""
    assert exclusion_of(mixture, [0], {}) == 'model[.]language_model[.]layers[.](0)[.].*'
    assert exclusion_of(hybrid, [3], dict(exclude_modules=['qkv'])) == (
        '(.*[.])?(qkv)|.*[.](self_attn)[.].*')
    assert exclusion_of(hybrid, [3], dict(exclude_modules='x.*')) == 'x.*|.*[.](self_attn)[.].*'


def offered(error):
    """The last `target_modules` in a message, as a user would paste it."""
    return ast.literal_eval(re.findall(r'`target_modules=(.*?)`', str(error.value))[-1])
