# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Ask questions less often whose groups had no signal lately."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence, Sized
from statistics import fmean
from typing import Any

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather_object
from mmengine.logging import print_log
from torch.utils.data import DataLoader

from mmdpad.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class SelectiveSampler(InfiniteSampler):
    """Shuffled passes over the questions, without end, in which questions are passed over that
    taught nothing lately (the selective rollouts of GRESO, arXiv 2506.02177).

    When its turn comes, a question whose last z groups all had no signal (all responses right, or
    all wrong) is asked with the probability

        max(explore^z, min_explore),

    else its turn in this pass is over. :class:`GRPOTrainLoop` tells the sampler which groups had a
    signal. The order is that of ``InfiniteSampler`` without what is passed over.

    Data workers draw batches ahead of time, and how many depends on their number. So the k-th
    prompt of the run depends on what prompts 0 to k - ``delay`` have shown, and on nothing later:
    the order is the same for every number of workers and processes, ahead of time or not,
    and a resumed run repeats it exactly.

    Args:
        dataset: The data set.
        explore: The probability of asking again after one group without a signal, in (0, 1].
        min_explore: Its lower bound, in (0, 1].
        delay: In prompts; at least (b + 1) times the prompts of an iteration on all processes,
            where b is how many batches may be drawn ahead, see :func:`find_short_delay`.
        seed: As in mmengine.

    Raises:
        ValueError: A probability is out of range, or ``delay`` is less than 1.
    """

    def __init__(self, dataset: Sized, explore: float = 0.5, min_explore: float = 0.01,
                 delay: int = 512, seed: int | None = None) -> None:
        for name, value in dict(explore=explore, min_explore=min_explore).items():
            if not 0 < value <= 1:
                raise ValueError(f'`{name}` should be in (0, 1], but got {value}; correct it')
        if delay < 1:
            raise ValueError(f'`delay` should be at least 1 (prompts), but got {delay}; raise it')
        super().__init__(dataset, shuffle=True, seed=seed)
        self.explore, self.min_explore, self.delay = explore, min_explore, delay
        self._signals: list[bool] = []  # of the prompts so far, on all processes
        self._passed: list[int] = []  # how many questions were passed over before each prompt
        self._logged: list[float] = []

    def chance(self, streak: int) -> float:
        """The probability of asking a question whose last groups, so many, had no signal."""
        return max(self.explore**streak, self.min_explore)

    def _infinite_indices(self) -> Iterator[int]:
        """Yield indices for all processes."""
        generator, luck = torch.Generator().manual_seed(self.seed), random.Random(self.seed)
        streaks, asked, passed = [0] * self.size, list[int](), 0
        while True:
            for index in torch.randperm(self.size, generator=generator).tolist():
                chance = self.chance(streaks[index])
                if chance < 1 and luck.random() >= chance:
                    passed += 1
                    continue
                asked.append(index)
                self._passed.append(passed)
                passed = 0
                yield index
                if (known := len(asked) - self.delay) >= 0:
                    past = asked[known]
                    streaks[past] = 0 if self._had_signal(known) else streaks[past] + 1

    def _had_signal(self, prompt: int) -> bool:
        if prompt >= len(self._signals):
            raise RuntimeError(
                f'SelectiveSampler should know whether prompt {prompt} had a signal, but was told '
                f'of {len(self._signals)} prompts; use GRPOTrainLoop, and a batch sampler that '
                f'keeps the order')
        return self._signals[prompt]

    def update(self, signals: Sequence[bool]) -> None:
        """Take what the next batch has shown, on all processes at once.

        Args:
            signals: For each of its prompts on this process, whether its group had a signal.
        """
        first = len(self._signals) + self.rank
        own = range(first, first + len(signals) * self.world_size, self.world_size)
        self._logged.append(fmean(self._passed[prompt] for prompt in own))
        everyone = all_gather_object(list(signals))
        self._signals += [signal for together in zip(*everyone, strict=True)
                          for signal in together]

    def log(self) -> dict[str, float]:
        """``passed_over``: questions that were passed over for each prompt, since the last call."""
        logged, self._logged = self._logged, []
        return dict(passed_over=fmean(logged))

    def state_dict(self) -> dict[str, Any]:
        """Plain data, equal on all processes."""
        return dict(self._settings(), signals=torch.tensor(self._signals, dtype=torch.bool))

    def load_state_dict(self, state: Mapping[str, Any] | None, prompts: int) -> None:
        """Restore what :meth:`state_dict` returned, before the resumed run asks its first question.

        Args:
            state: None if there is none.
            prompts: How many prompts the run has asked for, on all processes. Those that the state
                does not know, or asked for under other settings, count as having a signal.
        """
        state = state or {}
        same = all(state.get(name) == value for name, value in self._settings().items())
        known = state['signals'].tolist()[:prompts] if same else []
        self._signals[:] = known + [True] * (prompts - len(known))
        if len(known) < prompts:
            print_log('--resume: the checkpoint does not say for all past questions whether they '
                      'had a signal, as of other settings of SelectiveSampler, or another batch '
                      'size; fewer are passed over at first', logger='current',
                      level=logging.WARNING)

    def _settings(self) -> dict[str, Any]:
        """What the order depends on, besides signals."""
        return dict(size=self.size, seed=self.seed, explore=self.explore,
                    min_explore=self.min_explore, delay=self.delay)


def find_selective(dataloader: DataLoader, max_staleness: int) -> SelectiveSampler | None:
    """The sampler of a data loader, if it is one of these.

    Raises:
        ValueError: Its ``delay`` is too short.
    """
    sampler = dataloader.sampler
    if not isinstance(sampler, SelectiveSampler):
        return None
    assert dataloader.batch_size is not None
    for problem in find_short_delay(
            sampler.delay, dataloader.batch_size * sampler.world_size, dataloader.num_workers,
            dataloader.prefetch_factor, max_staleness):
        raise ValueError(problem)
    return sampler


def find_short_delay(delay: int, prompts: int, num_workers: int, prefetch_factor: int | None,
                     max_staleness: int) -> Iterator[str]:
    """Yield the problem that batches are drawn before the sampler can know what it needs.

    Args:
        delay: Of the :class:`SelectiveSampler`.
        prompts: Of an iteration on all processes.
        num_workers, prefetch_factor: Of the data loader.
        max_staleness: Of the loop.
    """
    ahead = num_workers * (prefetch_factor or 2) + max_staleness
    needed = prompts * (ahead + 1)
    if delay < needed:
        yield (f'`train_dataloader.sampler.delay` should be at least {needed} (batches of '
               f'{prompts} prompts on all processes, of which up to {ahead} are drawn ahead by '
               f'data workers and `max_staleness`), but got {delay}; raise it')
