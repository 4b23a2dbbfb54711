# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Rollouts that are sampled while earlier ones are trained on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmengine.dist import all_gather_object, get_rank, get_world_size

from mmdpad.engine.hooks.exact_resume_hook import RandomState, random_state, set_random_state
from mmdpad.engine.strategies import gathered
from mmdpad.models.rollouts.sampling import Responses
from mmdpad.models.segmentors.started_rollout import StartedRollout
from mmdpad.structures import RolloutBatch

if TYPE_CHECKING:
    from .grpo_loop import GRPOTrainLoop


Kept = dict[str, Any]
"""Plain data of a rollout that waits in a checkpoint."""


class BatchesAhead:
    """The batches of a data loader, in order, of which some can be drawn ahead of time.

    Args:
        batches: The iterator that draws them.
        first: The number of the first batch.
        states: The random states with which an interrupted run drew batches, by number. They are
            drawn with these again, and leave the current states unchanged.

    Attributes:
        states: The random states with which the batches ahead were drawn, by number.
    """

    def __init__(self, batches: Iterator[Any], first: int = 0,
                 states: Mapping[int, RandomState] | None = None) -> None:
        self._batches = batches
        self._next = first
        self._before = dict(states or {})
        self._ahead: deque[Any] = deque()
        self.states: dict[int, RandomState] = {}

    def __iter__(self) -> BatchesAhead:
        return self

    def __next__(self) -> Any:
        self.peek(1)
        self.states.pop(self._next)
        self._next += 1
        return self._ahead.popleft()

    def peek(self, distance: int) -> Any:
        """The batch that is returned after ``distance`` calls of ``next``; 1 for the next one."""
        while len(self._ahead) < distance:
            number, now = self._next + len(self._ahead), random_state()
            self.states[number] = self._before.pop(number, now)
            if self.states[number] is not now:
                set_random_state(self.states[number])
            self._ahead.append(next(self._batches))
            if self.states[number] is not now:
                set_random_state(now)
        return self._ahead[distance - 1]


@dataclass
class Pending:
    """A rollout that is not trained on yet.

    Attributes:
        started: The rollout.
        batch: The number of its batch in the data stream, from 0.
        after: How many iterations had ended when the weights that sample it were taken.
    """

    started: StartedRollout
    batch: int
    after: int


class PendingRollouts:
    """Keeps the rollouts of the next ``loop.max_staleness`` iterations in flight.

    Every process starts and takes the same rollouts in the same order.

    Args:
        loop: The loop that trains on them.

    Attributes:
        staleness: How many iterations had ended between the weights that sampled the last rollout
            of :meth:`take` and that call.
    """

    def __init__(self, loop: GRPOTrainLoop) -> None:
        self.loop = loop
        self.staleness = 0
        self._queue: deque[Pending] = deque()
        self._kept: list[Kept] = []

    def look_ahead(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches, for the loop, of which :meth:`take` draws some ahead of time."""
        if not self.loop.max_staleness:
            return batches
        skipped = self.loop.batches_drawn - self.loop.iter  # others mmengine is going to skip
        self._batches = BatchesAhead(
            batches, skipped, {kept['batch']: kept['random_state'] for kept in self._kept})
        return self._batches

    def take(self, data_batch: dict) -> RolloutBatch:
        """Wait for the next rollout, that of this batch, and start further ones with the current
        weights. All processes then share what their engines guess from, so that it is the same in
        a resumed run."""
        memory = self.loop.guess_memory
        if memory is not None:
            memory.forget_recent()
        if self._kept:
            self._resume(data_batch)
        if not self._queue:
            self._start(data_batch)
        first = self._queue.popleft()
        rollout = self.loop.model.finish_rollout(first.started)
        self.staleness = self.loop.iter - first.after
        self.loop.batches_drawn += 1
        still = self.loop.max_iters - self.loop.iter - 1
        while len(self._queue) < min(self.loop.max_staleness, still):
            self._start(self._batches.peek(len(self._queue) + 1))
        if memory is not None:
            memory.share()
        return rollout

    def close(self) -> None:
        """Forget all rollouts; an engine may leave out those that it has not begun."""
        while self._queue:
            self._queue.popleft().started.future.cancel()

    def state_dict(self) -> list[list[Kept]]:
        """Plain data of the rollouts whose responses every process has: a list for each process.
        Others are sampled anew by a resumed run."""
        if not self.loop.max_staleness:
            return []
        own = []
        for pending in self._queue:
            future = pending.started.future
            if not future.done() or future.exception():
                break
            ids, mask, truncated, logp = future.result().to('cpu')
            own.append(dict(
                batch=pending.batch, after=pending.after, fingerprint=pending.started.fingerprint,
                random_state=self._batches.states[pending.batch], ids=ids.int(), mask=mask,
                truncated=truncated, logp=logp))
        everyone = all_gather_object(own)
        common = min(map(len, everyone))
        return [some[:common] for some in everyone]

    def load_state_dict(self, state: list[list[Kept]]) -> None:
        """Take up the rollouts of an interrupted run, before :meth:`look_ahead`; on another number
        of processes, which get other prompts, they are sampled anew."""
        if len(state) == get_world_size():
            self._kept = state[get_rank()]
        elif any(state):
            self._say_anew(len(state[0]), f'the checkpoint is of {len(state)} process(es), but '
                                          f'there are {get_world_size()}')

    def _start(self, data_batch: dict, kept: Kept | None = None) -> Pending:
        """Start the rollout after those in the queue, in the precision (AMP) of the updates; if it
        is kept, with the responses that were sampled before."""
        loop, batch = self.loop, self.loop.batches_drawn + len(self._queue)
        data = loop.model.data_preprocessor(data_batch, False)
        size, processes = len(data['data_samples']), get_world_size()
        first = batch * size * processes + get_rank()
        # An engine with its own copy of the weights gathers them one at a time.
        module = nullcontext() if loop.model.rollout_engine.copies_weights else gathered(
            loop.model.policy)
        with loop.runner.optim_wrapper.optim_context(loop.runner.model), module:
            started = loop.model.start_rollout(
                **data, seed=loop.runner.seed, responses=_responses_of(kept) if kept else None,
                prompt_numbers=range(first, first + size * processes, processes))
        self._queue.append(Pending(started, batch, kept['after'] if kept else loop.iter))
        return self._queue[-1]

    def _resume(self, data_batch: dict) -> None:
        """Put the rollouts that were kept into the queue, up to the first one that the current
        settings would not have sampled."""
        kept, self._kept = self._kept, []
        for ahead, one in enumerate(kept):
            if self.loop.iter + ahead - one['after'] > self.loop.max_staleness:
                self._say_anew(len(kept) - ahead, f'`train_cfg.max_staleness` is '
                                                  f'{self.loop.max_staleness} now')
                return
            pending = self._start(self._batches.peek(ahead) if ahead else data_batch, one)
            same = pending.started.fingerprint == one['fingerprint']
            if not all(all_gather_object(same)):
                self._queue.pop()
                self._say_anew(len(kept) - ahead, 'their prompts, images or settings differ now')
                return

    def _say_anew(self, number: int, reason: str) -> None:
        self.loop.runner.logger.warning(
            f'--resume: {number} rollout(s) that had been sampled ahead of time are sampled anew, '
            f'since {reason}')


def _responses_of(kept: Kept) -> Responses:
    return Responses(kept['ids'].long(), kept['mask'], kept['truncated'], kept['logp'])
