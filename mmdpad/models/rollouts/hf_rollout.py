# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Responses by transformers' own ``generate``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.encoded_prompt import EncodedPrompt, collate_text
from mmdpad.registry import ROLLOUTS

from .engine import DrawingEngine
from .sampling import NonFiniteLogits, draw_tokens

# Measured: 5.20 does not, 5.22 does.
_DECODES_DELTA_NET = Version(transformers.__version__) >= Version('5.22')


@ROLLOUTS.register_module()
class HFRollout(DrawingEngine):
    """Samples with ``model.generate``: for any attention implementation of transformers."""

    repeats_prompts = True

    def check_policy(self, head: VLMReasoningHead) -> None:
        """See :class:`RolloutEngine`.

        Raises:
            ImportError: transformers is too old to generate with gated DeltaNet layers.
        """
        kinds = getattr(head.model.config.get_text_config(), 'layer_types', None) or ()
        if 'linear_attention' in kinds and not _DECODES_DELTA_NET:
            raise ImportError(
                f'`HFRollout` needs transformers 5.22 or later for {head.family.name}, whose '
                f'layers generate other tokens in {transformers.__version__} than in a forward '
                f"pass; update it, or use `rollout_engine=dict(type='SharedPrefixRollout')`")

    def generate(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt], group_size: int,
                 max_new_tokens: int, draws: Tensor | None,
                 warp: LogitsProcessorList) -> tuple[Tensor, None]:
        """See :class:`DrawingEngine`.

        Raises:
            ImportError: See :meth:`check_policy`.
        """
        self.check_policy(head)
        model: Any = head.model
        copies = group_size if draws is None else 1  # of the one greedy response
        config = GenerationConfig(
            max_new_tokens=max_new_tokens, num_return_sequences=group_size // copies,
            use_cache=True,
            eos_token_id=head.end_tokens, pad_token_id=head.pad_token,
            suppress_tokens=head.vision_token_ids,
            # The processors below leave one token, so generate's own sampling has no choice.
            do_sample=draws is not None, temperature=1.0, top_k=0, top_p=1.0)
        batch = head.family.generation_inputs(prompts, head.pad_token, head.device)
        if types := head.family.token_types:
            batch[types] = collate_text(prompts, head.pad_token, head.device)['mm_token_type_ids']
        length = batch['input_ids'].shape[1]
        faults = NonFiniteRows(head.end_tokens, length)
        processors = LogitsProcessorList([faults, *warp])
        if draws is not None:
            processors.append(InverseTransformSampling(draws, length))
        streamer = None if self.streamer is None else NewTokens(self.streamer)
        # `generate` would take unset values from the folder's sampling defaults (Qwen ships some).
        folder_defaults, model.generation_config = model.generation_config, config
        devices = [head.device] if head.device.type == 'cuda' else []
        try:
            with torch.random.fork_rng(devices=devices):
                sequences = model.generate(**batch, generation_config=config,
                                           logits_processor=processors, streamer=streamer,
                                           stopping_criteria=StoppingCriteriaList(
                                               [StopAtNonFiniteRows(faults)]))
        finally:
            model.generation_config = folder_defaults
            model.model.rope_deltas = None
        if (rows := faults.rows.nonzero()).numel():
            row = int(rows[0])
            raise NonFiniteLogits(row * copies, sequences[row, length:-1])
        return sequences[:, length:].repeat_interleave(copies, dim=0), None


class NonFiniteRows(LogitsProcessor):
    """Leaves scores unchanged, and records on the device which rows are not finite.

    Args:
        ends: End tokens; rows that have one after their prompt are ignored.
        prompt_length: Tokens of the padded prompts.
    """

    def __init__(self, ends: Sequence[int], prompt_length: int) -> None:
        self.ends = ends
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the (N, V) logits unchanged, and set ``rows``, (N,) bool."""
        ends = torch.tensor(self.ends, device=input_ids.device)
        ended = torch.isin(input_ids[:, self.prompt_length:], ends).any(dim=1)
        self.rows = ~(scores.amax(dim=-1).isfinite() | ended)
        return scores


class StopAtNonFiniteRows(StoppingCriteria):
    """Ends ``generate`` after a step with non-finite rows, without another wait for the device."""

    def __init__(self, faults: NonFiniteRows) -> None:
        self.faults = faults

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        return self.faults.rows.any().expand(len(input_ids))


class InverseTransformSampling(LogitsProcessor):
    """Leaves only the drawn token possible, see :func:`draw_tokens`.

    Args:
        draws: (N, R) float64 in [0, 1).
        prompt_length: Tokens of the padded prompts.
    """

    def __init__(self, draws: Tensor, prompt_length: int) -> None:
        self.draws = draws
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Map (N, V) logits to 0 for the drawn token and -inf for the others."""
        token = draw_tokens(scores, self.draws[:, input_ids.shape[1] - self.prompt_length],
                            scores.amax(dim=-1))
        token = token.clamp(max=scores.shape[1] - 1)  # where no token can be drawn
        return torch.full_like(scores, -torch.inf).scatter(1, token[:, None], 0.0)


class NewTokens(BaseStreamer):
    """Passes on the tokens that ``generate`` puts after the prompt, which it puts first."""

    def __init__(self, streamer: Callable[[Tensor], None]) -> None:
        self.streamer = streamer
        self.after_prompt = False

    def put(self, value: Tensor) -> None:
        """Take the newest tokens (1,) of ``generate``, or the prompt (1, L)."""
        if self.after_prompt:
            self.streamer(value)
        self.after_prompt = True

    def end(self) -> None:
        """Do nothing; ``generate`` returns."""
