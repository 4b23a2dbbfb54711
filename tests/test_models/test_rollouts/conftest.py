# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch

from mmdpad.models import VLMReasoningHead

QUESTIONS = ['the red circle', 'something you could roll', 'what is left of the small blue star']


@pytest.fixture(scope='session')
def exact_head(policy_config) -> VLMReasoningHead:
    """In float64 tokens that are drawn are the same to rounding: no draw is that close to an edge.
    In float32 one in some thousand responses differs between two batches."""
    return VLMReasoningHead(**policy_config, dtype='float64').eval()


@pytest.fixture(scope='session')
def prompts(head):
    """Three prompts of different lengths."""
    images = [torch.full((3, 112, 112), value, dtype=torch.uint8) for value in (90, 200, 30)]
    prompts = head.encode_prompts(images, QUESTIONS)
    assert len({len(prompt) for prompt in prompts}) == 3
    return prompts
