# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""B prompts, G responses to each, and everything known about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .conversation import ConversationRecord
from .packing import fill
from .reasoning_output import ParseFailure, ReasoningOutput


class LossScale(NamedTuple):
    """Divisors for means over tensors that are only a part of the batch.

    With them, the mean of the parts' losses is the loss of the complete batch, however it is split
    into micro-batches and across processes.

    Attributes:
        sequences: Sequences with at least one token that counts, averaged over the parts.
        tokens: Tokens that count, averaged over the parts.
    """

    sequences: float
    tokens: float

    @classmethod
    def of(cls, mask: Tensor, parts: int = 1) -> LossScale:
        """The scale for a mask (N, T) that is split into ``parts``."""
        return cls(float(mask.bool().any(dim=1).sum()) / parts, float(mask.sum()) / parts)


def response_lengths(mask: Tensor) -> Tensor:
    """(N,) long, the lengths of responses with a mask (N, R) of the tokens that the policy chose:
    up to the last of these, so with the replies before it, and without padding."""
    return mask.flip(1).cumsum(dim=1).gt(0).sum(dim=1)


@dataclass
class RolloutBatch:
    """A rollout, which passes from the policy through the rewards to the update.

    Lists and rows over responses are prompt-major: response g of prompt b is row b * G + g.

    Attributes:
        data_samples: B data samples (``DetDataSample``) with metainfo and, in training,
            ``model_targets``; also ``model_negatives`` if the data names other objects.
        model_images: B uint8 tensors (3, h, w), RGB.
        prompts: B prompts as the policy encoded them, or None.
        images: B uint8 tensors (3, H, W), RGB, in the original frame, or None.
        group_size: G.
        texts: B * G decoded responses, without special tokens; of a conversation, the last turn.
        parsed: B * G parse results of the texts.
        response_ids: (B * G, R) long, right-padded token ids, including the end token. Those of a
            conversation hold the replies between the policy's turns, too.
        response_mask: (B * G, R) bool, True for the tokens that the policy chose.
        replies: B * G lists of the replies with images in a conversation, as the policy encoded
            them, in order; None if no response is one.
        conversations: B * G conversations, in which the policy could look closer; None without.
        truncated: (B * G,) bool, True if the length limit ended the response.
        reasoning_tokens: (B * G,) float, tokens inside the think tags; NaN without both.
        signals: Name -> (B, G) float: values to log that are not rewards.
        rewards: Name of a term -> (B, G) float, unweighted.
        total_rewards: (B, G) float, the weighted sum, or None before it is computed.
        advantages: (B, G) float, or None before they are computed.
        old_logp: (B * G, R) float log-probabilities under the policy before its updates, kept only
            if one rollout serves several of them; None means "the policy being updated, detached".
        ref_logp: (B * G, R) float, those under the reference policy, if they are needed more than
            once; otherwise None.
        sampling_logp: (B * G, R) float, those recorded by the rollout engine while sampling, at
            the sampling temperature; None if it does not record them.
        old_entropy: (B * G, R) float, the entropy of the policy before its updates at each token,
            in nats; None unless the loss needs it.
        entropy_threshold: The ``old_entropy`` from which on a token counts in the surrogate; None
            for all tokens.
        loss_scale: Divisors for the means in the loss (:class:`LossScale`) if this is
            one of several micro-batches; None if it is the entire batch.
    """

    data_samples: list[Any]
    model_images: list[Tensor]
    group_size: int
    texts: list[str]
    parsed: list[ReasoningOutput | ParseFailure]
    response_ids: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.long))
    response_mask: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    truncated: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    reasoning_tokens: Tensor = field(default_factory=lambda: torch.zeros(0))
    signals: dict[str, Tensor] = field(default_factory=dict)
    rewards: dict[str, Tensor] = field(default_factory=dict)
    total_rewards: Tensor | None = None
    advantages: Tensor | None = None
    old_logp: Tensor | None = None
    ref_logp: Tensor | None = None
    sampling_logp: Tensor | None = None
    old_entropy: Tensor | None = None
    entropy_threshold: float | None = None
    loss_scale: LossScale | None = None
    images: list[Tensor] | None = None
    prompts: list[Any] | None = None
    replies: list[list[Any]] | None = None
    conversations: list[ConversationRecord] | None = None

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
    def tasks(self) -> list[str | None]:
        """The names of B prompts' tasks; None where a sample names none."""
        return [getattr(sample, 'task', None) for sample in self.data_samples]

    @property
    def target_boxes(self) -> list[Tensor]:
        """B tensors (K, 4) float, XYXY in pixels of the model images: the boxes of each prompt's
        targets; K is 0 if there is no target."""
        return [targets.bboxes for targets in self.targets]

    @property
    def target_points(self) -> list[Tensor]:
        """B tensors (K, P, 2) float, (x, y) in pixels of the model images: P points per target."""
        return [targets.points for targets in self.targets]

    @property
    def targets(self) -> list[Any]:
        """The ``model_targets`` of B prompts, as :class:`.PackReasoningInputs` packs them.

        Raises:
            ValueError: A prompt has none.
        """
        for sample in self.data_samples:
            if not hasattr(sample, 'model_targets'):
                raise ValueError(
                    'Rewards that compare with a target need `model_targets`, which the question '
                    f'{getattr(sample, "question", None)!r} does not have; add `TargetsFromMask` '
                    'or `TargetsFromBoxes` to the pipeline, or remove these rewards')
        return [sample.model_targets for sample in self.data_samples]

    @property
    def negative_boxes(self) -> list[Tensor]:
        """B tensors (K, 4) float, XYXY in pixels of the model images: the objects other than the
        target that the data names (K may be 0)."""
        return [s.model_negatives.bboxes if hasattr(s, 'model_negatives') else torch.zeros(0, 4)
                for s in self.data_samples]

    def per_response(self, values: list[float] | Tensor) -> Tensor:
        """B * G values in row order as a float (B, G) tensor."""
        tensor = torch.as_tensor(values, dtype=torch.float32)
        return tensor.reshape(self.num_prompts, self.group_size)

    def select(self, prompts: Sequence[int]) -> RolloutBatch:
        """The groups of these prompts, in the given order, cut to their longest response."""
        index = torch.as_tensor(prompts, dtype=torch.long)
        rows = (index[:, None] * self.group_size + torch.arange(self.group_size)).flatten()
        picked = {name: _pick(getattr(self, name), rows if per_row else index)
                  for name, per_row in _PARTS.items()}
        mask = picked['response_mask']
        length = int(response_lengths(mask).max()) if len(mask) else 0
        for name in _PER_TOKEN:
            if picked[name] is not None:
                picked[name] = picked[name][:, :length]
        return replace(self, **picked)

    def split(self, prompts: int) -> Iterator[RolloutBatch]:
        """Yield consecutive parts of ``prompts`` prompts each; groups are never split.

        Raises:
            ValueError: ``num_prompts`` is not a multiple of ``prompts``.
        """
        if prompts < 1 or self.num_prompts % prompts:
            raise ValueError(f'num_prompts ({self.num_prompts}) should be divisible by the prompts '
                             f'of a micro-batch ({prompts})')
        for start in range(0, self.num_prompts, prompts):
            yield self.select(range(start, start + prompts))

    @property
    def group_tokens(self) -> list[int]:
        """Tokens in each of B groups: the prompt (with its image) once, plus all its responses,
        with the replies in them."""
        own = response_lengths(self.response_mask).reshape(self.num_prompts, -1).sum(dim=1).tolist()
        return [len(prompt) + tokens
                for prompt, tokens in zip(self.prompts or (), own, strict=True)]

    def pack(self, max_tokens: int | None) -> Iterator[RolloutBatch]:
        """Yield consecutive parts of entire groups, each with as many groups as fit into
        ``max_tokens`` (:attr:`group_tokens`), or with a single group that exceeds it. With None,
        yield everything at once.
        """
        if max_tokens is None:
            yield self
            return
        for prompts in fill(self.group_tokens, max_tokens):
            yield self.select(prompts)

    @classmethod
    def concatenate(cls, parts: Sequence[RolloutBatch]) -> RolloutBatch:
        """Join rollouts of the same group size; token tensors are padded to the same length. A
        signal that only some of the parts have is NaN in the others.

        Raises:
            ValueError: Group sizes differ, or a field is set in only some of the parts.
        """
        first = parts[0]
        if any(part.group_size != first.group_size for part in parts):
            raise ValueError(f'Rollouts should have the same group size, but got '
                             f'{[part.group_size for part in parts]}')
        joined = {}
        for name in _PARTS:
            values = [getattr(part, name) for part in parts]
            if any((value is None) != (values[0] is None) for value in values):
                raise ValueError(f'`{name}` should be set in all rollouts or in none')
            if name == 'signals':
                all_signals = {key: value for signals in values for key, value in signals.items()}
                values = [part._signals_like(all_signals) for part in parts]
            elif name in _PER_TOKEN and values[0] is not None:
                width = max(value.shape[1] for value in values)
                values = [pad(value, (0, width - value.shape[1])) for value in values]
            joined[name] = _join(values)
        return replace(first, **joined)

    def _signals_like(self, others: dict[str, Tensor]) -> dict[str, Tensor]:
        """The signals with the names of others, NaN where there is none."""
        missing = torch.full((self.num_prompts, self.group_size), torch.nan)
        return {name: self.signals.get(name, missing.to(other)) for name, other in others.items()}


# Fields with one entry per prompt (False) or per response (True).
_PARTS = dict(data_samples=False, model_images=False, images=False, prompts=False, texts=True,
              parsed=True, replies=True, conversations=True, response_ids=True,
              response_mask=True, truncated=True, reasoning_tokens=True, signals=False,
              rewards=False, total_rewards=False, advantages=False, old_logp=True, ref_logp=True,
              sampling_logp=True, old_entropy=True)
_PER_TOKEN = ('response_ids', 'response_mask', 'old_logp', 'ref_logp', 'sampling_logp',
              'old_entropy')


def _pick(value: Any, index: Tensor) -> Any:
    if value is None:
        return None
    if isinstance(value, dict):
        return {name: _pick(item, index) for name, item in value.items()}
    if isinstance(value, Tensor):  # without rows: a default, where tokens are unknown
        return value[index.to(value.device)] if len(value) else value
    return [value[i] for i in index.tolist()]


def _join(values: list[Any]) -> Any:
    if values[0] is None:
        return None
    if isinstance(values[0], dict):
        return {name: _join([value[name] for value in values]) for name in values[0]}
    if isinstance(values[0], Tensor):
        return torch.cat(values)
    return [item for value in values for item in value]
