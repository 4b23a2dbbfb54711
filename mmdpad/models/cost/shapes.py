# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The sizes of a policy that the estimates need, with its weights counted by purpose."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from mmdpad.models.folder_files import CONFIG, adapter_problems
from mmdpad.models.heads.experts import experts_of
from mmdpad.models.heads.families import family_of, find_family
from mmdpad.models.heads.policy_family import PolicyFamily
from mmdpad.models.sources import find_folder, how_to_get


@dataclass(frozen=True)
class ExpertsShape:
    """Sizes of the mixtures of experts in the language model's layers.

    Attributes:
        count: E, number of experts in a layer.
        chosen: k, number of experts for each token.
        weights: Weights of all experts, which are no linear maps of their own.
        router: Weights of all routers.
    """

    count: int
    chosen: int
    weights: int
    router: int


@dataclass(frozen=True)
class TextShape:
    """Sizes of the language model.

    Attributes:
        hidden: D, width of a token's state.
        layers: Number of layers.
        heads, kv_heads: Number of heads of the queries, and of the keys and values.
        attention: A, width of all queries; kv: K, width of all keys.
        intermediate: F, width inside the MLP, or inside one expert.
        vocabulary: V, number of tokens that the output head scores.
        linear: Weights of the layers' linear maps.
        norms_heads: Whether queries and keys are normalized (Qwen3).
        rotary: Channels of a head that are rotated.
        norms_outputs: Whether the outputs of attention and MLP are normalized (GLM-4.1V).
        fuses_gate: Whether the two maps into the MLP are one (GLM-4.1V).
        experts: Experts in place of the MLPs, if any.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    attention: int
    kv: int
    intermediate: int
    vocabulary: int
    linear: int
    norms_heads: bool
    rotary: int
    norms_outputs: bool
    fuses_gate: bool
    experts: ExpertsShape | None = None

    @property
    def matrices(self) -> int:
        """Weights of the layers' matrices, experts and routers included."""
        return self.linear + (self.experts.weights + self.experts.router if self.experts else 0)

    @property
    def multiplied(self) -> int:
        """Multiply-adds per token in the layers' matrices: each token uses some of the experts."""
        if self.experts is None:
            return self.linear
        return self.linear + self.experts.router + (
            self.experts.weights * self.experts.chosen // self.experts.count)


@dataclass(frozen=True)
class VisionShape:
    """Sizes of the vision tower.

    Attributes:
        hidden: Width of a patch's state.
        layers, heads: As in the language model.
        intermediate: Width inside the MLP.
        gated: Whether the MLP has a gate (three linear maps instead of two).
        full_blocks: Number of blocks that attend to the whole image; the others use windows.
        window: Side of a window in image tokens; 0 without windows.
        patch, merge: Side of a patch in pixels, of an image token in patches.
        mergers: Number of patch mergers (one, plus one per further level).
        merger_inside: Numbers that a merger keeps per image token, besides its input.
        norms_patches: Whether patches are normalized before the first block (GLM-V).
        linear: Weights of the patch embedding and the blocks' linear maps: multiply-adds per
            patch.
        merger_linear: Weights of the mergers' linear maps: multiply-adds per image token.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    gated: bool
    full_blocks: int
    window: int
    patch: int
    merge: int
    mergers: int
    merger_inside: int
    norms_patches: bool
    linear: int
    merger_linear: int


@dataclass(frozen=True)
class PolicyShape:
    """Sizes of a vision-language model.

    Attributes:
        text, vision: The language model and the vision tower.
        parameters, vision_parameters: Weights of the model and of its vision tower; tied ones count
            once.
        castable, vision_castable: Weights and biases of linear maps, which autocast turns into
            bfloat16, in the model and in its vision tower.
        adapter: Weights of an adapter of rank 1 in the layers that get one.
        tied: Whether the output head is the embedding.
    """

    text: TextShape
    vision: VisionShape
    parameters: int
    vision_parameters: int
    castable: int
    vision_castable: int
    adapter: int
    tied: bool

    @classmethod
    def of(cls, model: Any,
           targets: str | Sequence[str] | None = None) -> PolicyShape:
        """Read the shape of a policy's model, which may be on the meta device.

        Args:
            model: The model.
            targets: Layers that get an adapter, as in ``peft.LoraConfig``: a pattern for full
                names, or the last parts of names. None for the language model's linear layers.

        Raises:
            ValueError: The model lacks a part of Qwen-VL's, or the adapter would be in no layer, in
                the vision tower, or in an embedding.
        """
        family = family_of(model)
        targets = family.lora_targets('language') if targets is None else targets
        tower = family.tower(model)
        adapted: dict[str, Any] = {name: m for name, m in model.named_modules()
                   if isinstance(m, nn.Linear | nn.Embedding) and _is_target(name, targets)}
        wrong = sorted(name for name, m in adapted.items()
                       if name.startswith(f'{family.vision_tower}.') or isinstance(m, nn.Embedding))
        if wrong or not adapted:
            raise ValueError(f'`lora.target_modules` should match linear layers of the language '
                             f'model, and none of the vision tower, for estimates and '
                             f'`memory_budget`, but {targets!r} matches {wrong[:2] or "none"}; '
                             f'choose other layers, or leave `memory_budget` out')
        try:
            text, vision = _text_shape(model, family), _vision_shape(tower, family)
        except AttributeError as error:
            raise ValueError(f'A policy should have the parts of a Qwen-VL model for estimates and '
                             f'`memory_budget`, but {error}; leave `memory_budget` out') from error
        return cls(text, vision, _count(model), _count(tower),
                   _linear(model, biases=True), _linear(tower, biases=True),
                   sum(m.in_features + m.out_features for m in adapted.values()),
                   model.lm_head.weight is model.get_input_embeddings().weight)


def _is_target(name: str, targets: str | Sequence[str]) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f'.{target}') for target in targets)


def build_on_meta(config: Any) -> PreTrainedModel:
    """Build the model of a transformers config, without memory for its weights."""
    with torch.device('meta'):
        model = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    return model


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _linear(module: nn.Module, biases: bool = False) -> int:
    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Conv3d)]
    weights = sum(m.weight.numel() for m in layers)
    return weights + sum(m.bias.numel() for m in layers if m.bias is not None) * biases


def _text_shape(model: PreTrainedModel, family: PolicyFamily) -> TextShape:
    config, language = model.config.text_config, family.language(model)
    if others := sorted(set(getattr(config, 'layer_types', None) or ()) - {'full_attention'}):
        raise ValueError(f'Estimates and `memory_budget` should be for layers of full_attention, '
                         f'but {family.name} has {", ".join(others)}, whose activations are not '
                         f'counted; leave `memory_budget` out, and measure a step instead')
    layer, experts = language.layers[0], _experts_shape(language)
    attention = layer.self_attn
    return TextShape(
        hidden=config.hidden_size, layers=config.num_hidden_layers,
        heads=config.num_attention_heads, kv_heads=config.num_key_value_heads,
        attention=attention.q_proj.out_features, kv=attention.k_proj.out_features,
        intermediate=config.moe_intermediate_size if experts else config.intermediate_size,
        vocabulary=model.lm_head.out_features, linear=_linear(language),
        norms_heads=hasattr(attention, 'q_norm'), experts=experts,
        rotary=int(attention.head_dim
                   * config.rope_parameters.get('partial_rotary_factor', 1.0)),
        norms_outputs=hasattr(layer, 'post_mlp_layernorm'),
        fuses_gate=hasattr(layer.mlp, 'gate_up_proj'))


def _experts_shape(language: Any) -> ExpertsShape | None:
    """Read the shape of a language model's experts; None if it has none."""
    blocks = [layer.mlp for layer in language.layers if experts_of(layer.mlp)]
    if not blocks:
        return None
    if len(blocks) < len(language.layers):
        raise AttributeError(f'only {len(blocks)} of {len(language.layers)} layers have experts')
    first = blocks[0]
    return ExpertsShape(first.experts.num_experts, first.gate.top_k,
                        sum(_count(block.experts) for block in blocks),
                        sum(_count(block.gate) for block in blocks))


def _vision_shape(tower: Any, family: PolicyFamily) -> VisionShape:
    config, blocks = tower.config, tower.get_submodule(family.vision_blocks)
    mergers = [tower.merger, *getattr(tower, 'deepstack_merger_list', ())]
    downsample = getattr(tower, 'downsample', None)  # the first part of GLM-V's merger
    full = getattr(config, 'fullatt_block_indexes', None)
    # In Qwen2-VL's tower, `hidden_size` is the width of its output.
    hidden = getattr(config, 'embed_dim', config.hidden_size)
    merger_inside = 2 * hidden * config.spatial_merge_size**2  # hidden state and its activation
    if downsample is not None:
        # Four more states of the merger's width, and four inside its gated MLP.
        merger_inside = 4 * config.out_hidden_size + 4 * tower.merger.gate_proj.out_features
        mergers.append(downsample)
    return VisionShape(
        hidden=hidden, layers=config.depth, heads=config.num_heads,
        intermediate=next(m.out_features for m in blocks[0].mlp.modules()
                          if isinstance(m, nn.Linear)),
        gated=hasattr(blocks[0].mlp, 'gate_proj'),
        full_blocks=config.depth if full is None else len(set(full)),
        window=0 if full is None else
        config.window_size // config.spatial_merge_size // config.patch_size,
        patch=config.patch_size, merge=config.spatial_merge_size,
        mergers=len(mergers) - (downsample is not None), merger_inside=merger_inside,
        norms_patches=hasattr(tower, 'post_conv_layernorm'),
        linear=_linear(tower.patch_embed) + _linear(blocks),
        merger_linear=sum(map(_linear, mergers)))


def read_policy_config(pretrained: str) -> tuple[Any, str]:
    """Read a policy's transformers config, and return it with a note on its source.

    Args:
        pretrained: As in :class:`mmdpad.models.VLMReasoningHead`. The shape is read from its
            config.json, in the folder or in the hub cache. Only if there is none, the name may
            end in one of :data:`PUBLISHED`, with or without one of :data:`SUFFIXES`.

    Raises:
        FileNotFoundError: It is neither a folder with config.json nor a known name.
        ValueError: config.json cannot be read or is of an unknown family, or there is an
            adapter beside it.
    """
    folder = find_folder(pretrained)
    if folder is not None and (folder / CONFIG).is_file():
        find_family(str(folder))
        if problems := list(adapter_problems(folder)):
            raise ValueError('\n'.join(problems))
        return (AutoConfig.from_pretrained(folder, trust_remote_code=False),
                f'{folder}/{CONFIG}')
    given = Path(pretrained).name
    name = re.sub(rf'(?:{"|".join(SUFFIXES)})$', '', given)
    if name not in PUBLISHED:
        hint = how_to_get(Path(pretrained), 'download the config.json of the model there (`hf '
                          f'download NAME config.json --local-dir {pretrained}`)')
        raise FileNotFoundError(
            f'`model.policy.pretrained` should be a folder with config.json or end in one of '
            f'{", ".join(PUBLISHED)} (with {" or ".join(SUFFIXES)}, if any), whose shapes are '
            f'built in, but got {pretrained!r}; {hint}, or use one of these')
    return _published_config(name), (f'built-in shape of {name}, by its name ({pretrained} has no '
                                     f'config.json here)')


def _published_config(name: str) -> Any:
    kind, hidden, intermediate, layers, heads, kv_heads, tied, tower, *more = PUBLISHED[name]
    vocabulary = 151936
    if kind == 'glm4v':
        vocabulary = 151552
    elif kind in ('qwen2_vl', 'qwen2_5_vl') and not tied:
        vocabulary = 152064
    text: dict[str, Any] = dict(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, vocab_size=vocabulary,
        rope_parameters=dict(rope_type='default', rope_theta=1e6, mrope_section=[16, 24, 24]),
        tie_word_embeddings=tied)
    if kind == 'lfm2_vl':
        return AutoConfig.for_model(kind, text_config=text | more[0], vision_config=tower,
                                    projector_hidden_size=2048, projector_use_layernorm=False)
    if kind == 'internvl':
        del text['rope_parameters']['mrope_section']
        return AutoConfig.for_model(kind, text_config=dict(text, model_type='qwen3'),
                                    tie_word_embeddings=tied, vision_config=tower)
    # In Qwen2-VL's tower, `hidden_size` is the width of its output.
    output = 'hidden_size' if kind == 'qwen2_vl' else 'out_hidden_size'
    return AutoConfig.for_model(kind, text_config=text | (more[0] if more else {}),
                                tie_word_embeddings=tied,
                                vision_config=dict(tower, **{output: hidden}))


_TOWER_2 = dict(depth=32, embed_dim=1280, num_heads=16, mlp_ratio=4, patch_size=14,
                spatial_merge_size=2)


def _tower_2_5(intermediate: int) -> dict[str, Any]:
    return dict(depth=32, hidden_size=1280, num_heads=16, intermediate_size=intermediate,
                patch_size=14, spatial_merge_size=2, window_size=112,
                fullatt_block_indexes=[7, 15, 23, 31])


def _tower_3(depth: int, hidden: int, intermediate: int, levels: list[int]) -> dict[str, Any]:
    return dict(depth=depth, hidden_size=hidden, num_heads=16, intermediate_size=intermediate,
                patch_size=16, spatial_merge_size=2, deepstack_visual_indexes=levels)


_TOWER_3 = _tower_3(24, 1024, 4096, [5, 11, 17])
_LARGE_TOWER_3 = _tower_3(27, 1152, 4304, [8, 16, 24])
_TOWER_3_5 = dict(depth=27, hidden_size=1152, num_heads=16, intermediate_size=4304, patch_size=16,
                  spatial_merge_size=2)
_TEXT_3_5 = dict(vocab_size=248320, rope_parameters=dict(
    rope_type='default', rope_theta=1e7, mrope_section=[11, 11, 10], partial_rotary_factor=0.25))
_EXPERTS = dict(num_experts=128, num_experts_per_tok=8)
_TOWER_GLM = dict(depth=24, hidden_size=1536, num_heads=12, intermediate_size=13696, image_size=336,
                  patch_size=14, spatial_merge_size=2)
_TOWER_INTERNVL = dict(num_hidden_layers=24, hidden_size=1024, num_attention_heads=16,
                       intermediate_size=4096, attention_bias=True)
_LARGE_TOWER_INTERNVL = dict(num_hidden_layers=45, hidden_size=3200, num_attention_heads=25,
                             intermediate_size=12800, norm_type='rms_norm', use_qk_norm=True)


def _tower_lfm(layers: int, hidden: int, intermediate: int, heads: int) -> dict[str, Any]:
    return dict(num_hidden_layers=layers, hidden_size=hidden, intermediate_size=intermediate,
                num_attention_heads=heads, patch_size=16, num_patches=256, vision_use_head=False)


def _text_lfm(layers: int, attention: tuple[int, ...], **entries: Any) -> dict[str, Any]:
    kinds = ['full_attention' if i in attention else 'conv' for i in range(layers)]
    return dict(entries, layer_types=kinds,
                rope_parameters=dict(rope_type='default', rope_theta=1e6))


_LARGE_TOWER_LFM = _tower_lfm(27, 1152, 4304, 16)
_TEXT_LFM = _text_lfm(16, (2, 5, 8, 10, 12, 14), vocab_size=65536)
SUFFIXES = ('-Instruct', '-Thinking', '-Base', '-HF')
# Shapes from the models' published config.json files: `model_type`, hidden, intermediate, layers,
# heads, key and value heads, tied embeddings, vision tower, further entries of `text_config`.
PUBLISHED: dict[str, tuple] = {
    'Qwen2-VL-2B': ('qwen2_vl', 1536, 8960, 28, 12, 2, True, _TOWER_2),
    'Qwen2-VL-7B': ('qwen2_vl', 3584, 18944, 28, 28, 4, False, _TOWER_2),
    'Qwen2-VL-72B': ('qwen2_vl', 8192, 29568, 80, 64, 8, False, _TOWER_2),
    'Qwen2.5-VL-3B': ('qwen2_5_vl', 2048, 11008, 36, 16, 2, True, _tower_2_5(3420)),
    'Qwen2.5-VL-7B': ('qwen2_5_vl', 3584, 18944, 28, 28, 4, False, _tower_2_5(3420)),
    'Qwen2.5-VL-32B': ('qwen2_5_vl', 5120, 27648, 64, 40, 8, False, _tower_2_5(3456)),
    'Qwen2.5-VL-72B': ('qwen2_5_vl', 8192, 29568, 80, 64, 8, False, _tower_2_5(3456)),
    'Qwen3-VL-2B': ('qwen3_vl', 2048, 6144, 28, 16, 8, True, _TOWER_3),
    'Qwen3-VL-4B': ('qwen3_vl', 2560, 9728, 36, 32, 8, True, _TOWER_3),
    'Qwen3-VL-8B': ('qwen3_vl', 4096, 12288, 36, 32, 8, False, _LARGE_TOWER_3),
    'Qwen3.5-9B': ('qwen3_5', 4096, 12288, 32, 16, 4, False, _TOWER_3_5, _TEXT_3_5),
    'Qwen3.5-35B-A3B': ('qwen3_5_moe', 2048, 512, 40, 16, 2, False, _TOWER_3_5, _TEXT_3_5),
    'Qwen3-VL-30B-A3B': ('qwen3_vl_moe', 2048, 6144, 48, 32, 4, False, _LARGE_TOWER_3,
                         dict(_EXPERTS, head_dim=128, moe_intermediate_size=768)),
    'Qwen3-VL-235B-A22B': ('qwen3_vl_moe', 4096, 12288, 94, 64, 4, False, _LARGE_TOWER_3,
                           dict(_EXPERTS, head_dim=128, moe_intermediate_size=1536)),
    'GLM-4.1V-9B': ('glm4v', 4096, 13696, 40, 32, 2, False, _TOWER_GLM),
    'InternVL3_5-1B': ('internvl', 1024, 3072, 28, 16, 8, False, _TOWER_INTERNVL),
    'InternVL3_5-2B': ('internvl', 2048, 6144, 28, 16, 8, False, _TOWER_INTERNVL),
    'InternVL3_5-4B': ('internvl', 2560, 9728, 36, 32, 8, False, _TOWER_INTERNVL),
    'InternVL3_5-8B': ('internvl', 4096, 12288, 36, 32, 8, False, _TOWER_INTERNVL),
    'InternVL3_5-14B': ('internvl', 5120, 17408, 40, 40, 8, False, _TOWER_INTERNVL),
    'InternVL3_5-38B': ('internvl', 5120, 25600, 64, 64, 8, False, _LARGE_TOWER_INTERNVL),
    'LFM2.5-VL-450M': ('lfm2_vl', 1024, 6656, 16, 16, 8, True, _tower_lfm(12, 768, 3072, 12),
                       _TEXT_LFM),
    'LFM2.5-VL-1.6B': ('lfm2_vl', 2048, 12288, 16, 32, 8, True, _LARGE_TOWER_LFM, _TEXT_LFM),
    'LFM2.5-VL-3B': ('lfm2_vl', 2048, 10752, 30, 32, 8, True, _LARGE_TOWER_LFM,
                     _text_lfm(30, (2, 5, 9, 13, 17, 21, 24, 27), vocab_size=128000,
                               block_auto_adjust_ff_dim=False)),
}
