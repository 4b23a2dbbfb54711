# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What folders of GLM-4.1V, GLM-4.5V and GLM-4.6V hold, for :mod:`.policy_folder`.

The numbers of the special tokens are not the published ones: they follow another vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

# In the order of the published ids. Tags are text: they stay when special tokens are left out.
_SPECIAL = ('[MASK] [gMASK] [sMASK] <sop> <eop> <|system|> <|user|> <|assistant|> <|observation|> '
            '<|begin_of_image|> <|end_of_image|> <|begin_of_video|> <|end_of_video|>').split()
_TAGS = {'4.1': '<|image|> <|video|> <think> </think> <answer> </answer>',
         '4.5': '/nothink <think> </think> <tool_call> </tool_call> <|image|> <|video|>'}
_BOX = ('<|begin_of_box|>', '<|end_of_box|>')
_IDS = dict(image='<|image|>', video='<|video|>', image_start='<|begin_of_image|>',
            image_end='<|end_of_image|>', video_start='<|begin_of_video|>',
            video_end='<|end_of_video|>')
_ENDS = ('<|endoftext|>', '<|user|>', '<|observation|>')

_PARTS = (
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% elif part.type == 'video' %}<|begin_of_video|><|video|><|end_of_video|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}")
_CHAT_4_1 = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n" + _PARTS + "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}")
# The policy begins a line and opens <think> itself, unless `enable_thinking` is false.
_CHAT_4_5 = (
    "[gMASK]<sop>{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% set reasoning, answer = '', m.content %}{% if '</think>' in m.content %}"
    "{% set reasoning = m.content.split('</think>')[0].split('<think>')[-1] %}"
    "{% set answer = m.content.split('</think>')[-1] %}{% endif %}"
    "<|assistant|>\n<think>{{ reasoning.strip() }}</think>\n{{ answer.strip() }}"
    "{% else %}<|{{ m.role }}|>\n" + _PARTS +
    "{% if enable_thinking is defined and not enable_thinking %}/nothink{% endif %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '\n<think></think>' }}"
    "{% endif %}{% endif %}")
_PROCESSOR = dict(patch_size=14, merge_size=2, temporal_patch_size=2,
                  size=dict(shortest_edge=112 * 112, longest_edge=28 * 28 * 15000))


def glm_families(width: int, layers: int) -> dict[str, dict[str, Any]]:
    """The entries of GLM-V in :mod:`.policy_folder`, for models of a width and number of layers."""
    # The inside of the MLP is `out_hidden_size` wide in the tower, that of the merger
    # `intermediate_size`.
    common: dict[str, Any] = dict(
        processor=_PROCESSOR, ids=_IDS, tied=False,
        vision=dict(depth=layers, num_heads=2, hidden_size=width, intermediate_size=3 * width,
                    out_hidden_size=width, patch_size=14, image_size=336, spatial_merge_size=2,
                    temporal_patch_size=2),
        rotary=dict(mrope_section=[1, 1, 2], partial_rotary_factor=0.5, rope_theta=1e4),
        generation=dict(temperature=0.8, top_p=0.6, top_k=2))
    newer = dict(common, chat=_CHAT_4_5, add_tokens=partial(_add_tokens, '4.5'), ends=_ENDS)
    # Published files state the following of attention, which transformers leaves out.
    biased, unnormed = dict(attention_bias=True), dict(use_qk_norm=False)
    return dict(
        # GLM-4.1V's generation_config.json also ends responses at the tag </answer>.
        glm4v=dict(common, name='Glm4v', images='Glm4v', text=biased, chat=_CHAT_4_1,
                   add_tokens=partial(_add_tokens, '4.1'), ends=(*_ENDS, '</answer>')),
        glm46v=dict(newer, name='Glm46V', images='Glm46V', text=biased),
        glm4v_moe=dict(newer, name='Glm4v', model='Glm4vMoe', images='Glm4v', text=dict(
            unnormed, head_dim=width // 2, moe_intermediate_size=24, n_routed_experts=8,
            num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=layers - 1)))


def _add_tokens(version: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Add the special tokens and tags of GLM-'4.1'V or GLM-'4.5'V to a tokenizer."""
    tags = _TAGS[version].split()
    tokenizer.add_special_tokens(dict(extra_special_tokens=_SPECIAL))
    tokenizer.add_tokens([AddedToken(token, special=token.startswith('<|'), normalized=False)
                          for token in [*tags, *_BOX]])
    tokenizer.eos_token = tokenizer.pad_token = '<|endoftext|>'
