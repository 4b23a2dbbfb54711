# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch
from transformers import (
    AutoProcessor,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from mmdpad.models import VLMReasoningHead
from mmdpad.toy import POLICY_WEIGHTS
from mmdpad.toy.shapes_world import SHAPES_PROMPT_TEMPLATE


@pytest.fixture(scope='session')
def qwen3_folder(tmp_path_factory) -> str:
    """A random Qwen3-VL of 200,000 parameters with deepstack features and grouped heads; its
    tokenizer is the toy policy's, and images have sides that are multiples of 32 pixels."""
    folder = str(tmp_path_factory.mktemp('qwen3'))
    tokenizer = AutoProcessor.from_pretrained(POLICY_WEIGHTS).tokenizer
    geometry = dict(patch_size=16, merge_size=2, temporal_patch_size=2,
                    size=dict(shortest_edge=64 * 64, longest_edge=128 * 128))
    Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**geometry),
        video_processor=Qwen3VLVideoProcessor(**geometry), tokenizer=tokenizer,
        chat_template=tokenizer.chat_template).save_pretrained(folder)
    ids = {f'{name}_token_id': tokenizer.convert_tokens_to_ids(token) for name, token in dict(
        image='<|image_pad|>', video='<|video_pad|>', vision_start='<|vision_start|>',
        vision_end='<|vision_end|>').items()}
    ends = dict(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    text = dict(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, head_dim=16,
                num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                max_position_embeddings=4096, pad_token_id=tokenizer.pad_token_id,
                rope_parameters=dict(rope_type='default', rope_theta=100.0,
                                     mrope_interleaved=True, mrope_section=[4, 2, 2]))
    vision = dict(depth=3, hidden_size=32, intermediate_size=64, num_heads=2, patch_size=16,
                  spatial_merge_size=2, temporal_patch_size=2, out_hidden_size=32,
                  num_position_embeddings=64, deepstack_visual_indexes=[0, 1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(
            text_config=text, vision_config=vision, tie_word_embeddings=False, **ids, **ends))
        for parameter in model.parameters():  # far enough from 0 for answers to differ
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.15)
    model.generation_config.update(**ends)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope='session')
def qwen3_head(qwen3_folder) -> VLMReasoningHead:
    """Built once; tests leave it as it is."""
    return VLMReasoningHead(qwen3_folder, prompt_template=SHAPES_PROMPT_TEMPLATE).eval()
