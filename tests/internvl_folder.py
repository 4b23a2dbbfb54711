# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A tiny random InternVL in transformers' own format, a family that is not built in."""
import torch
from policy_folders import change_json
from transformers import (
    AutoTokenizer,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
)

from mmdpad.toy.policy_folder import _CHAT, _POLICY_WEIGHTS
from mmdpad.toy.seeding import seeded

_TOKENS = dict(start_image_token='<img>', end_image_token='</img>',
               context_image_token='<IMG_CONTEXT>', video_token='<video>')
TILE = 56
_SIZE = dict(height=TILE, width=TILE)


def make_internvl_folder(folder):
    """Write it, with tiles of 56 pixels (published: 448) that take 4 tokens each."""
    tokenizer = AutoTokenizer.from_pretrained(_POLICY_WEIGHTS)
    tokenizer.add_special_tokens(dict(extra_special_tokens=list(_TOKENS.values())))
    tokenizer.save_pretrained(folder)
    change_json(folder / 'tokenizer_config.json', extra_special_tokens=_TOKENS,
                processor_class='InternVLProcessor')
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = _CHAT.format(system='', opening='').replace(
        '<|vision_start|><|image_pad|><|vision_end|>', '<IMG_CONTEXT>\n')
    InternVLProcessor(
        GotOcr2ImageProcessor(size=_SIZE, min_patches=1, max_patches=12), tokenizer,
        InternVLVideoProcessor(size=_SIZE), image_seq_length=4,
        chat_template=chat).save_pretrained(folder)
    end, pad = tokenizer.convert_tokens_to_ids(['<|im_end|>', '<|endoftext|>'])
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    config = InternVLConfig(
        text_config=dict(sizes, model_type='qwen3', vocab_size=len(tokenizer), head_dim=16,
                         num_key_value_heads=1, tie_word_embeddings=True, eos_token_id=end,
                         pad_token_id=pad, bos_token_id=pad),
        vision_config=dict(sizes, image_size=TILE, patch_size=14),
        image_token_id=tokenizer.context_image_token_id)
    with seeded(0):
        model = InternVLForConditionalGeneration(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    model.generation_config.update(pad_token_id=pad, eos_token_id=[end, pad])
    model.save_pretrained(folder)
    return str(folder)
