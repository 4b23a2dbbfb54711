# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Logs the policy's responses during training."""

from __future__ import annotations

import os
import os.path as osp
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmdpad.registry import HOOKS
from mmdpad.structures import ParseFailure, RolloutBatch
from mmdpad.utils import to_jsonl


@HOOKS.register_module()
class RolloutLogHook(Hook):
    """Appends one JSON line per response to ``rollouts.jsonl`` in the run's log directory.

    Each process has a file of its own, those after the first ``rollouts_rank1.jsonl`` and so on.
    A resumed run starts a new file, since it has a new log directory. The lines of an iteration
    are written in one call, before the update, so they exist even if the update fails.
    ``tools/analysis_tools/show_rollouts.py`` shows the content of a file. Keys of a line:

    - ``iter``, from 1, as in the log; ``group`` (prompt of the batch) and ``index`` (response of
      the group), from 0;
    - ``id``, ``image`` (path), ``question`` and ``task`` of the prompt; null where it has none;
    - ``response``, the complete text, of a conversation its last turn; ``failure``, the reason if
      the answer cannot be used, else null; ``truncated``;
    - ``rewards``, each term, unweighted, null where it does not score the task; ``total``, their
      weighted sum; ``advantage``; ``signals``, null where a response has none;
    - ``conversation``, if the model holds them, see
      :meth:`mmdpad.structures.ConversationRecord.describe`.

    Args:
        interval: Write every so many iterations.
        max_bytes: Maximum size of a file. Once the lines of an iteration no longer fit, they and
            all later ones are left out, with one warning. The published recipe writes about 0.3 MB
            per iteration (an estimate).

    Raises:
        ValueError: ``interval`` or ``max_bytes`` is not positive.
    """

    def __init__(self, interval: int = 1, max_bytes: int = 2**30) -> None:
        for name, value in (('interval', interval), ('max_bytes', max_bytes)):
            if value < 1:
                raise ValueError(f'`{name}` should be at least 1, but got {value}; to write no '
                                 f'rollouts set `default_hooks.rollout_log=None`')
        self.interval = interval
        self.max_bytes = max_bytes
        self._full = False

    def before_update(self, runner: Runner, rollout: RolloutBatch) -> None:
        """Write a rollout.

        Args:
            runner: The runner.
            rollout: A rollout with reward terms, their sum and advantages.
        """
        if self._full or not self.every_n_train_iters(runner, self.interval):
            return
        rank = get_rank()
        path = osp.join(runner.log_dir, f'rollouts_rank{rank}.jsonl' if rank else 'rollouts.jsonl')
        lines = to_jsonl(rows_of(rollout, runner.iter + 1))
        size = os.path.getsize(path) if osp.exists(path) else 0
        if size + len(lines) > self.max_bytes:
            self._full = True
            runner.logger.warning(
                f'{path} has {size} bytes and would exceed `max_bytes` ({self.max_bytes}) with '
                f'iteration {runner.iter + 1}: no more rollouts are written. Raise `max_bytes` or '
                f'`interval` of RolloutLogHook for a longer record')
            return
        with open(path, 'ab', buffering=len(lines)) as file:  # a single write
            file.write(lines)


def rows_of(rollout: RolloutBatch, iteration: int) -> list[dict[str, Any]]:
    """The lines of :class:`RolloutLogHook` in row order."""
    terms, signals = _rows(rollout.rewards), _rows(rollout.signals)
    assert rollout.total_rewards is not None and rollout.advantages is not None
    totals = rollout.total_rewards.flatten().tolist()
    advantages = rollout.advantages.flatten().tolist()
    truncated = rollout.truncated.tolist()
    rows = []
    for row, (text, parsed) in enumerate(zip(rollout.texts, rollout.parsed, strict=True)):
        group, index = divmod(row, rollout.group_size)
        sample = rollout.data_samples[group]
        rows.append(dict(
            iter=iteration, group=group, index=index, id=sample.get('img_id'),
            image=sample.get('img_path'), question=sample.get('question'),
            task=sample.get('task'), response=text,
            failure=parsed.reason if isinstance(parsed, ParseFailure) else None,
            truncated=truncated[row],
            rewards={name: values[row] for name, values in terms.items()}, total=totals[row],
            advantage=advantages[row],
            signals={name: values[row] for name, values in signals.items()},
            **(dict(conversation=rollout.conversations[row].describe())
               if rollout.conversations else {})))
    return rows


def _rows(tensors: dict[str, Tensor]) -> dict[str, list[float]]:
    """Name -> (B, G) tensor as name -> B * G numbers."""
    return {name: tensor.flatten().tolist() for name, tensor in tensors.items()}
