# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""DPAD's training, top to bottom."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop

from mmdpad.models.segmentors import ReasoningSegmentor
from mmdpad.registry import LOOPS
from mmdpad.rewards import RewardComposition
from mmdpad.rl import group_relative_advantage
from mmdpad.structures import RolloutBatch

from .rollout_stats import describe_rollout


@LOOPS.register_module()
class GRPOTrainLoop(IterBasedTrainLoop):
    """Group relative policy optimisation (arXiv 2402.03300) with named reward terms.

    One iteration: a batch of B prompts from the dataloader, G responses to each, rewards,
    group-relative advantages, and the ordinary ``model.train_step`` on micro-batches of whole
    groups. How many optimizer steps a rollout serves follows from the optimizer wrapper:
    ``B / prompts_per_micro_batch / accumulative_counts``; 1 is on-policy.

    Args:
        runner, dataloader, max_iters, val_begin, val_interval: As in mmengine.
        rewards: Name -> config of a reward term, see :class:`RewardComposition`.
        prompts_per_micro_batch: Prompts (times G responses) in one forward and backward pass;
            None for all B.
    """

    def __init__(self, runner: Any, dataloader: Any, max_iters: int,
                 rewards: dict[str, dict], prompts_per_micro_batch: int | None = None,
                 **kwargs: Any) -> None:
        super().__init__(runner, dataloader, max_iters, **kwargs)
        self.composition = RewardComposition(rewards)
        batch_size = self.dataloader.batch_size
        self.micro = prompts_per_micro_batch or batch_size
        # The reference is the start policy, so it is copied before a resumed policy is loaded.
        if self.model.objective['kl_coef']:
            self.model.build_reference()

    @property
    def model(self) -> ReasoningSegmentor:
        """The segmentor without its distributed wrapper."""
        model = self.runner.model
        return model.module if is_model_wrapper(model) else model

    def run(self) -> torch.nn.Module:
        """Train. See :meth:`run_iter` for one iteration."""
        self._check_batch_sizes()
        self._settle_reference()
        passes = self.dataloader.batch_size // self.micro
        self.runner.optim_wrapper.initialize_count_status(
            self.runner.model, self._iter * passes, self._max_iters * passes)
        return super().run()

    def run_iter(self, data_batch: dict) -> None:
        """Rollout, rewards, advantages, update, log."""
        runner = self.runner
        runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=data_batch)
        start = time.perf_counter()

        rollout = self.sample(data_batch)
        sampled = time.perf_counter()
        self.composition.score(rollout)
        runner.call_hook('after_rollout', rollout=rollout)
        rewards = self.composition.total(rollout)
        rollout.advantages = group_relative_advantage(rewards)
        scored = time.perf_counter()
        runner.call_hook('before_update', rollout=rollout, rewards=rewards)
        logs = self.update(rollout)

        logs.update(describe_rollout(rollout, rewards))
        logs['rollout_time'], logs['reward_time'] = sampled - start, scored - sampled
        tokens = int(rollout.response_mask.sum())
        logs['tokens_per_second'] = tokens / (time.perf_counter() - start)
        runner.call_hook('after_train_iter', batch_idx=self._iter, data_batch=data_batch,
                         outputs=logs)
        self._iter += 1

    def sample(self, data_batch: dict) -> RolloutBatch:
        """G responses to each prompt of the batch, in the arithmetic (AMP) of the updates. The
        responses of an iteration depend on the run's seed, the iteration and the process, not on
        what was drawn before."""
        data = self.model.data_preprocessor(data_batch, False)
        seed = hash((self.runner.seed, self._iter, get_rank())) % 2**31
        with self.runner.optim_wrapper.optim_context(self.runner.model):
            return self.model.rollout(**data, **self.model.sampling, seed=seed)

    def update(self, rollout: RolloutBatch) -> dict[str, float]:
        """Hand the rollout to ``train_step`` in micro-batches; return the mean of its logs."""
        parts = list(rollout.split(self.micro))
        if len(parts) > self.runner.optim_wrapper._accumulative_counts:
            # Several optimizer steps: all of them refer to the policy that sampled.
            with self.runner.optim_wrapper.optim_context(self.runner.model):
                for part in parts:
                    part.old_logp = self.model.old_log_probs(part)
        logs: Counter = Counter()
        for part in parts:
            scalars = self.runner.model.train_step(dict(inputs=part, data_samples=None),
                                                   optim_wrapper=self.runner.optim_wrapper)
            logs.update({name: value.item() / len(parts) for name, value in scalars.items()})
        return dict(logs)

    def _settle_reference(self) -> None:
        """Make the reference equal to the start policy, whether fresh, loaded or resumed."""
        reference, hub = self.model.reference, self.runner.message_hub
        if reference is None:
            return
        if self._iter == 0:
            reference.load_state_dict(self.model.policy.state_dict())
            hub.update_info('start_checkpoint', self.runner._load_from)
        elif hub.get_info('start_checkpoint'):
            # `load_from` replaced the config's weights before the first run; do it again.
            state = torch.load(hub.get_info('start_checkpoint'), map_location='cpu',
                               weights_only=True)
            prefix = 'policy.'
            reference.load_state_dict({key.removeprefix(prefix): value
                                       for key, value in state['state_dict'].items()
                                       if key.startswith(prefix)})

    def _check_batch_sizes(self) -> None:
        batch, counts = self.dataloader.batch_size, self.runner.optim_wrapper._accumulative_counts
        if batch % self.micro or (batch // self.micro) % counts:
            raise ValueError(
                f'`train_dataloader.batch_size` ({batch}) should be divisible by '
                f'`prompts_per_micro_batch` ({self.micro}), and their quotient by '
                f'`optim_wrapper.accumulative_counts` ({counts})')
        if self.model.sampling['group_size'] < 2:
            raise ValueError(f'`model.train_cfg.group_size` should be at least 2 (advantages '
                             f'compare responses of one group), but got '
                             f'{self.model.sampling["group_size"]}')
