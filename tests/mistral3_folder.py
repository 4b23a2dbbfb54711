# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A tiny random Mistral Small 3, a family that is not built in."""
import torch
from transformers import (
    AutoTokenizer,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
)

from mmdpad.toy import POLICY_WEIGHTS
from mmdpad.toy.seeding import seeded

_TOKENS = ['<s>', '</s>', '[INST]', '[/INST]', '[IMG]', '[IMG_BREAK]', '[IMG_END]']
_CHAT = (
    "<s>{% for message in messages %}{% if message['role'] == 'user' %}[INST]"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}[IMG]{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}[/INST]{% else %}{{ message['content'] }}</s>"
    "{% endif %}{% endfor %}")


def make_mistral3_folder(folder):
    """Write it, with the published processor's settings: image tokens of 28 pixels, and one after
    each row."""
    tokenizer = AutoTokenizer.from_pretrained(POLICY_WEIGHTS)
    tokenizer.add_special_tokens(dict(extra_special_tokens=_TOKENS))
    tokenizer.bos_token, tokenizer.eos_token = _TOKENS[:2]
    PixtralProcessor(
        PixtralImageProcessor(size=dict(longest_edge=1540), patch_size=14), tokenizer,
        patch_size=14, spatial_merge_size=2, chat_template=_CHAT).save_pretrained(folder)
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                 head_dim=16)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in dict(
        bos='<s>', eos='</s>', pad='<|endoftext|>', image='[IMG]').items()}
    ends = {f'{name}_token_id': ids[name] for name in ('bos', 'eos', 'pad')}
    config = Mistral3Config(
        text_config=dict(sizes, model_type='mistral', vocab_size=len(tokenizer),
                         num_key_value_heads=1, sliding_window=None, **ends),
        vision_config=dict(sizes, model_type='pixtral', patch_size=14, image_size=1540),
        image_token_index=ids['image'], tie_word_embeddings=False)
    with seeded(0):
        model = Mistral3ForConditionalGeneration(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    model.generation_config.update(**ends)
    model.save_pretrained(folder)
    return str(folder)
