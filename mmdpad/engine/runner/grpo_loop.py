# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The training loop of DPAD."""

from __future__ import annotations

import math
import os.path as osp
import time
from contextlib import closing
from dataclasses import replace
from statistics import mean
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, get_rank, get_world_size
from mmengine.runner import IterBasedTrainLoop
from torch import Tensor

from mmdpad.datasets.samplers.selective_sampler import find_selective
from mmdpad.engine.strategies import is_sharded, load_part
from mmdpad.engine.unwrap import unwrap
from mmdpad.models.non_finite import (
    DTYPE_KEY,
    NonFiniteError,
    describe_sample,
    explain,
    watched_outputs,
)
from mmdpad.models.rollouts import RolloutEngine
from mmdpad.models.rollouts.guess_memory import GuessMemory
from mmdpad.models.segmentors import ReasoningSegmentor
from mmdpad.registry import LOOPS
from mmdpad.rewards import RewardComposition
from mmdpad.rl import effective_sample_sizes, entropy_threshold, has_signal
from mmdpad.structures import LossScale, RolloutBatch

from .encoding import build_encoding_dataloader, check_training_data, tasks_asked
from .finite import StepRefused, lower_loss_scale, refused_steps, save_rollout
from .group_comparison import GroupComparison, check_comparison
from .pending_rollouts import PendingRollouts
from .replay import ReplayBuffer
from .rollout_stats import describe_rollout
from .settings import find_wrong_settings


@LOOPS.register_module()
class GRPOTrainLoop(IterBasedTrainLoop):
    """Group relative policy optimization (arXiv 2402.03300) with named reward terms.

    One iteration: a batch of B prompts from the dataloader, G responses to each, rewards,
    group-relative advantages, and the usual ``model.train_step`` on micro-batches of complete
    groups. A rollout serves ``num_iterations * B / prompts_per_update`` optimizer steps; 1 is
    on-policy. The loop accumulates gradients over as many micro-batches as a step needs.

    A batch of B prompts on one process, or of B / W on each of W processes, gives the same update
    (up to rounding), however it is split into micro-batches.

    Args:
        runner, dataloader, max_iters, val_begin, val_interval: As in mmengine.
        rewards: Name -> config of a reward term; see :class:`RewardComposition`. Hooks may add more
            (:class:`RewardHook`).
        prompts_per_update: Prompts (times G responses) in one optimizer step; None for all B.
        tokens_per_micro_batch: Maximum number of tokens in one forward and backward pass; a prompt
            (with its image) counts once for all its responses. A larger group forms a micro-batch
            of its own. The setting only bounds the memory of an update. None: one micro-batch for
            each optimizer step.
        advantage: Estimator of :func:`mmdpad.rl.compute_advantages`; its batches are of one task.
        num_iterations: How many times each rollout is used for updates.
        max_refills: Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): groups whose rewards
            are all equal are replaced with groups of further prompts, from at most this many
            further batches per iteration. Groups without a signal fill what is still missing. In a
            mixture of tasks, groups are replaced whatever their task. 0 keeps every group.
        replay_size: How many of the latest groups with a signal are kept to replace groups without
            one, after refills (:class:`ReplayBuffer`). 0 turns it off.
        max_staleness: Iterations that a rollout may be behind: iteration i trains on responses that
            were sampled by the weights before iteration i - max_staleness (the first ones by the
            start policy), while earlier iterations ran. It saves time with an engine that samples
            elsewhere. The loss corrects for it (:meth:`PolicyLoss.correct_staleness`). 0: sample,
            then update.
        max_skipped_steps: An optimizer step whose gradients are NaN or infinite is skipped and
            counted (``skipped_steps``, their share in an iteration). More than this many in a row
            end the run and save the last batch as ``not_finite_iter_N_rank_R.pth``. Steps in which
            a loss scaler searches for a float16 scale do not count here.
    """

    dataloader_iterator: Any

    def __init__(self, runner: Any, dataloader: Any, max_iters: int,
                 rewards: dict[str, dict], prompts_per_update: int | None = None,
                 tokens_per_micro_batch: int | None = None, advantage: str = 'grpo',
                 num_iterations: int = 1, max_refills: int = 0, replay_size: int = 0,
                 max_staleness: int = 0, max_skipped_steps: int = 5, **kwargs: Any) -> None:
        unwrap(runner.model).check_trainable()
        if max_staleness > 0:
            unwrap(runner.model).allow_staleness()
        dataloader = build_encoding_dataloader(runner, dataloader)
        self.selective = find_selective(dataloader, max_staleness)
        super().__init__(runner, dataloader, max_iters, **kwargs)
        check_training_data(self.dataloader.dataset)
        self.composition = RewardComposition(rewards)
        self.prompts_per_update = prompts_per_update or self.dataloader.batch_size
        self.tokens_per_micro_batch = tokens_per_micro_batch
        check_comparison(advantage, self.model.objective)
        self.comparison = GroupComparison(advantage, self.composition)
        self.num_iterations = num_iterations
        self.max_refills = max_refills
        self.replay = ReplayBuffer(replay_size)
        self.max_staleness = max_staleness
        self.max_skipped_steps = max_skipped_steps
        self.batches_drawn = 0  # without those of pending rollouts
        self.pending = PendingRollouts(self)
        self.skipped_in_a_row = 0
        # The reference is the initial policy, so it is copied before a resumed policy is loaded.
        self.model.build_reference()

    @property
    def model(self) -> ReasoningSegmentor:
        """The segmentor without its distributed wrapper."""
        return unwrap(self.runner.model)

    @property
    def guess_memory(self) -> GuessMemory | None:
        """See :meth:`.RolloutEngine.memory_of`."""
        return self.model.rollout_engine.memory_of(self.model.policy)

    @property
    def updates(self) -> int:
        """The number of optimizer steps in one iteration."""
        return self.num_iterations * self.dataloader.batch_size // self.prompts_per_update

    def run(self) -> torch.nn.Module:
        """Train; see :meth:`run_iter` for one iteration."""
        self._check_settings()
        self.composition.prepare(self.model, self.dataloader.dataset)
        self.tasks = [name or next(iter(self.model.tasks))
                      for name in tasks_asked(self.dataloader.dataset)]
        self._settle_reference()
        self._settle_resumed_state()
        self.dataloader_iterator = self.pending.look_ahead(self.dataloader_iterator)
        with refused_steps(self.runner.optim_wrapper), closing(self.pending):
            return super().run()

    def run_iter(self, data_batch: dict) -> None:
        """Rollout, rewards, advantages, update, log."""
        runner = self.runner
        runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=data_batch)
        start = time.perf_counter()

        rollout, logs = self.collect(data_batch)
        objective = self.model.objective
        if objective.needs_pass_before_update or self.updates > 1 or self.replay.size:
            rollout = self.keep_log_probs(rollout)
        compared = self.comparison.compared(rollout)  # a penalty gives no group a signal
        if objective.penalizes_rewards:
            penalty = objective.reward_penalty(rollout)
            assert rollout.total_rewards is not None
            rollout.total_rewards = rollout.total_rewards - penalty
            logs['kl_penalty'] = float(penalty.mean())
        rollout.advantages = self.comparison.advantages(rollout, len(self.model.tasks))
        runner.call_hook('before_update', rollout=rollout)
        if self.replay.size:
            rollout, replayed = self.replay.exchange(
                rollout, compared, self._iter, runner.seed, self.encode)
            logs |= replayed
        collected = time.perf_counter()
        logs.update(self.update(rollout))

        logs['rollout_time'] = collected - start
        tokens = int(rollout.response_mask.sum())
        logs['tokens_per_second'] = tokens / (time.perf_counter() - start)
        logs = effective_sample_sizes(mean_over_processes(logs))
        objective.after_iteration(logs)
        runner.message_hub.update_info('grpo_loop', self.state_dict())
        runner.call_hook('after_train_iter', batch_idx=self._iter, data_batch=data_batch,
                         outputs=logs)
        self._iter += 1

    def collect(self, data_batch: dict) -> tuple[RolloutBatch, dict[str, float]]:
        """Sample and score a rollout of B groups, and describe it for the log. With refills, it
        has as many groups with a signal as were found. The log describes all samples."""
        pool = self.sample(data_batch)
        size, refills = pool.num_prompts, 0
        while refills < self.max_refills and self._is_short(pool, size):
            pool = RolloutBatch.concatenate([pool, self.sample(next(self.dataloader_iterator))])
            refills += 1
        compared = self.comparison.compared(pool)
        logs = describe_rollout(pool, self.model.tasks, compared)
        logs['staleness'] = float(self.pending.staleness)
        if (memory := self.guess_memory) is not None:
            logs |= memory.log
        if self.selective is not None:
            logs |= self.selective.log()
        if self.max_refills:
            logs['refills'] = float(refills)
            best_first = has_signal(compared).logical_not().argsort(stable=True)
            pool = pool.select(best_first[:size].tolist())
        return pool, logs

    def sample(self, data_batch: dict) -> RolloutBatch:
        """Get G responses to each prompt of the batch, sampled now or ahead of time
        (:class:`PendingRollouts`), and compute every reward term and the sum.

        The sample for a response depends on the run's seed, the prompt's position in the data
        stream and the response's position in its group, but not on earlier samples, micro-batches
        or processes.
        """
        self.composition.check_terms(self.tasks)
        rollout = self.pending.take(data_batch)
        self.composition.score(rollout)
        self.runner.call_hook('after_rollout', rollout=rollout)
        rollout.total_rewards = self.composition.total(rollout)
        if self.selective is not None:
            self.selective.update(has_signal(self.comparison.compared(rollout)).tolist())
        return rollout

    def keep_log_probs(self, rollout: RolloutBatch) -> RolloutBatch:
        """Add log-probabilities to the rollout, computed in micro-batches: those of the sampling
        policy, which several optimizer steps refer to, those of the reference, and entropies with
        the threshold for the loss, over all processes."""
        parts = list(rollout.pack(self.tokens_per_micro_batch))
        with self.runner.optim_wrapper.optim_context(self.runner.model):
            for part in [*parts, *self._fillers(parts)]:
                part.old_logp, part.ref_logp, part.old_entropy = self.model.log_probs(part)
        rollout = RolloutBatch.concatenate(parts)
        if rollout.old_entropy is not None:
            own = rollout.old_entropy[self.model.objective.token_mask(rollout)].cpu()
            rollout.entropy_threshold = entropy_threshold(
                torch.cat(all_gather_object(own)), self.model.objective.top_entropy_quantile)
        return rollout

    def encode(self, images: list[Tensor], samples: list[Any]) -> list[Any]:
        """See :meth:`ReasoningSegmentor.encode_prompts`."""
        return self.model.encode_prompts(dict(model_image=images), samples)

    def update(self, rollout: RolloutBatch) -> dict[str, float]:
        """Take the optimizer steps for a rollout, and return the mean of their logs."""
        logs = [self.optimizer_step(list(part.pack(self.tokens_per_micro_batch)))
                for _ in range(self.num_iterations)
                for part in rollout.split(self.prompts_per_update)]
        return _mean_by_name(logs)

    def optimizer_step(self, parts: list[RolloutBatch]) -> dict[str, float]:
        """Pass micro-batches to ``train_step``, which steps after the last; return their mean log.

        The losses are scaled so that their mean is the loss of the complete batch of all processes,
        however each process splits its part into micro-batches.
        """
        wrapper = self.runner.optim_wrapper
        passes = [*self._fillers(parts), *parts]
        wrapper._accumulative_counts = len(passes)
        wrapper.initialize_count_status(self.runner.model, 0, len(passes))
        masks = map(self.model.objective.token_mask, parts)
        totals = torch.tensor([LossScale.of(mask) for mask in masks], dtype=torch.float64).sum(0)
        all_reduce(totals, 'mean')
        logs, skipped = [], 0.0
        try:
            for part in passes:
                if part.loss_scale is None:
                    part.loss_scale = LossScale(*(totals / len(passes)).tolist())
                scalars = self.runner.model.train_step(dict(inputs=part, data_samples=None),
                                                       optim_wrapper=wrapper)
                logs.append({name: value.item() for name, value in scalars.items()})
            self.skipped_in_a_row = 0
        except StepRefused:  # in the last pass, which then has no log
            skipped = 1.0
            searching = lower_loss_scale(wrapper)
            wrapper.zero_grad()
            if not searching:
                self._count_skipped(parts)
        return _mean_by_name(logs) | dict(skipped_steps=skipped)

    def _count_skipped(self, parts: list[RolloutBatch]) -> None:
        self.skipped_in_a_row += 1
        self.runner.logger.warning(
            f'The gradients of iteration {self._iter + 1} are not finite; its step is skipped '
            f'({self.skipped_in_a_row} in a row)')
        if self.skipped_in_a_row <= self.max_skipped_steps:
            return
        path = osp.join(self.runner.log_dir,
                        f'not_finite_iter_{self._iter + 1}_rank_{get_rank()}.pth')
        save_rollout(RolloutBatch.concatenate(parts), path)
        first = self._iter + 1 - (self.skipped_in_a_row - 1) // self.updates
        raise NonFiniteError(
            f'the gradients of {self.skipped_in_a_row} steps in a row were not finite, more than '
            f'`train_cfg.max_skipped_steps` ({self.max_skipped_steps}); the last batch is in '
            f'{path}, its responses in rollouts.jsonl. {self._explain_non_finite(parts)}. To '
            f'continue, use --resume CHECKPOINT with one from before iteration {first} and a lower '
            f'`optim_wrapper.optimizer.lr`')

    def _explain_non_finite(self, parts: list[RolloutBatch]) -> str:
        """Find where NaN and infinity start by repeating the forward passes on all processes."""
        model, found, about = self.model, list[str](), ''
        with watched_outputs(model.policy.model) as seen, self.runner.optim_wrapper.optim_context(
                self.runner.model):
            for part in [*parts, *self._fillers(parts)]:
                logp, *_ = model.log_probs(part)
                rows = logp.isfinite().all(dim=1).logical_not().nonzero()
                if rows.numel() and not about:
                    sample = part.data_samples[int(rows[0]) // part.group_size]
                    found, about = list(seen), f' {describe_sample(sample)}'
        if not about:
            return ('The forward pass is finite on this process, so the gradients overflow in the '
                    'backward pass, or the problem is on another process')
        return f'{explain(model.policy.model, found, DTYPE_KEY)}.{about}'

    def _fillers(self, parts: list[RolloutBatch]) -> list[RolloutBatch]:
        """Extra micro-batches that give every process as many passes as the one with the most, if
        the weights are sharded: repetitions of a group with zero weight in the loss."""
        if not is_sharded(self.model):
            return []
        missing = max(all_gather_object(len(parts))) - len(parts)
        filler = replace(parts[0].select([0]), loss_scale=LossScale(math.inf, math.inf))
        return [replace(filler) for _ in range(missing)]

    def state_dict(self) -> dict[str, Any]:
        """The plain data that a resumed run needs; equal on all processes."""
        memory = self.guess_memory
        return dict(batches_drawn=self.batches_drawn, rewards=self.composition.state_dict(),
                    loss=self.model.objective.state_dict(),
                    spread=self.comparison.spread.state_dict(), replay=self.replay.state_dict(),
                    skipped_in_a_row=self.skipped_in_a_row, pending=self.pending.state_dict(),
                    guesses=None if memory is None else memory.state_dict(),
                    selective=None if self.selective is None else self.selective.state_dict())

    def _is_short(self, rollout: RolloutBatch, size: int) -> bool:
        """Whether any process has fewer than ``size`` groups with a signal."""
        missing = int(has_signal(self.comparison.compared(rollout)).sum()) < size
        return any(all_gather_object(missing))

    def _settle_resumed_state(self) -> None:
        """Restore the position in the data stream and the state of reward terms on resume."""
        state = self.runner.message_hub.get_info('grpo_loop') if self._iter else None
        self.batches_drawn = self._iter if state is None else state['batches_drawn']
        if self.selective is not None:
            self.selective.load_state_dict(
                (state or {}).get('selective'),
                self.batches_drawn * self.dataloader.batch_size * get_world_size())
        if state is None:
            return
        self.skipped_in_a_row = state.get('skipped_in_a_row', 0)  # older checkpoints have none
        self.composition.load_state_dict(state['rewards'])
        self.model.objective.load_state_dict(state.get('loss', {}))
        self.comparison.spread.load_state_dict(state.get('spread', {}))
        self.replay.load_state_dict(state.get('replay', []))
        self.pending.load_state_dict(state.get('pending', []))
        if (memory := self.guess_memory) is not None:
            if state.get('guesses') is None:
                self.runner.logger.warning(
                    '--resume: the checkpoint has no past rollouts to guess tokens from, so the '
                    'first rollouts take longer, and numbers may differ by rounding from those of '
                    'an uninterrupted run')
            else:
                memory.load_state_dict(state['guesses'])
        for _ in range(self.batches_drawn - self._iter):  # mmengine skips one per iteration
            next(self.dataloader_iterator)

    def _settle_reference(self) -> None:
        """Make the reference equal to the initial policy in a fresh, loaded or resumed run."""
        reference, hub = self.model.reference, self.runner.message_hub
        if self._iter == 0:  # also without a reference, since a resumed run may add one
            hub.update_info('start_checkpoint', self.runner._load_from)
        if reference is None:
            return
        if self._iter == 0:
            reference.load_state_dict(self.model.policy.state_dict())
        elif hub.get_info('start_checkpoint'):
            # In the first run, `load_from` replaced the config's weights; repeat that here.
            load_part(reference, hub.get_info('start_checkpoint'), 'policy.')

    def _check_settings(self) -> None:
        problems = find_wrong_settings(
            batch_size=self.dataloader.batch_size, prompts_per_update=self.prompts_per_update,
            accumulative_counts=self.runner.optim_wrapper._accumulative_counts,
            tokens_per_micro_batch=self.tokens_per_micro_batch,
            num_iterations=self.num_iterations, max_refills=self.max_refills,
            max_staleness=self.max_staleness, max_skipped_steps=self.max_skipped_steps,
            replay_size=self.replay.size, is_sharded=is_sharded(self.model),
            group_size=self.model.sampling['group_size'],
            converses=self.model.conversations is not None)
        if problems:
            raise ValueError('\n'.join(problems))
        engine = type(self.model.rollout_engine)
        if self.max_staleness and engine.submit is RolloutEngine.submit:
            self.runner.logger.warning(
                f'`train_cfg.max_staleness` is {self.max_staleness}, but {engine.__name__} samples '
                f'while updates wait: rollouts are older than they need to be, and no time is '
                f'saved; leave it out, or use VLLMServerRollout')


def mean_over_processes(logs: dict[str, float]) -> dict[str, float]:
    """The mean of each number over the processes that have it."""
    return _mean_by_name(all_gather_object(logs))


def _mean_by_name(logs: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each number over the logs that have it; for a maximum, the maximum."""
    names = dict.fromkeys(name for one in logs for name in one)
    return {name: (max if '/max_' in name else mean)([one[name] for one in logs if name in one])
            for name in names}
