# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks that the settings of a GRPO run are compatible."""

from __future__ import annotations


def find_wrong_settings(*, batch_size: int, prompts_per_update: int, accumulative_counts: int,
                        tokens_per_micro_batch: int | None, num_iterations: int,
                        max_refills: int, max_staleness: int, max_skipped_steps: int,
                        replay_size: int, is_sharded: bool, group_size: int,
                        converses: bool = False) -> list[str]:
    """The problems with the settings of :class:`GRPOTrainLoop` and related ones, one sentence each;
    empty if they are valid."""
    problems = []
    if prompts_per_update < 1:
        problems.append(f'`prompts_per_update` should be at least 1, but got {prompts_per_update}; '
                        f'correct it')
    elif batch_size % prompts_per_update:
        problems.append(f'`train_dataloader.batch_size` ({batch_size}) should be divisible by '
                        f'`prompts_per_update` ({prompts_per_update}); change one of them')
    if accumulative_counts != 1:
        problems.append(f'`optim_wrapper.accumulative_counts` should be 1 (the loop itself '
                        f'accumulates over micro-batches), but got {accumulative_counts}; leave '
                        f'it out')
    if tokens_per_micro_batch is not None and tokens_per_micro_batch < 1:
        problems.append(f'`tokens_per_micro_batch` should be positive or None, but got '
                        f'{tokens_per_micro_batch}; correct it')
    if num_iterations < 1 or max_refills < 0:
        problems.append(f'`num_iterations` should be at least 1 and `max_refills` at least '
                        f'0, but got {num_iterations} and {max_refills}; correct them')
    if max_staleness < 0:
        problems.append(f'`max_staleness` should be at least 0 (iterations), but got '
                        f'{max_staleness}; correct it')
    elif max_staleness and max_refills:
        problems.append(f'`max_refills` should be 0 with `max_staleness` ({max_staleness}), since '
                        f'the update would wait for the refills, but got {max_refills}; set one of '
                        f'them to 0')
    if replay_size < 0:
        problems.append(f'`replay_size` should be at least 0 (groups), but got {replay_size}; '
                        f'correct it')
    elif replay_size and is_sharded:
        problems.append(f'`replay_size` should be 0 with sharded weights (FSDP2Strategy), since '
                        f'processes would encode different numbers of images, but got '
                        f'{replay_size}; leave it out')
    if converses:
        problems += [f'`{name}` should be 0 with `model.conversation`, whose turns follow each '
                     f'other and are not kept, but got {value}; leave one of them out'
                     for name, value in dict(max_staleness=max_staleness,
                                             replay_size=replay_size).items() if value > 0]
    if max_skipped_steps < 0:
        problems.append(f'`max_skipped_steps` should be at least 0, but got {max_skipped_steps}; '
                        f'correct it')
    if group_size < 2:
        problems.append(f'`model.train_cfg.group_size` should be at least 2 (advantages compare '
                        f'responses of one group), but got {group_size}; raise it')
    return problems
