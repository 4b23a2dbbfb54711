# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Trains again on earlier groups of responses where new ones teach nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.dist import all_gather_object, get_rank, get_world_size

from mmdpad.rl import has_signal
from mmdpad.structures import ParseFailure, RolloutBatch

Group = dict[str, Any]
"""Plain data of a group."""

# What an update needs of a group's responses; fields that may be None, last.
_FIELDS = ('response_ids', 'response_mask', 'truncated', 'advantages', 'old_logp', 'sampling_logp',
           'old_entropy')


class ReplayBuffer:
    """Keeps the latest groups with a signal, and puts some of them in the place of groups without.

    A group is drawn with a probability proportional to its score, sum_i |A_i| times the standard
    deviation of what its advantages compare, as in TRL's ``GRPOWithReplayBufferTrainer`` (which
    keeps the groups with the highest scores, however old; the latest ones are kept here, as in
    VL-Rethinker's selective sample replay, arXiv 2504.08837). Its advantages and its log-
    probabilities under the policy that wrote it stay, so the clipped ratio tells how far the policy
    has moved since.

    All processes keep the same groups, in the order of the data stream: how prompts are spread over
    processes does not matter.

    Args:
        size: How many groups are kept; 0 turns it off.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.groups: deque[Group] = deque(maxlen=size)

    def exchange(self, rollout: RolloutBatch, compared: torch.Tensor, iteration: int,
                 seed: int, encode: Callable[[list[torch.Tensor], list[DetDataSample]], list[Any]]
                 ) -> tuple[RolloutBatch, dict[str, float]]:
        """Replace groups without a signal as far as there are others, then keep the new ones.

        Args:
            rollout: Of B prompts on this process, with advantages and ``old_logp``.
            compared: (B, G) float, what advantages compare.
            iteration: Its number.
            seed: Of the draws, together with the iteration.
            encode: Encodes model images and samples as prompts.

        Returns:
            The rollout for the update, without what only rewards need; and for the log, the share
            of groups that were replaced (``replayed``) and their mean age in iterations
            (``replay_age``, if there are any).
        """
        # A resumed run may have other settings: a group of another form is of no use.
        own = {name for name in _FIELDS if getattr(rollout, name) is not None}
        self.groups = deque((group for group in self.groups if own == group.keys() & set(_FIELDS)
                             and len(group['texts']) == rollout.group_size), maxlen=self.size)
        places = [place * get_world_size() + get_rank() for place in range(rollout.num_prompts)]
        scores = self._scores(rollout, compared)
        flat = [place for place, score in zip(places, scores, strict=True) if not score]
        everywhere = sorted(place for own in all_gather_object(flat) for place in own)
        drawn = dict(zip(everywhere, self._draw(len(everywhere), [seed, iteration]),
                         strict=False))
        kept = [(place, self._keep(rollout.select([number]), score, iteration))
                for number, (place, score) in enumerate(zip(places, scores, strict=True)) if score]
        new = [entry for own in all_gather_object(kept) for entry in own]
        self.groups.extend(group for _, group in sorted(new, key=lambda entry: entry[0]))

        slim = replace(rollout, images=None, signals={}, rewards={}, total_rewards=None,
                       ref_logp=None)  # the reference may have changed since
        mixed = [self._restore(drawn[place], slim, encode) if place in drawn
                 else slim.select([number]) for number, place in enumerate(places)]
        logs = dict(replayed=sum(place in drawn for place in places) / len(places))
        if ages := [iteration - drawn[place]['iteration'] for place in places if place in drawn]:
            logs['replay_age'] = sum(ages) / len(ages)
        return RolloutBatch.concatenate(mixed), logs

    def _scores(self, rollout: RolloutBatch, compared: torch.Tensor) -> list[float]:
        """0 for a group without a signal."""
        assert rollout.advantages is not None
        spread = compared.std(dim=1).cpu() * has_signal(compared).cpu()
        return (rollout.advantages.abs().sum(dim=1).cpu() * spread).tolist()

    def _draw(self, number: int, seed: list[int]) -> Sequence[Group]:
        """Groups without repetition, the same on all processes."""
        weights = np.array([group['score'] for group in self.groups])
        number = min(number, len(weights))
        if not number:
            return []
        chosen = np.random.default_rng(seed).choice(
            len(weights), number, replace=False, p=weights / weights.sum())
        return [self.groups[index] for index in chosen]

    def _keep(self, group: RolloutBatch, score: float, iteration: int) -> Group:
        (sample, ) = group.data_samples
        values = {name: value.cpu() for name in _FIELDS
                  if (value := getattr(group, name)) is not None}
        return dict(values, score=score, iteration=iteration, texts=group.texts,
                    model_image=group.model_images[0].cpu(), question=sample.question,
                    task=sample.get('task'))

    def _restore(self, group: Group, other: RolloutBatch, encode: Callable) -> RolloutBatch:
        """A stored group as a rollout of one prompt, with the devices and the threshold of another
        rollout."""
        sample = DetDataSample(metainfo=dict(question=group['question'], task=group['task']))
        image = group['model_image'].to(other.model_images[0].device)
        values = {name: group[name].to(getattr(other, name).device)
                  for name in _FIELDS if name in group}
        size = len(group['texts'])
        return replace(
            other, data_samples=[sample], model_images=[image], texts=group['texts'],
            parsed=[ParseFailure('no_answer', 'not kept')] * size,
            reasoning_tokens=torch.full((size, ), torch.nan), prompts=encode([image], [sample]),
            **values)

    def state_dict(self) -> list[Group]:
        """Plain data, equal on all processes."""
        return list(self.groups)

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.groups = deque(map(dict, state), maxlen=self.size)
