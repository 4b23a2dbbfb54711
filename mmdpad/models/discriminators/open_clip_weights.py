# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Reads CLIP checkpoints under open_clip's names, and detects their activation if possible."""

from __future__ import annotations

import os.path as osp
import re
from dataclasses import dataclass
from functools import cache

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor, nn

from mmdpad.models.weights import read_state_dict

_OPENAI_ENTRIES = ('input_resolution', 'context_length', 'vocab_size')  # in its TorchScript files
_TRAINED_WITH_QUICK_GELU = re.compile(r'openai|metaclip|dfn\d|quickgelu', re.IGNORECASE)
_LONG_CLIP_KEPT = 20  # positions that Long-CLIP keeps from CLIP


@dataclass(frozen=True)
class Weights:
    """The weights in a file.

    Attributes:
        path: The file.
        state: Its names and tensors, without entries that are not weights.
        quick_gelu: The evidence that they were trained with QuickGELU; empty if there is none.
    """

    path: str
    state: dict[str, Tensor]
    quick_gelu: str

    def for_model(self, model: nn.Module) -> dict[str, Tensor]:
        """Convert the state to a model's names; it need not fit the model."""
        state = convert_state_dict(model, dict(self.state))
        if not hasattr(model, 'positional_embedding'):
            state = convert_to_custom_text_state_dict(state)
        for name in ('logit_scale', 'logit_bias'):  # published as numbers and as vectors
            own = getattr(model, name, None)
            if own is not None and name in state and state[name].numel() == own.numel():
                state[name] = state[name].reshape(own.shape)
        bias = getattr(model, 'logit_bias', None)
        if bias is not None:  # SigLIP's loss uses it, cosines do not
            state.setdefault('logit_bias', torch.zeros_like(bias))
        # Older checkpoints hold the position ids of a Hugging Face tower.
        state.pop('text.transformer.embeddings.position_ids', None)
        return state


def read_weights(path: str, hint: str) -> Weights:
    """Read a weights file of open_clip, OpenAI, Long-CLIP or MobileCLIP.

    Raises:
        FileNotFoundError, ValueError: See :func:`mmdpad.models.weights.read_state_dict`.
    """
    state = {name.removeprefix('module.'): value
             for name, value in read_state_dict(path, hint).items()}
    evidence = ''
    if any(name in state for name in _OPENAI_ENTRIES):
        evidence = 'it has entries of OpenAI\'s own files'
        state = {name: value for name, value in state.items() if name not in _OPENAI_ENTRIES}
    if 'positional_embedding_res' in state:  # Long-CLIP, which is fine-tuned from OpenAI's weights
        evidence = 'it has an entry of Long-CLIP\'s own files'
        state['positional_embedding'] = torch.cat([
            state['positional_embedding'][:_LONG_CLIP_KEPT],
            state.pop('positional_embedding_res')[_LONG_CLIP_KEPT:]])
    return Weights(path, state, evidence or _evidence_in_name(path))


def _evidence_in_name(path: str) -> str:
    folder, name = osp.split(osp.abspath(path))
    if name in _published_names():
        return 'it is named as a published file that was'
    found = _TRAINED_WITH_QUICK_GELU.search(osp.join(osp.basename(folder), name))
    return f'its name has {found[0]!r}' if found else ''


@cache
def _published_names() -> frozenset[str]:
    """Names of the files that open_clip downloads for tags that were trained with QuickGELU."""
    configs = [open_clip.get_pretrained_cfg(*pair) for pair in open_clip.list_pretrained()]
    names = {quick: {osp.basename(config['url']) for config in configs
                     if config.get('url') and bool(config.get('quick_gelu')) == quick}
             for quick in (True, False)}
    return frozenset(names[True] - names[False])
