# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Computes the prompt once per response: for any attention of transformers, and as the reference
for :mod:`.shared_prefix`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mmdpad.structures import response_lengths

from .encoded_prompt import EncodedPrompt, Replies, collate_text
from .families import family_of
from .shared_prefix import reply_token_types


def response_states(model: PreTrainedModel, prompts: Sequence[EncodedPrompt], ids: Tensor,
                    mask: Tensor, replies: Replies | None = None) -> Tensor:
    """As :func:`.shared_prefix.response_states`, with prompts padded on the left and responses on
    the right."""
    family = family_of(model)
    repeated = [prompt for prompt in prompts for _ in range(len(ids) // len(prompts))]
    shown = repeated if not replies else [
        part for prompt, own in zip(repeated, replies, strict=True) for part in (prompt, *own)]
    written = torch.arange(ids.shape[1], device=ids.device) < response_lengths(mask)[:, None]
    batch = collate_text(repeated, model.config.text_config.pad_token_id or 0, ids.device)
    input_ids = torch.cat([batch['input_ids'], ids.masked_fill(~written, 0)], dim=1)
    attention_mask = torch.cat([batch['attention_mask'], written.long()], dim=1)
    types = reply_token_types(model, ids) if replies else torch.zeros_like(ids).int()
    token_types = torch.cat([batch['mm_token_type_ids'], types], dim=1)
    position_ids = family.positions(model, input_ids, token_types, shown, attention_mask)
    typed = {family.token_types: token_types} if family.token_types else {}
    states = model.model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
        use_cache=False, **typed, **family.feature_inputs(shown)).last_hidden_state
    # The state that predicts a token is one position before it.
    return states[:, -ids.shape[1] - 1:-1][mask]
