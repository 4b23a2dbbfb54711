# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The sizes of a policy that the estimates need, with its weights counted by purpose."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig

from mmdpad.models.folder_files import CONFIG, adapter_problems
from mmdpad.models.heads.families import FAMILIES, family_of, find_family
from mmdpad.models.sources import find_folder, how_to_get

from .fake_policy import ImageInputs, build_on_meta
from .measured import Measurements


@dataclass(frozen=True)
class TextShape:
    """Sizes of the language model; of all its layers together, where nothing else is said.

    Attributes:
        hidden: D, width of a token's state.
        layers: Number of layers.
        vocabulary: V, number of tokens that the output head scores.
        linear: Weights of the linear maps.
        matrices: Weights of all matrices, experts and routers included.
        largest: Weights of the largest linear map.
        multiplied: Multiply-adds per token: each uses some of the experts.
        attended: Width of all queries.
        cached: Numbers in the cache of keys and values per token.
        state: Numbers in the states of recurrent layers per sequence.
    """

    hidden: int
    layers: int
    vocabulary: int
    linear: int
    matrices: int
    largest: int
    multiplied: int
    attended: int
    cached: int
    state: int


@dataclass(frozen=True)
class PolicyShape:
    """Sizes of a vision-language model.

    Attributes:
        text: The language model.
        blocks: Number of blocks in the vision tower.
        parameters, vision_parameters, block_parameters: Weights of the model, of its vision tower,
            and of that one's blocks; tied ones count once.
        castable, vision_castable: Weights and biases of linear maps, which autocast turns into
            bfloat16, in the model and in its vision tower.
        tied: Whether the output head is the embedding.
        config: The config of transformers, without a quantization.
        lora: The arguments of its adapter, see :class:`mmdpad.models.VLMReasoningHead`.
        measurements: What its passes hold and compute.
    """

    text: TextShape
    blocks: int
    parameters: int
    vision_parameters: int
    block_parameters: int
    castable: int
    vision_castable: int
    tied: bool
    config: Any = field(compare=False, repr=False)
    lora: dict[str, Any] = field(compare=False)
    measurements: Measurements = field(compare=False, repr=False)

    @classmethod
    def of(cls, config: Any, lora: Mapping[str, Any] | None = None) -> PolicyShape:
        """Read the shape of a policy from its config of transformers.

        Args:
            config: The config; how weights are quantized does not matter.
            lora: The arguments of its adapter, or of one that it may get.

        Raises:
            ValueError: The adapter cannot be built, or it would be in the vision tower or in an
                embedding.
            ImportError: peft, which builds it, is not installed.
        """
        given = config.to_dict()
        given['quantization_config'] = None
        given.pop('_name_or_path', None)
        kind: Any = type(config)
        return _read_shape(kind, json.dumps(given, sort_keys=True, default=str),
                           json.dumps(lora or {}, sort_keys=True, default=list))

    def adapter_weights(self, rank: int) -> int:
        """Number of weights of its adapter, with another rank.

        Raises:
            ValueError, ImportError: See :meth:`of`.
        """
        return self.measurements.adapter(rank).weights

    @property
    def feature_levels(self) -> int:
        """How many features of width D an image token has: one for the language model's input, and
        of Qwen3-VL one for each of some of its layers."""
        vision = self.config.vision_config
        return 1 + len(getattr(vision, 'deepstack_visual_indexes', None) or ())

    def image(self, height: int, width: int) -> ImageInputs:
        """What the vision tower gets of an image of about this size in pixels."""
        family = FAMILIES[self.config.model_type]
        return ImageInputs.of(family.blank_prompt(self.config, height, width))


@lru_cache(maxsize=8)
def _read_shape(kind: Any, config_json: str, lora_json: str) -> PolicyShape:
    """What :meth:`PolicyShape.of` returns; with it, measurements are kept."""
    config, lora = kind.from_dict(json.loads(config_json)), json.loads(lora_json)
    model = build_on_meta(config)
    family = family_of(model)
    language = family.language(model)
    vision = nn.ModuleList(family.vision_modules(model).values())
    head = model.get_output_embeddings()
    blocks, measurements = family.blocks(model), Measurements(config, lora)
    counts = measurements.counts()
    text = TextShape(
        hidden=language.config.hidden_size, layers=len(language.layers),
        vocabulary=head.out_features, linear=_linear(language.layers),
        matrices=sum(p.numel() for p in language.layers.parameters() if p.ndim > 1),
        largest=max(m.weight.numel() for m in language.layers.modules()
                    if isinstance(m, nn.Linear)),
        **{name: sum(getattr(layer, name) for layer in counts)
           for name in ('multiplied', 'attended', 'cached', 'state')})
    shape = PolicyShape(
        text, len(blocks), _count(model), _count(vision), _count(blocks),
        _linear(model, biases=True), _linear(vision, biases=True),
        head.weight is model.get_input_embeddings().weight, config, lora, measurements)
    if lora:
        shape.adapter_weights(lora.get('r', 8))
    return shape


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _linear(module: nn.Module, biases: bool = False) -> int:
    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Conv3d)]
    weights = sum(m.weight.numel() for m in layers)
    return weights + sum(m.bias.numel() for m in layers if m.bias is not None) * biases


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
    if kind in ('glm4v', 'glm4v_moe'):
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
    # Its tower as transformers has it by default.
    'GLM-4.5V': ('glm4v_moe', 4096, 10944, 46, 96, 8, False, _TOWER_GLM,
                 dict(head_dim=128, moe_intermediate_size=1408, n_routed_experts=128,
                      num_experts_per_tok=8, n_shared_experts=1, first_k_dense_replace=1,
                      rope_parameters=dict(rope_type='default', rope_theta=1e4,
                                           mrope_section=[8, 12, 12],
                                           partial_rotary_factor=0.5))),
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
