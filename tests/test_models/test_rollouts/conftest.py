# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch
from fake_capture import Rerun

from mmdpad.models import VLMReasoningHead
from mmdpad.models.rollouts import decoding, graphs

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


@pytest.fixture
def capture(monkeypatch):
    """Makes rollouts capture their steps; returns the list of these, one of each rollout."""
    def capture():
        made = []

        def use(self, layers):
            self._layers, self.shrink_at = layers, decoding.SHRINK_GRAPHS_AT
            self._run = graphs.CapturedSteps(lambda *args: decoding.decode_step(layers, *args),
                                             Rerun())
            made.append(self._run)

        monkeypatch.setattr(decoding.Decoding, '_use', use)
        return made
    return capture
