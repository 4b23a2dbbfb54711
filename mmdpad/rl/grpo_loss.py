# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Losses that a config can name, and their inputs: the log-probabilities of a rollout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mmdpad.registry import MODELS
from mmdpad.structures import LossScale, RolloutBatch

from .aggregation import aggregate
from .entropy import AdaptiveEntropy, check_top_entropy
from .importance import DEFAULT_CAP
from .kl import approximate_kl
from .policy_loss import check_objective, policy_loss


@dataclass(frozen=True)
class LossInputs:
    """A micro-batch of N responses, padded to T tokens; all tensors are on one device.

    Attributes:
        logp: (N, T) float, log-probabilities under the policy being updated; gradients flow.
        old_logp: (N, T) float, those under the policy before its update, by the same model code.
        advantages: (N,) float.
        mask: (N, T) bool, the tokens that count (:meth:`PolicyLoss.token_mask`).
        ref_logp: (N, T) float, those under the frozen start policy; None unless
            :attr:`PolicyLoss.needs_reference`.
        entropy: (N, T) float, of the policy at each token, in nats.
        sampling_logp: (N, T) float, those recorded by the rollout engine while sampling; None if
            it recorded none.
        surrogate_mask: (N, T) bool, the tokens with the highest entropy, by
            :attr:`PolicyLoss.top_entropy_quantile`; None for all.
        max_tokens: Length limit of a response.
        scale: Divisors for :meth:`mean`, with which the mean over the micro-batches is the loss of
            the complete batch.
    """

    logp: Tensor
    old_logp: Tensor
    advantages: Tensor
    mask: Tensor
    ref_logp: Tensor | None = None
    entropy: Tensor | None = None
    sampling_logp: Tensor | None = None
    surrogate_mask: Tensor | None = None
    max_tokens: int | None = None
    scale: LossScale | None = None

    @classmethod
    def of(cls, rollout: RolloutBatch, mask: Tensor, logp: Tensor, entropy: Tensor | None,
           max_tokens: int) -> LossInputs:
        """The inputs for a rollout, with the device and dtype of ``logp``, which also serves as
        ``old_logp`` if the rollout has none."""
        def like(kept: Tensor | None) -> Tensor | None:
            return None if kept is None else kept.to(logp)

        assert rollout.advantages is not None
        old_logp = like(rollout.old_logp)
        chosen = None
        if rollout.old_entropy is not None and rollout.entropy_threshold is not None:
            chosen = (rollout.old_entropy >= rollout.entropy_threshold).to(logp.device)
        return cls(logp, logp.detach() if old_logp is None else old_logp,
                   rollout.advantages.flatten().to(logp), mask.to(logp.device),
                   like(rollout.ref_logp), entropy, like(rollout.sampling_logp), chosen,
                   max_tokens, rollout.loss_scale)

    def mean(self, values: Tensor, aggregation: str = 'seq_mean_token_mean') -> Tensor:
        """Reduce (N, T) values to a scalar, see :func:`mmdpad.rl.aggregate`. A loss that is a sum
        of such means does not depend on how the batch is split into micro-batches."""
        return aggregate(values, self.mask, aggregation, self.max_tokens, self.scale)


class PolicyLoss:
    """Base class for ``model.loss``. A subclass implements ``__call__``; the rest has defaults.

    Attributes:
        needs_reference: Whether ``LossInputs.ref_logp`` is computed, by a frozen copy of the start
            policy.
        needs_sampling_logp: Whether the rollout engine must record log-probabilities.
        entropy: 'grad' if gradients flow through ``LossInputs.entropy``, 'no_grad' if it is only
            logged.
        penalizes_rewards: Whether :meth:`reward_penalty` is subtracted from the rewards.
        top_entropy_quantile: The share of a rollout's tokens, those with the highest entropy before
            its updates, in ``LossInputs.surrogate_mask``; 1 for all, without a mask.
    """

    needs_reference: bool = False
    needs_sampling_logp: bool = False
    entropy: Literal['grad', 'no_grad'] = 'no_grad'
    penalizes_rewards: bool = False
    top_entropy_quantile: float = 1.0

    @property
    def needs_pass_before_update(self) -> bool:
        """Whether the loss needs log-probabilities or entropies of the complete rollout."""
        return self.penalizes_rewards or self.top_entropy_quantile < 1

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss of a micro-batch, and scalars to log, named as in :meth:`entries`."""
        raise NotImplementedError(f'{type(self).__name__} should implement `__call__`')

    def entries(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Compute ``loss`` and the scalars to log, detached, as mmengine expects them.

        mmengine minimizes the sum of all entries with 'loss' in their name, so the others are
        logged without that word: 'pg' for ``pg_loss``.

        Raises:
            TypeError: ``__call__`` does not return a loss and a dict.
            ValueError: The name of a scalar is nothing but 'loss', or has it inside a word.
        """
        result = self(inputs)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            raise TypeError(f'`{type(self).__name__}.__call__` should return the loss and a dict '
                            f'of scalars to log, but got {type(result).__name__}; return '
                            f'`loss, {{}}` to log nothing')
        entries = {'loss': result[0]}
        for name, value in result[1].items():
            short = '_'.join(word for word in name.split('_') if word != 'loss')
            if not short or 'loss' in short:
                raise ValueError(f"`{type(self).__name__}` should log names without 'loss', since "
                                 f'mmengine adds such entries to the loss, but got {name!r}; '
                                 f'rename it')
            entries[short] = torch.as_tensor(value).detach()
        return entries

    def token_mask(self, rollout: RolloutBatch) -> Tensor:
        """(N, T) bool: the tokens that count in the loss; by default all that the policy chose."""
        return rollout.response_mask

    def correct_staleness(self) -> None:
        """Called once, before a training whose rollouts are sampled by older weights
        (``max_staleness`` of :class:`GRPOTrainLoop`).

        Raises:
            ValueError: The loss does not correct for it; by default, if it does not ask for
                ``LossInputs.sampling_logp``.
        """
        if not self.needs_sampling_logp:
            raise ValueError(
                f'`train_cfg.max_staleness` should be 0 for a loss that does not correct for '
                f'rollouts of older weights, but `model.loss.type` is {type(self).__name__}, whose '
                f'`needs_sampling_logp` is False; weight its tokens by '
                f'`mmdpad.rl.importance_weights` of `old_logp` and `sampling_logp`, and set it')

    def reward_penalty(self, rollout: RolloutBatch) -> Tensor:
        """(B, G) float: subtracted from the sum of rewards before advantages are computed, if
        :attr:`penalizes_rewards`. The rollout has ``old_logp`` and, if the loss needs it,
        ``ref_logp``."""
        raise NotImplementedError(f'{type(self).__name__} should implement `reward_penalty`')

    def after_iteration(self, logs: Mapping[str, float]) -> None:
        """Called after the updates for a rollout with the means of its log over all processes, for
        a loss that adapts; by default, nothing happens."""

    def state_dict(self) -> dict[str, Any]:
        """Plain data of what :meth:`after_iteration` changed, for a resumed run."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, of a loss with other settings, too."""


@MODELS.register_module()
class GRPOLoss(PolicyLoss):
    """Clipped surrogate, KL to the start policy and an entropy bonus, computed by
    :func:`mmdpad.rl.policy_loss`. The defaults are the published ones.

    Args:
        clip_ratio, clip_ratio_high, ratio_level, surrogate: See :func:`mmdpad.rl.policy_loss`.
        kl_coef, kl_estimator, entropy_coef: See there.
        adaptive_entropy: ``target``, ``delta``, ``low`` and ``high`` of
            :class:`mmdpad.rl.AdaptiveEntropy`, which starts from ``entropy_coef``; None for a
            constant coefficient.
        top_entropy_quantile: The share of a rollout's tokens, those with the highest entropy, that
            count in the surrogate (:func:`mmdpad.rl.entropy_threshold`); 1 for all.
        importance_cap: See there; 'auto' for no correction, or a cap of 2 if rollouts are sampled
            by older weights. With None, those are not corrected either.
        importance_level, importance_mode, importance_floor: See
            :func:`mmdpad.rl.importance_weights`.
        off_policy_mask_threshold: See :func:`mmdpad.rl.policy_loss`; the rollout engine must record
            log-probabilities.
        aggregation: See :func:`mmdpad.rl.aggregate`; 'seq_mean_token_sum_norm' divides by
            ``model.train_cfg.max_new_tokens``.
        kl_in: 'loss' or 'reward'. With 'reward', ``kl_coef`` times the KL estimate, summed over a
            response's tokens, is subtracted from its reward instead.
        mask_truncated: Leave responses that hit the length limit out of the loss (DAPO, arXiv
            2503.14476).

    Raises:
        ValueError: A value is out of range, or an option is unknown.
    """

    def __init__(self, clip_ratio: float = 0.2, clip_ratio_high: float | None = None,
                 ratio_level: str = 'token', surrogate: str = 'clip', kl_coef: float = 5e-3,
                 kl_estimator: str = 'k3', kl_in: str = 'loss', entropy_coef: float = 1e-3,
                 adaptive_entropy: dict | None = None, top_entropy_quantile: float = 1.0,
                 aggregation: str = 'seq_mean_token_mean',
                 importance_cap: float | Literal['auto'] | None = 'auto',
                 importance_level: str = 'token', importance_mode: str = 'truncate',
                 importance_floor: float = 0.0,
                 off_policy_mask_threshold: float | None = None,
                 mask_truncated: bool = False) -> None:
        if not 0 <= kl_coef < math.inf:
            raise ValueError(f'`kl_coef` should be at least 0 and finite, but got {kl_coef}')
        if kl_in not in ('loss', 'reward'):
            raise ValueError(f"`kl_in` should be 'loss' or 'reward', but got {kl_in!r}")
        if kl_in == 'reward' and kl_estimator == 'k3_unbiased':
            raise ValueError("`kl_estimator` should not be 'k3_unbiased' with `kl_in='reward'`, "
                             "where no gradient flows through it; use 'k3', which has the same "
                             'value')
        self.switches: dict[str, Any] = dict(
            clip_ratio=clip_ratio, clip_ratio_high=clip_ratio_high, ratio_level=ratio_level,
            surrogate=surrogate, kl_estimator=kl_estimator, aggregation=aggregation,
            importance_cap=None if importance_cap == 'auto' else importance_cap,
            importance_level=importance_level, importance_mode=importance_mode,
            importance_floor=importance_floor,
            off_policy_mask_threshold=off_policy_mask_threshold)
        check_objective(max_tokens=1, **self.switches)
        self.kl_coef = kl_coef
        check_top_entropy(top_entropy_quantile)
        self.top_entropy_quantile = top_entropy_quantile
        self.adaptive_entropy = (None if adaptive_entropy is None else
                                 AdaptiveEntropy.of(entropy_coef, adaptive_entropy))
        self._entropy_coef = entropy_coef
        self.mask_truncated = mask_truncated
        self.needs_reference = kl_coef > 0
        self.importance_cap = importance_cap
        self.needs_sampling_logp = (self.switches['importance_cap'] is not None
                                    or off_policy_mask_threshold is not None)
        self.entropy = 'grad' if entropy_coef or adaptive_entropy is not None else 'no_grad'
        self.penalizes_rewards = kl_in == 'reward' and kl_coef > 0

    @property
    def entropy_coef(self) -> float:
        """The current coefficient of the entropy."""
        return (self._entropy_coef if self.adaptive_entropy is None else
                self.adaptive_entropy.applied)

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """See :func:`mmdpad.rl.policy_loss`; with ``adaptive_entropy``, also logs ``entropy_coef``
        and ``entropy_per_token``, the mean over tokens, however the loss is aggregated."""
        loss, scalars = policy_loss(
            inputs.logp, inputs.old_logp, inputs.advantages, inputs.mask,
            ref_logp=inputs.ref_logp, kl_coef=0.0 if self.penalizes_rewards else self.kl_coef,
            entropy=inputs.entropy, entropy_coef=self.entropy_coef, max_tokens=inputs.max_tokens,
            sampling_logp=inputs.sampling_logp, surrogate_mask=inputs.surrogate_mask,
            scale=inputs.scale, **self.switches)
        if self.adaptive_entropy is not None:
            assert inputs.entropy is not None
            scalars['entropy_coef'] = torch.tensor(self.entropy_coef)
            # Otherwise no token of the step counts, as where all responses are truncated.
            if inputs.mask.any() if inputs.scale is None else inputs.scale.tokens:
                scalars['entropy_per_token'] = inputs.mean(inputs.entropy.detach(), 'token_mean')
        return loss, scalars

    def after_iteration(self, logs: Mapping[str, float]) -> None:
        """See :class:`PolicyLoss`; nothing happens if all steps of the iteration were skipped, or
        no token of it counts."""
        if self.adaptive_entropy is not None and 'entropy_per_token' in logs:
            self.adaptive_entropy.update(logs['entropy_per_token'])

    def state_dict(self) -> dict[str, Any]:
        """See :class:`PolicyLoss`."""
        return {} if self.adaptive_entropy is None else self.adaptive_entropy.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`PolicyLoss`."""
        if self.adaptive_entropy is not None and state:
            self.adaptive_entropy.load_state_dict(state)

    def correct_staleness(self) -> None:
        """See :class:`PolicyLoss`; sets a cap if ``importance_cap`` is 'auto'."""
        if self.importance_cap == 'auto':
            self.switches['importance_cap'] = DEFAULT_CAP
            self.needs_sampling_logp = True

    def token_mask(self, rollout: RolloutBatch) -> Tensor:
        """(N, T) bool: the tokens that the policy chose; with ``mask_truncated``, only those of
        responses that are not truncated."""
        if not self.mask_truncated:
            return rollout.response_mask
        return rollout.response_mask & ~rollout.truncated.to(rollout.response_mask.device)[:, None]

    def reward_penalty(self, rollout: RolloutBatch) -> Tensor:
        """(B, G) float: ``kl_coef`` times the KL estimate, summed over a response's tokens."""
        assert rollout.old_logp is not None and rollout.ref_logp is not None
        kl = approximate_kl(rollout.old_logp, rollout.ref_logp, self.switches['kl_estimator'])
        kl = (kl * rollout.response_mask.to(kl)).sum(dim=1).cpu()
        return self.kl_coef * rollout.per_response(kl)
