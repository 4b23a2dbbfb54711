# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What an attention implementation does not compute right is refused before weights are read."""
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from policy_folders import change_json, read_json
from torch import nn
from transformers import (
    AutoConfig,
    Ernie4_5_VLMoeConfig,
    Ernie4_5_VLMoeForConditionalGeneration,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LogitsProcessorList,
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    Qwen3_5Config,
)
from transformers.masking_utils import eager_mask
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import eager_attention_forward

from mmdpad.models import HFRollout, VLMReasoningHead
from mmdpad.models.heads import EncodedPrompt, collate_text, replicated_prefix, shared_prefix
from mmdpad.models.heads.attention_support import check_attention, check_layers, layer_kinds
from mmdpad.models.heads.families import FAMILIES, PolicyFamily
from mmdpad.models.precision import DTYPES
from mmdpad.toy.policy_folder import make_policy_folder

QUESTIONS, TEXTS = ['the red circle', 'no'], ['a red star', 'no']


@pytest.mark.parametrize('name, error, message', [
    ('flash_attention_2', ImportError, 'needs the package flash-attn .* or use .shared_prefix'),
    ('fast', ValueError, r"`attn_implementation` should be one of \['eager', .*but got 'fast'")])
def test_an_attention_that_is_not_there_is_refused(monkeypatch, name, error, message):
    monkeypatch.setattr('mmdpad.models.heads.attention_support.is_flash_attn_2_available',
                        lambda: False)
    with pytest.raises(error, match=message):
        VLMReasoningHead('not/read', attn_implementation=name)


def eager_padding_is_finite(dtype: torch.dtype) -> bool:
    """Whether queries of padding, whose scores are -32, get finite values."""
    mask = eager_mask(1, 2, 2, attention_mask=torch.tensor([[False, True]]), dtype=dtype)
    query, key, value = (torch.full((1, 1, 2, 4), x, dtype=dtype) for x in (4, -4, 1))
    output, _ = eager_attention_forward(SimpleNamespace(num_key_value_groups=1, training=False),
                                        query, key, value, mask, scaling=0.5)
    return bool(output.isfinite().all())


@pytest.mark.parametrize('dtype', DTYPES)
def test_eager_attention_is_refused_for_the_dtypes_in_which_padding_is_nan(dtype):
    if eager_padding_is_finite(getattr(torch, dtype)):
        check_attention('eager', dtype)
    else:
        with pytest.raises(ValueError, match=f"should not be 'eager' with `dtype='{dtype}'`.*"
                                             f"set `attn_implementation='sdpa'`"):
            VLMReasoningHead('not/read', attn_implementation='eager', dtype=dtype)
    for other in ('sdpa', 'shared_prefix'):
        check_attention(other, dtype)


def test_kinds_of_layers():
    def config(**text):
        return SimpleNamespace(get_text_config=lambda: SimpleNamespace(**text))

    assert layer_kinds(config()) == ['full_attention']
    assert layer_kinds(config(layer_types=['conv', 'full_attention', 'conv'])) == [
        'conv', 'full_attention']
    assert layer_kinds(config(sliding_window=4)) == ['sliding_attention']
    assert layer_kinds(config(sliding_window=4, use_sliding_window=False)) == ['full_attention']
    qwen = Qwen3_5Config()
    assert layer_kinds(qwen) == ['full_attention', 'linear_attention']
    mine = PolicyFamily('Mine', FAMILIES['qwen3_vl'].model_class, 'pixels')
    check_layers('sdpa', qwen, mine)
    check_layers('shared_prefix', qwen, replace(mine, shared_layers=tuple(layer_kinds(qwen))))
    with pytest.raises(ValueError, match=r"Mine \(qwen3_5\) has linear_attention, .*set `attn_"
                       r"implementation='sdpa'`, with `rollout_engine=dict\(type='HFRollout'\)`"):
        check_layers('shared_prefix', qwen, mine)


@pytest.fixture(scope='module')
def windowed(tmp_path_factory):
    """A Qwen2.5-VL whose second layer sees the last 8 tokens."""
    path = tmp_path_factory.mktemp('windowed')
    make_policy_folder(path, 'qwen2_5_vl')
    text = read_json(path / 'config.json')['text_config']
    change_json(path / 'config.json', text_config=dict(
        text, use_sliding_window=True, sliding_window=8, layer_types=[
            'full_attention', 'sliding_attention']))
    assert AutoConfig.from_pretrained(path).text_config.sliding_window == 8
    return str(path)


@torch.no_grad()
def test_sdpa_and_hf_rollout_compute_a_window_right(windowed):
    """The advice of the refusal works: padding and batch change nothing."""
    with pytest.raises(ValueError, match=r'Qwen2.5-VL \(qwen2_5_vl\) has sliding_attention'):
        VLMReasoningHead(windowed)
    head = VLMReasoningHead(windowed, 'find "{question}"', attn_implementation='sdpa',
                            dtype='float64').eval()
    images = [torch.full((3, 28 * rows, 56), 90, dtype=torch.uint8) for rows in (2, 5)]
    prompts = head.encode_prompts(images, QUESTIONS)
    ids, mask = head.encode_responses(TEXTS)
    both = head.log_probs(prompts, ids, mask)[0]
    sampled = HFRollout()(head, prompts, temperature=0, max_new_tokens=6)
    for row, prompt in enumerate(prompts):
        own = ids[row, mask[row]]
        full = torch.cat([prompt.input_ids, own])[None]
        logits = head.model(
            input_ids=full, pixel_values=prompt.pixel_values, image_grid_thw=prompt.grid,
            mm_token_type_ids=nn.functional.pad(prompt.token_types, (0, len(own)))[None]
        ).logits[0, -len(own) - 1:-1]
        logits[:, head.vision_token_ids] = -torch.inf
        expected = logits.log_softmax(-1).gather(1, own[:, None])[:, 0]
        torch.testing.assert_close(both[row, :len(own)], expected, rtol=0, atol=1e-5)
        alone = HFRollout()(head, [prompt], temperature=0, max_new_tokens=6)
        assert sampled.ids[row, sampled.mask[row]].equal(alone.ids[0, alone.mask[0]])


@pytest.mark.parametrize('extra', ['sliding_window', 'softcap', 's_aux'])
def test_a_layer_with_more_than_plain_attention_is_refused(extra):
    class Layout:
        def attend(self, query, *_):
            return query

    module, states = nn.Identity(), torch.zeros(1)
    module.layer_idx = 0
    assert shared_prefix.attention(module, states, states, states, None, 1.0, Layout(),
                                   **{extra: None})[0] is states
    with pytest.raises(NotImplementedError, match=f'Identity has {extra}; set '):
        shared_prefix.attention(module, states, states, states, None, 1.0, Layout(), **{extra: 8})


@pytest.mark.parametrize('types', [None, 'types'])
@pytest.mark.parametrize('kind, config, argument', [
    (Gemma3ForConditionalGeneration, Gemma3Config(), 'token_type_ids'),
    (Gemma4ForConditionalGeneration, Gemma4Config(), 'mm_token_type_ids'),
    (Molmo2ForConditionalGeneration, Molmo2Config(), 'mm_token_type_ids')])
def test_token_types_are_not_left_out(kind, config, argument, types):
    mine = PolicyFamily('Mine', kind, 'pixels', mrope=False, token_types=types)
    for name in ('sdpa', 'shared_prefix'):
        with pytest.raises(ValueError, match=f'Mine .{config.model_type}. should be {argument!r}, '
                                             f'an argument of {kind.__name__}, but is {types!r}'):
            check_layers(name, config, mine)
    typed = replace(mine, token_types=argument, shared_layers=tuple(layer_kinds(config)))
    check_layers('sdpa', config, typed)
    with pytest.raises(ValueError, match=f'image tokens of Mine .{config.model_type}. also attend '
                                         f"to later ones; set `attn_implementation='sdpa'`"):
        check_layers('shared_prefix', config, typed)


@pytest.mark.parametrize('kind, config, settings, message', [
    (PaliGemmaForConditionalGeneration, PaliGemmaConfig(), dict(mrope=False),
     'Mine .paligemma. attends in both directions, by its token_type_ids; use another model'),
    (PaliGemmaForConditionalGeneration, PaliGemmaConfig(),
     dict(mrope=False, token_types='token_type_ids'), 'attends in both directions'),
    # Positions in three dimensions, and experts of their own for image tokens.
    (Ernie4_5_VLMoeForConditionalGeneration, Ernie4_5_VLMoeConfig(), dict(),
     "should be 'moe_mm_token_type_ids'.*other meanings are not supported"),
    (LlavaForConditionalGeneration, LlavaConfig(), dict(mrope=False, token_types='token_type_ids'),
     "which has no 'token_type_ids'; set it to None")])
def test_token_types_of_other_meanings_are_refused(kind, config, settings, message):
    for name in ('sdpa', 'shared_prefix'):
        with pytest.raises(ValueError, match=message):
            check_layers(name, config, PolicyFamily('Mine', kind, 'pixels', **settings))


class Gemma(PolicyFamily):
    """Gemma 3, whose author forgot the types of tokens where prompts are generated from."""

    def feature_inputs(self, prompts):
        features = torch.stack([prompt.vision[0] for prompt in prompts])
        return dict(mm_encoder_outputs=dict(image=SimpleNamespace(pooler_output=features)))

    def generation_inputs(self, prompts, pad_token, device):
        text = collate_text(prompts, pad_token, device)
        return dict(input_ids=text['input_ids'], attention_mask=text['attention_mask'],
                    pixel_values=torch.cat([prompt.pixel_values for prompt in prompts]))


@pytest.fixture
def gemma(monkeypatch):
    """A tiny Gemma 3 in float64 without sharing, two prompts, and inputs of their own."""
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = Gemma3ForConditionalGeneration(Gemma3Config(
            text_config=dict(sizes, vocab_size=20, num_key_value_heads=1, head_dim=8,
                             layer_types=['full_attention', 'sliding_attention']),
            vision_config=dict(sizes, image_size=28, patch_size=14), image_token_index=19,
            mm_tokens_per_image=4)).double().eval()
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        pixels = torch.randn(1, 3, 28, 28, dtype=torch.float64)
        vision = model.model.get_image_features(pixels, return_dict=True).pooler_output[0]
    family = Gemma('Gemma 3', Gemma3ForConditionalGeneration, 'pixels', mrope=False,
                   token_types='token_type_ids')
    monkeypatch.setitem(FAMILIES, 'gemma3', family)
    prompts = [EncodedPrompt(own := torch.tensor(ids), (own == 19).int(), pixels, pixels,
                             vision=(vision, ))
               for ids in ([2, 19, 19, 19, 19, 3], [2, 5, 6, 19, 19, 19, 19, 4, 7])]
    return SimpleNamespace(model=model, family=family, end_tokens=[0], pad_token=0,
                           vision_token_ids=[19], device=torch.device('cpu')), prompts


@torch.no_grad()
def test_image_tokens_attend_in_both_directions(gemma):
    """Gemma 3's hidden states without sharing, against its own pass over each sequence."""
    head, prompts = gemma
    ids = torch.tensor([[5, 6, 7], [8, 9, 0], [9, 8, 7], [3, 0, 0]])
    mask = torch.arange(3) < torch.tensor([[3], [2], [3], [1]])

    def plain(**typed):
        rows = []
        for row, own in enumerate(ids):
            prompt, own = prompts[row // 2], own[mask[row]]
            if typed:
                typed = dict(token_type_ids=nn.functional.pad(prompt.token_types,
                                                              (0, len(own)))[None])
            rows.append(head.model.model(
                torch.cat([prompt.input_ids, own])[None], **typed,
                **head.family.feature_inputs([prompt])).last_hidden_state[0, -len(own) - 1:-1])
        return torch.cat(rows)

    found = replicated_prefix.response_states(head.model, prompts, ids, mask)
    torch.testing.assert_close(found, plain(token_type_ids=True), rtol=0, atol=1e-5)
    assert (found - plain()).abs().max() > 0.01  # causal


@torch.no_grad()
def test_rollouts_pass_the_types_of_tokens_on(gemma):
    """The tokens of `generate` for each prompt alone."""
    head, prompts = gemma

    def plain(prompt, **typed):
        ids = prompt.input_ids[None]
        return head.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=prompt.pixel_values,
            **typed, do_sample=False, max_new_tokens=8, eos_token_id=0, pad_token_id=0,
            suppress_tokens=[19])[0, ids.shape[1]:].tolist()

    found, _ = HFRollout().generate(head, prompts, 1, 8, None, LogitsProcessorList())
    expected = [plain(prompt, token_type_ids=prompt.token_types[None]) for prompt in prompts]
    assert [row[:len(own)].tolist() for row, own in zip(found, expected, strict=True)] == expected
    assert expected != [plain(prompt) for prompt in prompts]  # causal
