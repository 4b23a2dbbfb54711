# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What folders of LFM2-VL and LFM2.5-VL hold, for :mod:`.policy_folder`.

The numbers of the special tokens are not the published ones: they follow another vocabulary.
"""

from __future__ import annotations

from typing import Any

from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

_START, _PAD = '<|startoftext|>', '<|pad|>'
_TILES = [f'<|img_row_{row}_col_{column}|>' for row in range(1, 11) for column in range(1, 11)]
_IMAGE = ['<image>', *_TILES, '<|img_thumbnail|>', '<|image_start|>', '<|image_end|>']
_CHAT = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def lfm2_families(width: int, layers: int) -> dict[str, dict[str, Any]]:
    """The entry of LFM2-VL in :mod:`.policy_folder`, for a model of a width and number of
    layers."""
    return dict(lfm2_vl=dict(
        name='Lfm2Vl', images='Lfm2Vl', video=None, chat=_CHAT, add_tokens=_add_tokens, tied=True,
        ids=dict(image='<image>'), ends=('<|im_end|>', ), processor=dict(return_row_col_info=True),
        config=dict(projector_hidden_size=2 * width, projector_use_layernorm=False),
        vision=dict(hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
                    num_attention_heads=2, num_patches=256, patch_size=16, vision_use_head=False),
        text=dict(layer_types=['conv', 'full_attention'], block_multiple_of=8), rotary={},
        renamed=('vision_tower.', 'vision_tower.vision_model.'), generation=dict()))


def _add_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    """Add the special tokens to a tokenizer, of which one begins each text."""
    tokenizer.add_special_tokens(dict(
        bos_token=_START, pad_token=_PAD, extra_special_tokens=_IMAGE))
    tokenizer.eos_token = '<|im_end|>'
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f'{_START} $A', pair=f'{_START} $A {_START} $B',
        special_tokens=[(_START, tokenizer.bos_token_id)])
