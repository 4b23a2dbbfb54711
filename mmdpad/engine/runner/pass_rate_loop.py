# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""One pass over the training data that scores responses and trains nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_world_size

from mmdpad.datasets.difficulty import check_told_apart
from mmdpad.datasets.wrappers import change_parts
from mmdpad.engine.hooks import SyncReferenceHook
from mmdpad.registry import HOOKS, LOOPS, is_kind
from mmdpad.structures import RolloutBatch

from .encoding import items_of
from .grpo_loop import GRPOTrainLoop

_OF_TRAINING = ('resume', 'safe_checkpoint', 'answer_pictures', 'curves', 'alarms')


@LOOPS.register_module()
class PassRateLoop(GRPOTrainLoop):
    """:class:`GRPOTrainLoop` without updates, once over the data, for :func:`measuring`.

    Args:
        runner, dataloader: As in mmengine.
        rewards: See :class:`GRPOTrainLoop`.
        max_iters: Ignored; the data set determines it.
        term: The reward term that :func:`.difficulty.pass_rates` needs; None for any.
        **kwargs: See :class:`GRPOTrainLoop`.

    Raises:
        DatasetError: See :func:`.difficulty.check_told_apart`.
    """

    def __init__(self, runner: Any, dataloader: Any, rewards: dict[str, dict], max_iters: int = 1,
                 term: str | None = None, **kwargs: Any) -> None:
        super().__init__(runner, dataloader, 1, rewards, **kwargs)
        check_told_apart(items_of(self.dataloader.dataset))
        step = self.dataloader.batch_size * get_world_size()
        self._max_iters = -(-len(self.dataloader.dataset) // step)
        self.term = term

    def sample(self, data_batch: dict) -> RolloutBatch:
        """As in training, but a run without the term ends before its first response."""
        if self.term not in (None, *self.composition.terms):
            raise ValueError(f'`--term` should be a reward term of the run '
                             f'({", ".join(sorted(self.composition.terms))}), but got '
                             f'{self.term!r}; correct it')
        return super().sample(data_batch)

    def update(self, rollout: RolloutBatch) -> dict[str, float]:
        """Do nothing."""
        return {}


def measuring(config: Config, term: str | None = None) -> Config:
    """The config of a pass over the training data of a config, in order, with its rewards, group
    size and sampling. The rollout log has every response."""
    config = copy.deepcopy(config)
    train_cfg = config.train_cfg
    config.train_cfg = dict(type='mmdpad.PassRateLoop', rewards=train_cfg.get('rewards', {}),
                            term=term)
    loader = {name: value for name, value in config.train_dataloader.items()
              if name != 'batch_sampler'}
    # Assigned, since a config's `update` merges dicts.
    config.train_dataloader = dict(
        loader, sampler=dict(type='DefaultSampler', shuffle=False), drop_last=False,
        dataset=change_parts(loader['dataset'], _without_difficulty))
    config.model.loss = dict(type='mmdpad.GRPOLoss', kl_coef=0.0, entropy_coef=0.0)
    for split in ('val', 'test'):
        for name in ('dataloader', 'cfg', 'evaluator'):
            config[f'{split}_{name}'] = None
    config.param_scheduler = None
    config.custom_hooks = [hook for hook in config.get('custom_hooks') or ()
                           if not is_kind(hook, SyncReferenceHook, HOOKS)]
    hooks = {name: hook for name, hook in (config.get('default_hooks') or {}).items()
             if name not in _OF_TRAINING}
    config.default_hooks = dict(hooks, checkpoint=None, rollout_log=dict(
        type='mmdpad.RolloutLogHook', max_bytes=2**50))
    config.resume = False
    return config


def _without_difficulty(dataset: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in dataset.items() if name != 'difficulty'}
