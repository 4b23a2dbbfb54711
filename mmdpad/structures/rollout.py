# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""B prompts, G responses to each, and all that is known about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .reasoning_output import ParseFailure, ReasoningOutput


@dataclass
class RolloutBatch:
    """A rollout on its way from the policy through the rewards to the update.

    Lists and rows over responses are prompt-major: response g of prompt b is row b * G + g.

    Attributes:
        data_samples: B data samples (``DetDataSample``) with metainfo and, in training,
            ``prompt_targets``; ``prompt_negatives`` where the data names other objects.
        prompt_images: B uint8 tensors (3, h, w), RGB.
        group_size: G.
        texts: B * G decoded responses, without special tokens.
        parsed: B * G parse results of the texts.
        response_ids: (B * G, R) long, right-padded token ids, the end token included.
        response_mask: (B * G, R) bool, True for the tokens that the policy chose.
        truncated: (B * G,) bool, True where the length limit ended the response.
        think_tokens: (B * G,) float, tokens inside the think tags; NaN without tags.
        signals: Name -> (B, G) float: worth logging, but no reward.
        rewards: Name of a term -> (B, G) float, unweighted.
        advantages: (B, G) float, or None before they are computed.
        old_logp: (B * G, R) float log-probabilities under the policy that sampled, kept only when
            one rollout serves several updates; None means "the policy being updated, detached".
    """

    data_samples: list[Any]
    prompt_images: list[Tensor]
    group_size: int
    texts: list[str]
    parsed: list[ReasoningOutput | ParseFailure]
    response_ids: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.long))
    response_mask: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    truncated: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    think_tokens: Tensor = field(default_factory=lambda: torch.zeros(0))
    signals: dict[str, Tensor] = field(default_factory=dict)
    rewards: dict[str, Tensor] = field(default_factory=dict)
    advantages: Tensor | None = None
    old_logp: Tensor | None = None

    def __post_init__(self) -> None:
        rows = self.num_prompts * self.group_size
        for name in ('texts', 'parsed'):
            if len(getattr(self, name)) != rows:
                raise ValueError(
                    f'`{name}` should have num_prompts * group_size = {self.num_prompts} * '
                    f'{self.group_size} = {rows} entries, but got {len(getattr(self, name))}')

    @property
    def num_prompts(self) -> int:
        return len(self.data_samples)

    @property
    def target_boxes(self) -> Tensor:
        """(B, 4) float, XYXY in pixels of the prompt images."""
        return torch.cat([s.prompt_targets.bboxes for s in self.data_samples])

    @property
    def target_points(self) -> Tensor:
        """(B, 2, 2) float, two (x, y) in pixels of the prompt images."""
        return torch.cat([s.prompt_targets.points for s in self.data_samples])

    @property
    def negative_boxes(self) -> list[Tensor]:
        """B tensors (K, 4) float, XYXY in pixels of the prompt images: objects that are not the
        target, as far as the data names them (K may be 0)."""
        return [s.prompt_negatives.bboxes if hasattr(s, 'prompt_negatives') else torch.zeros(0, 4)
                for s in self.data_samples]

    def per_response(self, values: list[float] | Tensor) -> Tensor:
        """B * G values in row order as a float (B, G) tensor."""
        tensor = torch.as_tensor(values, dtype=torch.float32)
        return tensor.reshape(self.num_prompts, self.group_size)

    def split(self, prompts: int) -> Iterator[RolloutBatch]:
        """Yield consecutive parts of ``prompts`` prompts each; groups are never divided.

        Raises:
            ValueError: ``num_prompts`` is no multiple of ``prompts``.
        """
        if prompts < 1 or self.num_prompts % prompts:
            raise ValueError(f'num_prompts ({self.num_prompts}) should be divisible by the prompts '
                             f'of a micro-batch ({prompts})')
        for start in range(0, self.num_prompts, prompts):
            some = slice(start, start + prompts)
            rows = slice(start * self.group_size, (start + prompts) * self.group_size)
            yield replace(
                self,
                data_samples=self.data_samples[some],
                prompt_images=self.prompt_images[some],
                texts=self.texts[rows],
                parsed=self.parsed[rows],
                response_ids=self.response_ids[rows],
                response_mask=self.response_mask[rows],
                truncated=self.truncated[rows],
                think_tokens=self.think_tokens[rows],
                signals={k: v[some] for k, v in self.signals.items()},
                rewards={k: v[some] for k, v in self.rewards.items()},
                advantages=None if self.advantages is None else self.advantages[some],
                old_logp=None if self.old_logp is None else self.old_logp[rows])
