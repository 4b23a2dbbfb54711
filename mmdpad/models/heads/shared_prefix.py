# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Computes a prompt and its image once for all G responses, in one pass.

A row concatenates groups without padding, each a prompt followed by its responses:

    p p p p p a a a b b b b b c c   q q q q d d d d e e

A response's tokens attend to the prompt and to the response's earlier tokens, and have the
positions that they would have directly after the prompt. Loss and gradients therefore equal those
of B * G sequences that each repeat the prompt (cf. Prefix Grouper, arXiv 2506.05433).

The attention is registered as an attention interface of transformers. The keyword ``layout``, which
describes the row, is passed from the model's forward to every attention layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mmdpad.structures import response_lengths

from .attention_support import SHARED_PREFIX
from .encoded_prompt import EncodedPrompt, Replies
from .families import family_of
from .packed_attention import CopiedPrompts, JoinedAttention, PackedGroup, joins_parts
from .recurrent_layers import Mixer, PackedRecurrence, RecurrentState

NAME = SHARED_PREFIX
# Arguments of attention interfaces that change what a token attends to, or how.
_UNSUPPORTED = ('sliding_window', 'softcap', 's_aux')


class Layout(Protocol):
    """Determines how the tokens of a forward pass attend to each other."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float,
               layer: int) -> Tensor:
        """Map queries (B, H, L, d), keys and values (B, K, L, d), K <= H, to (B, L, H, d)."""

    def recur(self, mixer: Mixer, states: Tensor, layer: int) -> Tensor:
        """Run a recurrent layer over states (B, L, D)."""


def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor,
              attention_mask: Tensor | None, scaling: float | None = None,
              layout: Layout | None = None, **kwargs: Any) -> tuple[Tensor, None]:
    """transformers' attention interface: ``layout.attend``, or SDPA without a layout.

    Raises:
        NotImplementedError: There is a layout, but the layer does not compute plain attention.
    """
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling,
                                      **kwargs)
    if extra := [name for name in _UNSUPPORTED if kwargs.get(name) is not None]:
        raise NotImplementedError(
            f"`attn_implementation={NAME!r}` computes plain attention, but "
            f"{type(module).__name__} has {', '.join(extra)}; set 'sdpa' or 'eager', whichever "
            f"transformers supports for it, with `rollout_engine=dict(type='HFRollout')`")
    return layout.attend(query, key, value, cast(float, scaling),
                         cast(int, module.layer_idx)), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


class PackedRow:
    """The :class:`Layout` of a row of groups; for recurrent layers, with the same number of
    responses each.

    Attributes:
        predictors: (T,) long, indices in the row of the states that predict the responses' tokens;
            the last token of a prompt appears once for each of its responses.
        reached: Numbers of the layers that ran as the row demands.
    """

    def __init__(self, groups: Sequence[PackedGroup], device: torch.device) -> None:
        predictors, place = [], 0
        for group in groups:
            last = place + group.prompt - 1
            place = last + 1
            for length in group.responses:
                predictors += [last, *range(place, place + length - 1)][:length]
                place += length
        self.predictors = torch.tensor(predictors, dtype=torch.long, device=device)
        kind = JoinedAttention if joins_parts(device) else CopiedPrompts
        self.attention = kind(groups, device)
        self.groups = groups
        self.reached: set[int] = set()

    @cached_property
    def recurrence(self) -> PackedRecurrence:
        """What recurrent layers need to know of the row."""
        return PackedRecurrence(self.groups, self.predictors.device)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float,
               layer: int) -> Tensor:
        """(1, H, L, d) and (1, K, L, d) -> (1, L, H, d)."""
        self.reached.add(layer)
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        return self.attention(q, k, v, scale)[None]

    def recur(self, mixer: Mixer, states: Tensor, layer: int) -> Tensor:
        """(1, L, D) -> (1, L, D)."""
        return self.run_recurrence(mixer, states, layer)[0]

    def run_recurrence(self, mixer: Mixer, states: Tensor,
                       layer: int) -> tuple[Tensor, RecurrentState]:
        """As :meth:`recur`, with the layer's state after each prompt."""
        self.reached.add(layer)
        output, after = self.recurrence(mixer, states[0])
        return output[None], after


def response_states(model: PreTrainedModel, prompts: Sequence[EncodedPrompt], ids: Tensor,
                    mask: Tensor, replies: Replies | None = None) -> Tensor:
    """Compute the last hidden states that predict the tokens of responses.

    Args:
        model: A policy's model whose text part attends by :data:`NAME`.
        prompts: B prompts with encoded images.
        ids: (N, R) long, N = B * G, prompt-major, on the model's device.
        mask: (N, R) bool, True for the tokens that the policy chose; those before the last of them
            are replies, and those after it are padding.
        replies: N lists of the replies with images, encoded, in order; None if there are none.

    Returns:
        (T, D) for the T chosen tokens of all responses, in the order of ``ids[mask]``.
    """
    device, lengths = ids.device, response_lengths(mask)
    groups = lengths.reshape(len(prompts), -1).tolist()
    row = PackedRow([PackedGroup(len(prompt), sizes) for prompt, sizes in
                     zip(prompts, groups, strict=True)], device)
    written = torch.arange(mask.shape[1], device=device) < lengths[:, None]
    further = iter(replies or [()] * len(ids))
    tokens, positions, shown = [], [], []
    for prompt, sizes, own in zip(prompts, groups, ids[written].split(list(map(sum, groups))),
                                  strict=True):
        places = prompt_positions(model, prompt)
        tokens += [prompt.input_ids.to(device), own]
        positions.append(places)
        shown.append(prompt)
        for part, images in zip(own.split(sizes), islice(further, len(sizes)), strict=True):
            positions.append(response_positions(model, prompt, places, part, images))
            shown += images
    states = row_states(model, shown, torch.cat(tokens), torch.cat(positions, dim=-1).to(device),
                        row)
    # Not `states[...]`: its gradient sums repeated indices in whatever order the threads run.
    return embedding(row.predictors[mask[written]], states)


def row_states(model: PreTrainedModel, prompts: Sequence[EncodedPrompt], tokens: Tensor,
               positions: Tensor, row: PackedRow) -> Tensor:
    """Compute the last hidden states (L, D) of a row of tokens (L,) at positions (3, L) or (L,),
    with the images of its prompts and replies, in the order of their tokens.

    Raises:
        NotImplementedError: A layer neither attends nor recurs as the row demands, so that it may
            have mixed prompts and responses.
    """
    family = family_of(model)
    states = model.model(
        input_ids=tokens[None], position_ids=positions.unsqueeze(-2), use_cache=False, layout=row,
        **family.feature_inputs(prompts)).last_hidden_state[0]
    layers = family.language(model).layers
    if missed := sorted({*range(len(layers))} - row.reached):
        raise NotImplementedError(
            f"`attn_implementation={NAME!r}` should have layers that call transformers' attention "
            f'interface, but {type(layers[missed[0]]).__name__} (layer {missed[0]}) of '
            f"{family.name} does not; set 'sdpa', with `rollout_engine=dict(type='HFRollout')`")
    return states


def prompt_positions(model: PreTrainedModel, prompt: EncodedPrompt) -> Tensor:
    """Return a prompt's positions, (3, P) or (P,) long, see :meth:`.PolicyFamily.positions`."""
    return family_of(model).positions(model, prompt.input_ids[None], prompt.token_types[None],
                                      [prompt])[..., 0, :]


def response_positions(model: PreTrainedModel, prompt: EncodedPrompt, places: Tensor, ids: Tensor,
                       replies: Sequence[EncodedPrompt]) -> Tensor:
    """Return the positions, (3, R) or (R,) long, of the tokens (R,) after a prompt, which has
    :func:`prompt_positions` ``places``, among them those of replies with images."""
    if not replies:
        return places.max() + torch.arange(1, len(ids) + 1).expand(*places.shape[:-1], -1)
    types = torch.cat([prompt.token_types, reply_token_types(model, ids.cpu())])
    tokens = torch.cat([prompt.input_ids, ids.cpu()])
    return family_of(model).positions(model, tokens[None], types[None],
                                      [prompt, *replies])[..., 0, len(prompt):]


def reply_token_types(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Token types of responses, int: 1 for image tokens, which only replies have, since a policy
    cannot choose them."""
    return (ids == model.config.image_token_id).int()
