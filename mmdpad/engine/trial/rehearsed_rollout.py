# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Responses of a policy that has learned nothing, some of them replaced by right ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.prompt_encoder import EncodedPrompt
from mmdpad.models.rollouts.engine import RolloutEngine
from mmdpad.registry import ROLLOUTS


@ROLLOUTS.register_module()
class RehearsedRollout(RolloutEngine):
    """Lets another engine generate, and writes a given response over every second one.

    A random policy never writes an answer that can be read, so without it no reward, decoder or
    discriminator would have anything to do, and no group a signal.

    Args:
        engine: Config of the engine that generates.
        response: The text.
        own_tokens: Most tokens that the engine is asked for: what it writes is of no use.
    """

    def __init__(self, engine: dict, response: str, own_tokens: int = 8) -> None:
        self.engine = ROLLOUTS.build(engine)
        self.response = response
        self.own_tokens = own_tokens

    def generate(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt], group_size: int,
                 max_new_tokens: int, draws: Tensor | None, warp: LogitsProcessorList) -> Tensor:
        """See :class:`RolloutEngine`; rows 0, 2, 4, ... hold the given response."""
        own = self.engine.generate(head, prompts, group_size, min(max_new_tokens, self.own_tokens),
                                   draws, warp)
        (given, ), _ = head.encode_responses([self.response])
        given = given[:max_new_tokens].to(own.device)
        length = max(own.shape[1], len(given))
        # An end behind the engine's own responses, as if they had ended there.
        ids = torch.full((len(own), length), head.end_tokens[0], device=own.device)
        ids[:, :own.shape[1]] = own
        ids[::2, :len(given)] = given
        return ids
