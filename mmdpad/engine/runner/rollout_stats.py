# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Describes a rollout in numbers for the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from statistics import fmean

import torch
from torch import Tensor

from mmdpad.prompts import FAILURE_REASONS
from mmdpad.prompts.zoom import BAD_CALLS
from mmdpad.rewards import distinct_n, repetition
from mmdpad.rl import has_signal
from mmdpad.structures import ParseFailure, RolloutBatch, response_lengths
from mmdpad.structures.conversation import ENDINGS


def describe_rollout(rollout: RolloutBatch, tasks: Collection[str] = (),
                     compared: Tensor | None = None) -> dict[str, float]:
    """Means over a rollout for the log.

    MMEngine repeats the last value of a name until it gets a new one. So every number that is
    defined for all rollouts is always included, even shares of 0.

    Args:
        rollout: A rollout with reward terms, their sum and signals.
        tasks: The tasks of the model.
        compared: (B, G) float, the numbers that advantages compare; None for the total rewards.

    Returns:
        Rewards:

        - ``reward``, ``reward_std`` (mean spread within groups), ``frac_reward_zero_std`` (share of
          groups in which ``compared`` has no spread, so without signal);
        - ``reward/<term>`` (unweighted), ``reward_std/<term>`` (spread), over the responses that
          the term scores; absent if there are none;
        - ``task_reward/<task>`` if there are several tasks; absent if none of its prompts is there;
        - ``signal/<name>`` (over responses that have one; absent if none has).

        Shares of all responses, in [0, 1]: ``parse_failures``, ``failed/<reason>`` for each of
        ``mmdpad.prompts.FAILURE_REASONS``, ``truncated``, ``empty_think`` (no reasoning,
        or an empty one).

        Texts:

        - ``response_tokens``;
        - ``reasoning_tokens`` and ``caption_words`` (over responses with both tags, so none
          that was cut off between them; absent if none has);
        - ``distinct_2`` (:func:`distinct_n` of each group's reasoning texts, mean over groups) and
          ``repetition`` (mean over reasoning texts that are not empty; absent if all are).

        Conversations, if the model holds them:

        - ``turns`` (mean number), ``zoomed`` (share that saw a part of the image), ``reply_tokens``
          (mean number of tokens in replies; ``response_tokens`` are the policy's own);
        - ``bad_calls`` (mean number) and ``bad_calls/<reason>`` for each of
          ``mmdpad.prompts.zoom.BAD_CALLS``;
        - ``ended_by/<ending>`` (share) for each of ``mmdpad.structures.conversation.ENDINGS``.
    """
    rewards = rollout.total_rewards
    assert rewards is not None
    logs = {'reward': rewards.mean(), 'reward_std': rewards.std(dim=1).mean()}
    for name, term in rollout.rewards.items():
        scored = term[~term.isnan()] if term.isnan().any() else term
        if scored.numel():
            logs |= {f'reward/{name}': scored.mean(), f'reward_std/{name}': scored.std()}
    for task in tasks if len(tasks) > 1 else ():
        if any(own := torch.tensor([name == task for name in rollout.tasks])):
            logs[f'task_reward/{task}'] = rewards[own].mean()
    logs |= {f'signal/{name}': term.nanmean() for name, term in rollout.signals.items()
             if not term.isnan().all()}
    logs['frac_reward_zero_std'] = 1 - has_signal(
        rewards if compared is None else compared).float().mean()
    logs['truncated'] = rollout.truncated.float().mean()
    if not rollout.reasoning_tokens.isnan().all():
        logs['reasoning_tokens'] = rollout.reasoning_tokens.nanmean()
    logs['response_tokens'] = rollout.response_mask.sum(dim=1).float().mean()
    return ({name: float(value) for name, value in logs.items()} | _describe_texts(rollout)
            | _describe_conversations(rollout))


def _describe_texts(rollout: RolloutBatch) -> dict[str, float]:
    parsed, size = rollout.parsed, rollout.group_size
    failures = Counter(dict.fromkeys(FAILURE_REASONS, 0))
    failures.update(p.reason for p in parsed if isinstance(p, ParseFailure))
    logs = {'parse_failures': failures.total() / len(parsed)}
    logs |= {f'failed/{reason}': count / len(parsed) for reason, count in failures.items()}

    reasonings = [p.think or '' for p in parsed]
    logs['empty_think'] = reasonings.count('') / len(reasonings)
    logs['distinct_2'] = fmean([distinct_n(reasonings[i:i + size], 2)
                                for i in range(0, len(reasonings), size)])
    captions = [len(p.caption.split()) for p in parsed if p.caption is not None]
    if captions:
        logs['caption_words'] = fmean(captions)
    if any(reasonings):
        logs['repetition'] = fmean([repetition(text) for text in reasonings if text])
    return logs


def _describe_conversations(rollout: RolloutBatch) -> dict[str, float]:
    if rollout.conversations is None:
        return {}
    records, mask = rollout.conversations, rollout.response_mask
    bad_calls = Counter(dict.fromkeys(BAD_CALLS, 0))
    bad_calls.update(reason for record in records for reason in record.bad_calls)
    endings = [record.ended_by for record in records]
    counts = {'turns': sum(len(record.texts) for record in records),
              'zoomed': sum(bool(record.crops) for record in records),
              'reply_tokens': int(response_lengths(mask).sum() - mask.sum()),
              'bad_calls': bad_calls.total(),
              **{f'bad_calls/{reason}': count for reason, count in bad_calls.items()},
              **{f'ended_by/{name}': endings.count(name) for name in ENDINGS}}
    return {name: count / len(records) for name, count in counts.items()}
