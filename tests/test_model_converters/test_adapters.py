# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Every kind of adapter gives one and the same policy: in training, in both engines, merged,
exported to peft and imported again; and adapters of other programs are read or refused."""
import contextlib
import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from mmdpad.engine.config_nodes import Node
from mmdpad.engine.trial.check_weights import check_weights
from mmdpad.models import HFRollout, SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.heads.lora import SCALING
from mmdpad.models.heads.named_weights import named_weights
from mmdpad.models.heads.prompt_encoder import collate_text
from mmdpad.models.hf_folder import export_policy, import_policy
from mmdpad.registry import MODELS
from mmdpad.testing.policy_folder import make_policy_folder

peft = pytest.importorskip('peft')

QUESTIONS = ['the red circle', 'something you could roll']
TARGETS = dict(
    language=dict(),
    attention=dict(target_modules=['q_proj', 'k_proj', 'v_proj', 'o_proj']),
    mlp=dict(target_modules=['gate_proj', 'up_proj', 'down_proj', 'mlp.fc1']),
    all_linear=dict(target_modules='all-linear'),
    embedding=dict(target_modules=['embed_tokens']),
    head=dict(target_modules=['lm_head']),
    both_ends=dict(target_modules=['embed_tokens', 'lm_head']),
    ends_and_layers=dict(target_modules=['embed_tokens', 'lm_head', 'q_proj', 'down_proj']),
    vision=dict(target_modules=r'.*visual\.blocks.*\.(qkv|fc1|linear_fc1|up_proj)'),
    patches=dict(target_modules=['patch_embed.proj']),
    merger=dict(target_modules=r'.*visual\.merger.*(mlp\.\d|linear_fc\d)'),
    language_and_vision=dict(target_modules='language_and_vision'),
    pattern=dict(target_modules=r'model\.language_model\.layers\.1\..*(q|up)_proj'),
    one_layer=dict(target_modules=['q_proj', 'v_proj'], layers_to_transform=[1],
                   layers_pattern='layers'),
    scaled=dict(target_modules=['q_proj', 'v_proj', 'lm_head'], use_rslora=True,
                rank_pattern={'v_proj': 2}, alpha_pattern={'lm_head': 3}),
    dora=dict(target_modules=['q_proj', 'embed_tokens', 'lm_head'], use_dora=True),
    biased=dict(target_modules=['q_proj', 'k_proj'], lora_bias=True),
    parameters=dict(target_modules=['q_proj'], target_parameters=['up_proj.weight']))
FAST = [('embedding', False), ('both_ends', True), ('one_layer', True), ('biased', False)]


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """(family, tied) -> a folder."""
    made = {}

    def make(family, tied):
        if (family, tied) not in made:
            path = tmp_path_factory.mktemp(f'{family}_{tied}')
            made[family, tied] = make_policy_folder(path, family)
            if not tied:
                untie(path)
        return made[family, tied]
    return make


def untie(path):
    """The head a little off the embedding, as a whole training of both leaves it."""
    model = AutoModelForImageTextToText.from_pretrained(path)
    generator = torch.Generator().manual_seed(1)
    weight = model.lm_head.weight.detach()
    model.lm_head.weight = torch.nn.Parameter(
        weight + torch.empty_like(weight).normal_(std=0.05, generator=generator))
    for config in (model.config, model.config.text_config):
        config.tie_word_embeddings = False
    model.save_pretrained(path)


def give_effect(head):
    generator = torch.Generator().manual_seed(0)
    for name, parameter in head.named_parameters():
        if name in head.adapter_keys:
            noise = torch.randn(parameter.shape, generator=generator)
            # The magnitudes of DoRA are those of the weights.
            parameter.data = (parameter.data * (1 + 0.2 * noise) if 'magnitude' in name else
                              0.3 * noise)


def save(head, path):
    keys = head.adapter_keys | {SCALING}
    torch.save(dict(state_dict={f'policy.{name}': value.clone() for name, value in
                                head.state_dict().items() if name in keys}), path)
    return str(path)


def encode(head):
    generator = torch.Generator().manual_seed(0)
    return head.encode_prompts([torch.randint(0, 256, (3, *size), dtype=torch.uint8,
                                              generator=generator)
                                for size in ((128, 128), (128, 192))],
                               QUESTIONS) if head.family.name == 'Qwen3-VL' else (
        head.encode_prompts([torch.randint(0, 256, (3, 112, 112), dtype=torch.uint8,
                                           generator=generator) for _ in QUESTIONS], QUESTIONS))


@torch.no_grad()
def log_probs(head, ids):
    return head.log_probs(encode(head), ids, torch.ones_like(ids).bool())[0]


@torch.no_grad()
def plain_log_probs(model, head, ids):
    """Those of a model of transformers by its own forward pass, one prompt at a time."""
    rows = []
    for prompt, own in zip(encode(head), ids, strict=True):
        batch = collate_text([prompt], 0, own.device)
        length = len(prompt)
        batch['input_ids'] = torch.cat([batch['input_ids'], own[None]], dim=1)
        batch['attention_mask'] = torch.ones_like(batch['input_ids'])
        batch['mm_token_type_ids'] = torch.nn.functional.pad(batch['mm_token_type_ids'],
                                                             (0, len(own)))
        logits = model.eval()(**batch, pixel_values=prompt.pixel_values).logits[0, length - 1:-1]
        logits[:, head.vision_token_ids] = -torch.inf
        rows.append(logits.log_softmax(dim=-1).gather(1, own[:, None])[:, 0])
    return torch.stack(rows)


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def check_everywhere(folder, lora, tmp_path):
    lora = dict(r=4, lora_alpha=8, **lora)
    policy = dict(pretrained=folder, lora=lora)
    head = VLMReasoningHead(**policy)
    entry = dict(policy, type='VLMReasoningHead')
    assert list(check_weights(Node('model.policy', entry, MODELS))) == []
    with torch.no_grad():
        before = SharedPrefixRollout(records_log_probs=True)(head, encode(head), max_new_tokens=5)
    give_effect(head)

    # The engines.
    options = dict(max_new_tokens=5, seed=3)
    sampled = SharedPrefixRollout(records_log_probs=True)(head, encode(head), **options)
    ids = sampled.ids
    assert ids.equal(HFRollout()(head, encode(head), **options).ids)
    expected = log_probs(head, ids)
    mask = sampled.mask
    assert_close(sampled.logp[mask], expected[mask])
    with head.adapter_off():
        off = log_probs(head, before.ids)
        assert not log_probs(head, ids).allclose(expected, atol=1e-2)
    assert_close(before.logp[before.mask], off[before.mask])

    # To peft, and back.
    checkpoint = save(head, tmp_path / 'made.pth')
    exported = tmp_path / 'exported'
    exported.mkdir()
    export_policy(checkpoint, policy, exported)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'Found missing adapter keys')
        theirs = peft.PeftModel.from_pretrained(
            AutoModelForImageTextToText.from_pretrained(folder), exported)
    assert_close(plain_log_probs(theirs, head, ids), expected)
    state, settings = import_policy(str(exported))
    made = torch.load(checkpoint)['state_dict']
    assert state.keys() == made.keys()
    assert all(value.equal(made[name]) for name, value in state.items())
    again = eval(f'dict({settings})')
    other = VLMReasoningHead(**again)
    other.load_state_dict({name.removeprefix('policy.'): value for name, value in state.items()},
                          strict=False)
    assert_close(log_probs(other, ids), expected)

    # What peft writes itself, with the weight under an adapter of an end.
    theirs.save_pretrained(tmp_path / 'theirs')
    state, _ = import_policy(str(tmp_path / 'theirs'))
    assert state.keys() == made.keys()
    assert all(value.equal(made[name]) for name, value in state.items())

    # Merged.
    merged = tmp_path / 'merged'
    merged.mkdir()
    export_policy(checkpoint, policy, merged, merge_lora=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model = AutoModelForImageTextToText.from_pretrained(merged)
    assert_close(plain_log_probs(model, head, ids), expected)
    assert_close(log_probs(VLMReasoningHead(str(merged)), ids), expected)
    assert list(check_weights(Node('model.policy', dict(
        type='VLMReasoningHead', pretrained=str(merged)), MODELS))) == []
    state, _ = import_policy(str(merged))
    assert_close(log_probs_of(state, str(merged), ids), expected)

    # Handed over to another engine.
    with contextlib.suppress(ValueError):
        weights = dict(named_weights(head.model))
        model = AutoModelForImageTextToText.from_pretrained(folder)
        model.load_state_dict(weights, strict=False)
        assert_close(plain_log_probs(model, head, ids), expected)


def log_probs_of(state, folder, ids):
    head = VLMReasoningHead(folder)
    head.load_state_dict({name.removeprefix('policy.'): value for name, value in state.items()})
    return log_probs(head, ids)


@pytest.mark.parametrize('name, tied', FAST)
def test_an_adapter_is_the_same_policy_everywhere(folders, name, tied, tmp_path):
    check_everywhere(folders('qwen2_5_vl', tied), TARGETS[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('family', ['qwen2_vl', 'qwen2_5_vl', 'qwen3_vl'])
@pytest.mark.parametrize('tied', [True, False])
@pytest.mark.parametrize('name', TARGETS)
def test_each_adapter_is_the_same_policy_everywhere(folders, family, tied, name, tmp_path):
    check_everywhere(folders(family, tied), TARGETS[name], tmp_path)
