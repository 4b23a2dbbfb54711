# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The toy policy's tokenizer, processor and configuration, in their libraries' formats."""
from __future__ import annotations

import re

from common import task_words, world_words, zoom_words
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from mmdpad.prompts import format_detections, format_question_answer, format_response
from mmdpad.prompts.zoom import format_call
from mmdpad.toy.shapes_world import SHAPES_IMAGE_SIZE

PATCH, MERGE = 8, 2
LARGEST_NUMBER = 112
SPECIAL_TOKENS = ('<|endoftext|>', '<|im_start|>', '<|im_end|>', '<|vision_start|>',
                  '<|vision_end|>', '<|vision_pad|>', '<|image_pad|>', '<|video_pad|>')

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def response_fragments(tasks: bool = False, zoom: bool = False) -> list[str]:
    """List the fixed parts of a response, without reasoning, numbers and caption; longest first.
    With ``tasks``, also those of detections and of answers in words; with ``zoom``, also those of
    turns without a caption: calls and answers."""
    box = (7, 7, 7, 7)
    texts = [format_response('7', box, ((7, 7), (7, 7)), '7')]
    if tasks:
        texts += [format_detections('7', [(box, '7', '7')] * count) for count in (0, 2)]
        texts += [format_question_answer('7', '7', [box] * count, '7') for count in (0, 2)]
    if zoom:
        texts += [format_call('7', box), without_caption(texts[0])]
    return sorted({part for text in texts for part in text.split('7') if part},
                  key=lambda part: (-len(part), part))


def without_caption(response: str) -> str:
    """A response up to its answer."""
    return response[:response.index('\n<caption>')]


def make_tokenizer(tasks: bool = False, zoom: bool = False) -> PreTrainedTokenizerFast:
    """Make a tokenizer with a token per integer up to 112, word and fragment, otherwise bytes. With
    ``tasks``, also those of detection and of answers in words; with ``zoom``, those of turns."""
    fragments = response_fragments(tasks, zoom)
    words = [*world_words(), 'find', 'user', 'assistant', 'system']
    words += task_words() if tasks else []
    words += zoom_words() if zoom else []
    pieces = [*fragments, *(str(number) for number in range(10, LARGEST_NUMBER + 1)),
              *words, *(' ' + word for word in words), ' "']
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocab = {symbol: i for i, symbol in enumerate(alphabet)}
    for piece in pieces:
        spelled = ''.join(part for part, _ in to_bytes.pre_tokenize_str(piece))
        vocab.setdefault(spelled, len(vocab))
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    cut = '|'.join([*(re.escape(part) for part in fragments), '[0-9]{1,3}', ' ?[A-Za-z]+', r' "',
                    r'[\s\S]'])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(cut), behavior='isolated'), to_bytes])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False)
                                for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token='<|im_end|>', pad_token='<|endoftext|>',
        additional_special_tokens=list(SPECIAL_TOKENS), clean_up_tokenization_spaces=False,
        model_max_length=4096, padding_side='left')


def make_processor(tasks: bool = False, zoom: bool = False) -> Qwen2_5_VLProcessor:
    """Make a processor whose images always have the size of the model image; see `make_tokenizer`
    for ``tasks`` and ``zoom``."""
    pixels = SHAPES_IMAGE_SIZE[0] * SHAPES_IMAGE_SIZE[1]
    geometry = dict(patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2,
                    size=dict(shortest_edge=pixels, longest_edge=pixels))
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**geometry),
        video_processor=Qwen2VLVideoProcessor(**geometry),
        tokenizer=make_tokenizer(tasks, zoom), chat_template=CHAT_TEMPLATE)


def make_config(tokenizer) -> Qwen2_5_VLConfig:
    """Make the config of a Qwen2.5-VL with about 1.6 million parameters."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    ends = dict(bos_token_id=None, eos_token_id=ids['<|im_end|>'],
                pad_token_id=ids['<|endoftext|>'])
    # A small theta: the column of an image token rotates the last six angles, which the usual theta
    # would hardly change on a grid of 7 x 7.
    rope = dict(rope_type='default', rope_theta=30.0, mrope_section=[4, 6, 6])
    text = dict(vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384,
                num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                max_position_embeddings=4096, rope_parameters=rope, tie_word_embeddings=True,
                **ends)
    vision = dict(depth=2, hidden_size=128, intermediate_size=256, num_heads=4, patch_size=PATCH,
                  spatial_merge_size=MERGE, temporal_patch_size=2, window_size=112,
                  out_hidden_size=128, fullatt_block_indexes=[0, 1])
    return Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=True,
        image_token_id=ids['<|image_pad|>'], video_token_id=ids['<|video_pad|>'],
        vision_start_token_id=ids['<|vision_start|>'],
        vision_end_token_id=ids['<|vision_end|>'], **ends)
