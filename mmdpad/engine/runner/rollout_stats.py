# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""TEMPORARY: another tree replaces it."""
from __future__ import annotations

import torch

from mmdpad.structures import ParseFailure, RolloutBatch


def describe_rollout(rollout: RolloutBatch) -> dict[str, float]:
    """Means over a rollout for the log.

    Args:
        rollout: A rollout with reward terms and signals.
        rewards: (B, G) total rewards.

    Returns:
        ``reward``, ``reward_std`` (mean spread within groups), ``reward/<term>`` (unweighted),
        ``signal/<name>`` and ``think_tokens`` (over responses that have one; absent if none has),
        ``flat_groups`` (share of groups without spread, so without signal), ``parse_failures`` and
        ``truncated`` (shares), ``response_tokens``.
    """
    rewards = rollout.total_rewards
    logs = {'reward': rewards.mean(), 'reward_std': rewards.std(dim=1).mean()}
    logs |= {f'reward/{name}': term.mean() for name, term in rollout.rewards.items()}
    logs |= {f'signal/{name}': term.nanmean() for name, term in rollout.signals.items()
             if not term.isnan().all()}
    logs['flat_groups'] = (rewards == rewards[:, :1]).all(dim=1).float().mean()
    failures = [isinstance(parsed, ParseFailure) for parsed in rollout.parsed]
    logs['parse_failures'] = torch.tensor(failures).float().mean()
    logs['truncated'] = rollout.truncated.float().mean()
    if not rollout.think_tokens.isnan().all():
        logs['think_tokens'] = rollout.think_tokens.nanmean()
    logs['response_tokens'] = rollout.response_mask.sum(dim=1).float().mean()
    return {name: float(value) for name, value in logs.items()}

