# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A rollout engine for processes that torchrun starts."""
import torch
from torch.distributed.tensor import DTensor

from mmdpad.models import RolloutEngine, SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.heads.named_weights import named_weights
from mmdpad.registry import ROLLOUTS


@ROLLOUTS.register_module()
class CopyingRollout(SharedPrefixRollout):
    """Samples from its own copy of the policy, to which a sharded policy gives one full weight at a
    time."""

    copies_weights = True
    copy = None
    sample_stream = RolloutEngine.sample_stream

    def sample(self, head, prompts, how):
        layers = list(head.model.model.language_model.layers.parameters())
        assert all(isinstance(parameter, DTensor) for parameter in layers)
        if self.copy is None:
            self.copy = VLMReasoningHead(head.source, dtype='float64')
        own = dict(self.copy.model.named_parameters())
        given = {name: own[name].copy_(value) for name, value in named_weights(head.model)}
        assert given.keys() == own.keys()
        with torch.no_grad():
            return super().sample(self.copy, prompts, how)
