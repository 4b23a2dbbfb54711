# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The towers as mmdpad runs them against transformers' own, which attend to a window at a time."""
import copy
import pickle
from itertools import product

import pytest
import torch
from mostly_slow import mostly_slow
from transformers.vision_utils import get_vision_attention_seqlens, get_vision_window_index

from mmdpad.models import VLMReasoningHead
from mmdpad.models import windows as windows_module
from mmdpad.models.heads import vision_tower, vlm_reasoning_head
from mmdpad.models.heads.vision_tower import sorted_windows
from mmdpad.toy.policy_folder import make_policy_folder

FAMILIES = ('qwen2_vl', 'qwen2_5_vl', 'qwen3_vl', 'qwen3_vl_moe', 'qwen3_5', 'glm4v', 'glm4v_moe')
TEMPLATE = 'find "{question}"'
CASES = {
    'full': dict(),
    'checkpointing': dict(gradient_checkpointing=True),
    'lora': dict(lora=dict(r=4, target_modules='language_and_vision'),
                 gradient_checkpointing=True),
}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    return {name: make_policy_folder(tmp_path_factory.mktemp(name), name) for name in FAMILIES}


@pytest.fixture
def alike(folders):
    """(family, arguments) -> a head with our tower, and one with transformers' own and the same
    weights, both trained."""
    def make(family, **options):
        heads = [VLMReasoningHead(folders[family], TEMPLATE, **options, **own).train()
                 for own in ({}, dict(attn_implementation='sdpa'))]
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for ours, theirs in zip(*[head.parameters() for head in heads], strict=True):
                ours += 2e-2 * torch.randn(ours.shape, generator=generator)
                theirs.copy_(ours)
        return heads
    return make


def encode(head, sizes):
    """Prompts with random images of (rows, columns) of image tokens."""
    generator = torch.Generator().manual_seed(1)
    images = head.processor.image_processor
    side = images.patch_size * images.merge_size
    return head.encode_prompts(
        [torch.randint(256, (3, rows * side, columns * side), generator=generator,
                       dtype=torch.uint8) for rows, columns in sizes], ['star'] * len(sizes))


# Windows of Qwen2.5-VL are 4 x 4 image tokens: none, some and all are cut at the borders.
SIZES = [(9, 10), (8, 8), (11, 9), (9, 10)]


def features_and_gradients(head, prompts):
    """Features of all images and levels, and the gradient of each trained weight of the tower."""
    head.zero_grad()
    features = torch.cat([level.flatten() for prompt in head.encode_images(prompts)
                          for level in prompt.vision])
    weights = torch.randn(len(features), generator=torch.Generator().manual_seed(2))
    (features * weights).sum().backward()
    return features.detach(), {name: p.grad for name, p in head.named_parameters()
                               if p.requires_grad and '.visual.' in name}


@pytest.mark.parametrize('family, case', mostly_slow(product(FAMILIES, CASES), fast=[
    *product(['qwen2_5_vl'], CASES), *product(FAMILIES, ['full'])]))
def test_features_and_gradients_in_float64(alike, lift, family, case):
    heads = alike(family, dtype='float64', **CASES[case])
    for head in heads:
        head.double()  # adapters are float32 by themselves
        lift(head)
    prompts = encode(heads[0], SIZES)
    (ours, gradients), (theirs, plain) = (features_and_gradients(h, prompts) for h in heads)
    assert (ours - theirs).norm() < 1e-12 * theirs.norm()
    assert gradients.keys() == plain.keys() and len(plain) > 10
    # A bias of keys shifts all scores of a query alike: only rounding is left of its gradient.
    scale = max(gradient.abs().max() for gradient in plain.values())
    for name, gradient in plain.items():
        assert (gradients[name] - gradient).abs().max() < 1e-12 * scale, name


@pytest.mark.parametrize('family', mostly_slow(FAMILIES, fast=['qwen2_5_vl', 'qwen3_5', 'glm4v']))
def test_features_in_bfloat16(alike, family):
    """As far from float32 as transformers' own tower is, which rounds in other places."""
    heads = alike(family)
    prompts = encode(heads[0], SIZES)
    exact = features_and_gradients(heads[1], prompts)[0]
    with torch.autocast('cpu', torch.bfloat16):
        ours, theirs = (((features_and_gradients(head, prompts)[0] - exact).norm() / exact.norm())
                        for head in heads)
    assert 1e-4 < ours < 1.2 * theirs < 0.1


def test_the_norm_is_that_of_transformers(alike):
    """Which computes in float32, also for a float64 model."""
    heads = alike('qwen2_5_vl')
    prompts = encode(heads[0], SIZES)
    (ours, gradients), (theirs, plain) = (features_and_gradients(h, prompts) for h in heads)
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()
    for name, gradient in plain.items():
        assert (gradients[name] - gradient).norm() < 1e-4 * gradient.norm() + 1e-6, name


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the queries of each call of SDPA."""
    shapes, original = [], torch.nn.functional.scaled_dot_product_attention

    def recorded(query, *args, **options):
        shapes.append(tuple(query.shape))
        return original(query, *args, **options)

    monkeypatch.setattr(torch.nn.functional, 'scaled_dot_product_attention', recorded)
    monkeypatch.setattr(windows_module, 'scaled_dot_product_attention', recorded)
    return shapes


@torch.no_grad()
def test_one_call_for_each_length_and_layer(folders, calls):
    """840 x 840: 7 x 7 windows of 8 x 8 patches, 14 of 8 x 4, and one of 4 x 4; the second and last
    layer has no windows."""
    head = VLMReasoningHead(folders['qwen2_5_vl'], TEMPLATE)
    prompts = encode(head, [(30, 30)])
    prompts[0].vision = None
    head.encode_images(prompts)
    assert calls == [(1, 2, 16, 16), (14, 2, 32, 16), (49, 2, 64, 16), (1, 2, 3600, 16)]
    calls.clear()
    head.encode_images(encode(head, SIZES))
    # Windows in tokens of 4 patches: (9, 10), twice: four of 4 x 4, two of 4 x 1, two of 4 x 2, one
    # of 1 x 2; (8, 8): four of 4 x 4; (11, 9): four of 4 x 4, two of 4 x 1, two of 4 x 3, one of 3.
    assert calls == [(2, 2, 8, 16), (1, 2, 12, 16), (6, 2, 16, 16), (4, 2, 32, 16),
                     (2, 2, 48, 16), (16, 2, 64, 16),
                     (1, 2, 256, 16), (2, 2, 360, 16), (1, 2, 396, 16)]


@pytest.mark.parametrize('family', ['qwen2_vl', 'qwen3_vl', 'glm4v'])
@torch.no_grad()
def test_images_of_one_size_attend_in_one_call(folders, calls, family):
    head = VLMReasoningHead(folders[family], TEMPLATE)
    head.encode_images(encode(head, [(8, 9), (9, 8), (8, 8)]))
    assert calls == 2 * [(1, 2, 256, 16), (2, 2, 288, 16)]


def test_windows_are_grouped_once_per_pass(folders, monkeypatch):
    Windows = windows_module.Windows
    made, original = [], Windows.__init__
    monkeypatch.setattr(Windows, '__init__', lambda self, *args: (
        made.append(len(args[0])), original(self, *args))[1])
    head = VLMReasoningHead(folders['qwen2_5_vl'], TEMPLATE, gradient_checkpointing=True).train()
    features_and_gradients(head, encode(head, [(8, 8), (8, 8)]))
    assert sorted(made) == [2, 8]  # images, and windows


def test_windows_of_each_image_are_sorted(folders):
    """As sets of places, they are transformers' own."""
    tower = VLMReasoningHead(folders['qwen2_5_vl'], TEMPLATE).model.model.visual
    grids = torch.tensor([[1, 18, 20], [1, 16, 16], [1, 2 * 11, 2 * 9]])
    plan = sorted_windows(tower, grids)
    index, ends = get_vision_window_index(grids, 2, tower.window_size, tower.patch_size)

    def windows(index, ends):
        return index.split((ends.diff() // 4).tolist())

    ours = windows(plan['window_index'], plan['cu_window_seqlens'])
    assert {tuple(w.tolist()) for w in ours} == {tuple(w.tolist()) for w in windows(index, ends)}
    images = get_vision_attention_seqlens(grids, tower.config)[0] // 4
    for start, stop in zip(images[:-1].tolist(), images[1:].tolist(), strict=True):
        own = [len(w) for w in ours if start <= w[0] < stop]
        assert own == sorted(own)
        assert plan['window_index'][start:stop].sort().values.equal(torch.arange(start, stop))


@torch.no_grad()
def test_windows_in_transformers_own_order(folders):
    """`generate` does not ask for ours."""
    head = VLMReasoningHead(folders['qwen2_5_vl'], TEMPLATE, dtype='float64')
    prompts = encode(head, SIZES)
    found = head.model.model.get_image_features(
        torch.cat([p.pixel_values for p in prompts]).double(),
        torch.cat([p.grid for p in prompts])).pooler_output
    for prompt, features in zip(head.encode_images(prompts), found, strict=True):
        torch.testing.assert_close(features, prompt.vision[0], rtol=1e-6, atol=1e-6)


def test_a_copy_has_its_own_weights(folders):
    tower = VLMReasoningHead(folders['qwen2_5_vl'], TEMPLATE).model.model.visual
    for twin in (copy.deepcopy(tower), pickle.loads(pickle.dumps(tower))):
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert not twin.patch_embed(torch.ones(1, 3 * 2 * 14 * 14)).any()
        assert not twin.blocks[0].norm1(torch.ones(1, 32)).any()
        assert twin.state_dict().keys() == tower.state_dict().keys()


def test_other_towers_stay_as_they_are(folders, monkeypatch):
    """With another attention, and those of families that are built from other classes."""
    eager = VLMReasoningHead(folders['qwen2_5_vl'], TEMPLATE, attn_implementation='eager')
    assert eager.model.model.visual.config._attn_implementation == 'eager'
    monkeypatch.delitem(vision_tower._FASTER, vision_tower.Qwen2_5_VLVisionAttention)
    other = VLMReasoningHead(folders['qwen2_5_vl'], TEMPLATE)
    for head in (eager, other):
        assert not any(type(module) in vision_tower._FASTER.values() for module in head.modules())


@pytest.mark.parametrize('family', ['qwen2_5_vl', 'qwen3_vl'])
def test_parts_on_a_cpu_change_nothing(folders, family, monkeypatch):
    """Without gradients; with them, or if the tower is sharded, all images are one call."""
    head, seen = VLMReasoningHead(folders[family], TEMPLATE), []
    prompts = encode(head, SIZES)
    monkeypatch.setattr(vlm_reasoning_head, 'CPU_PATCHES', 1000)
    head.model.model.visual.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    together = head.encode_images(prompts)
    with torch.no_grad():
        parts = head.encode_images(prompts)
    assert seen == [1372, 616, 756]
    for one, other in zip(together, parts, strict=True):
        torch.testing.assert_close(one.vision, other.vision)
    monkeypatch.setattr(vlm_reasoning_head, 'FSDPModule', torch.nn.Linear)
    with torch.no_grad():
        head.encode_images(encode(head, SIZES))
    assert seen[3:] == [1372]
