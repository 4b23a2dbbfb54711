# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Warns when a run shows one of the known failures of GRPO training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdpad.evaluation.summary import kind_of_main
from mmdpad.registry import HOOKS
from mmdpad.utils import renamed

Rows = list[dict[str, float]]  # logged values of consecutive iterations, each with its 'iter'
Findings = dict[str, str]  # subject of an alarm -> what was seen, and when

HINTS = {
    'reasoning_collapses':
        'Find the term that rewards short reasoning with `mmdpad run reward_by_length`. If there '
        'is none, aggregate by tokens, which does not favor short responses, or raise the KL term '
        "(`model.loss`: `aggregation='token_mean'`, `kl_coef`).",
    'reasoning_vanishes':
        'Give `ThinkingFormatReward` more weight, and look at what is written instead of reasoning '
        '(`mmdpad run show_rollouts`).',
    'sentences_repeat':
        'Add `RepetitionReward` to the rewards, raise '
        '`model.loss.kl_coef`, or lower `optim_wrapper.optimizer.lr`; `--resume` continues with '
        'the new values.',
    'term_saturates':
        'Make the term stricter or graded, or remove it; keep it if it rewards a format that has '
        'been learned.',
    'format_is_never_right':
        'Look at how responses begin and end (`mmdpad run show_rollouts`), and at the start of the '
        'log for what the chat template opens and which tokens end a response. A policy that '
        'cannot write the format yet learns it by supervised training '
        '(configs/dpad/qwen7b_sft.py).',
    'samples_are_outdated':
        'Lower `train_cfg.max_staleness` or `optim_wrapper.optimizer.lr`. If `mismatch/kl` is as '
        'large with `max_staleness=0`, find out why the engine computes other probabilities.',
    'reward_hacking':
        'Use the checkpoint of the best validation, and look for responses that are rewarded '
        'without being right (`mmdpad run show_rollouts`).',
    'not_finite':
        'Resume from a checkpoint before this iteration with `--resume CHECKPOINT` and a lower '
        '`optim_wrapper.optimizer.lr`.',
}


@HOOKS.register_module()
class AlarmHook(Hook):
    """Warns once when an alarm goes off: what was seen, in which iterations, and a hint.

    =========================  ================================================================
    alarm                      goes off when
    =========================  ================================================================
    ``reasoning_collapses``    ``reasoning_tokens`` are below ``length_share`` of their number at
                               first
    ``reasoning_vanishes``     ``empty_think`` is above ``empty_share``
    ``sentences_repeat``       ``repetition`` is above ``repetition``
    ``term_saturates``         every response of a whole window has the same positive reward of a
                               term (spread up to ``flat_std``); once for each term
    ``format_is_never_right``  a term with "format" in its name is 0 for every response of the
                               first window
    ``samples_are_outdated``   the effective sample size ``ess/tokens`` is below ``ess_share``
    ``reward_hacking``         a validation is ``giou_drop`` below the best one before, and the
                               training reward is higher than it was then
    ``not_finite``             a logged value is NaN or infinite; at once, without a window
    =========================  ================================================================

    Values are means over the last ``window`` iterations, "at first" over the first ones; before a
    window is full only ``not_finite`` can go off. Values that are missing or not finite are left
    out of means. Checkpoints hold this state, so a resumed run continues with it; if the arguments
    differ, it may repeat warnings.

    Args:
        window: Iterations of a window.
        length_share: In (0, 1). DPAD's reasoning becomes shorter, by about half in the toy run, so
            the default is well below that.
        empty_share: In [0, 1), share of responses.
        repetition: In [0, 1), see :func:`mmdpad.rewards.repetition`.
        ess_share: In (0, 1], see :func:`mmdpad.rl.effective_sample_sizes`.
        flat_std: Standard deviation, in the term's own unit.
        giou_drop: In percent: of ``reasonseg/giou``, ``detection/f1`` or ``vqa/accuracy``, each by
            itself.
        stop: Names of alarms that end the run after the iteration or validation in which they
            go off; True for all, including a format that has been learned (``term_saturates``).
            What was learned since the last checkpoint is not saved.

    Raises:
        ValueError: An unknown name in ``stop``, or ``window`` is not positive.
    """

    def __init__(self,
                 window: int = 20,
                 length_share: float = 0.25,
                 empty_share: float = 0.5,
                 repetition: float = 0.3,
                 ess_share: float = 0.5,
                 flat_std: float = 0.01,
                 giou_drop: float = 2.0,
                 stop: bool | Sequence[str] = False) -> None:
        if window < 1:
            raise ValueError(f'`window` should be at least 1 (iterations), but got {window}')
        names = set(HINTS if stop is True else stop or ())
        if names - HINTS.keys():
            hints = [f'; {name}: {hint}' for name in sorted(names, key=str)
                     if (hint := renamed.advice('alarm', name))]
            raise ValueError(f'`stop` should be True, False or names of alarms, but got {stop!r}'
                             f'{"".join(hints)}; the names are {", ".join(sorted(HINTS))}')
        self.window = window
        self.length_share, self.empty_share, self.repetition = length_share, empty_share, repetition
        self.ess_share, self.flat_std, self.giou_drop = ess_share, flat_std, giou_drop
        self.stop = names
        self.settings = [window, length_share, empty_share, repetition, ess_share, flat_std,
                         giou_drop, sorted(names)]
        self.history = self._new_history()

    def before_train(self, runner: Runner) -> None:
        """Start a history, or restore the one in the resumed checkpoint."""
        kept = runner.message_hub.get_info('alarms') if runner.iter else None
        self.history = kept or self._new_history()
        if self.history.get('settings', self.settings) != self.settings:
            self.history['reported'].clear()
            del self.history['first'][self.window:]
        self.history['settings'] = self.settings
        runner.message_hub.update_info('alarms', self.history)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict[str, float] | None = None) -> None:
        """Look at the values of an iteration. They should be the same on every process."""
        row = {name: torch.as_tensor(value).item() for name, value in (outputs or {}).items()}
        row['iter'] = runner.iter + 1
        first, recent = self.history['first'], self.history['recent']
        if row['iter'] <= self.window:
            first.append(row)
        recent.append(row)
        del recent[:-self.window]
        self._report(runner, 'not_finite', not_finite(row))
        if len(recent) == self.window:
            self._report(runner, 'reasoning_collapses',
                         reasoning_collapses(first, recent, self.length_share))
            self._report(runner, 'reasoning_vanishes',
                         exceeds(recent, 'empty_think', self.empty_share))
            self._report(runner, 'sentences_repeat',
                         exceeds(recent, 'repetition', self.repetition))
            self._report(runner, 'samples_are_outdated',
                         samples_are_outdated(recent, self.ess_share))
            self._report(runner, 'term_saturates', term_saturates(recent, self.flat_std))
            self._report(runner, 'format_is_never_right', format_is_never_right(first))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Compare a validation during training with earlier ones."""
        reward = mean_of(self.history['recent'], 'reward')
        found = {name: float(value) for name, value in (metrics or {}).items()
                 if kind_of_main(name) and math.isfinite(value)}
        if reward is None or not found:
            return
        validations = self.history['validations']
        validations.append(dict(iter=runner.iter, reward=reward, **found))
        for name in found:
            self._report(runner, 'reward_hacking',
                         reward_hacking(validations, name, self.giou_drop))

    def _new_history(self) -> dict[str, list]:
        """Plain lists, because checkpoints hold them."""
        return dict(first=[], recent=[], validations=[], reported=[], settings=self.settings)

    def _report(self, runner: Runner, alarm: str, findings: Findings) -> None:
        for subject, seen in findings.items():
            name = f'{alarm} ({subject})'
            if name in self.history['reported']:
                continue
            self.history['reported'].append(name)
            stops = alarm in self.stop
            runner.logger.warning(f'Alarm {name}: {seen}. {HINTS[alarm]}'
                                  + (' The run is stopped.' if stops else ''))
            if stops:
                runner.train_loop.stop_training = True


def reasoning_collapses(first: Rows, recent: Rows, share: float) -> Findings:
    """Whether the reasoning is shorter than ``share`` of its initial length."""
    start, now = mean_of(first, 'reasoning_tokens'), mean_of(recent, 'reasoning_tokens')
    if start is None or now is None or now >= share * start:
        return {}
    return {'reasoning_tokens':
            f'{now:.1f} in {_span(recent)}, after {start:.1f} in {_span(first)}'}


def exceeds(recent: Rows, name: str, limit: float) -> Findings:
    """Whether the mean of a value is above ``limit``."""
    now = mean_of(recent, name)
    if now is None or now <= limit:
        return {}
    return {name: f'{now:.2f} in {_span(recent)}, above {limit}'}


def samples_are_outdated(recent: Rows, share: float) -> Findings:
    """Whether an update uses less than ``share`` of its tokens, by their importance weights."""
    now = mean_of(recent, 'ess/tokens')
    if now is None or now >= share:
        return {}
    return {'ess/tokens': f'{now:.2f} in {_span(recent)}, below {share}'}


def term_saturates(recent: Rows, flat_std: float) -> Findings:
    """Which terms give every response of all iterations the same positive reward."""
    found = {}
    for name in recent[-1]:
        term = name.removeprefix('reward/')
        means = [row.get(name, math.nan) for row in recent]
        stds = [row.get(f'reward_std/{term}', math.nan) for row in recent]
        if (term != name and all(mean > 0 for mean in means)
                and max(means) - min(means) <= flat_std and all(std <= flat_std for std in stds)):
            found[term] = (f'{means[-1]:.3g} for every response of {_span(recent)}, so that it '
                           f'gives no signal')
    return found


def format_is_never_right(first: Rows) -> Findings:
    """Which terms with "format" in their names are 0 for every response of all iterations."""
    return {name.removeprefix('reward/'): f'0 for every response of {_span(first)}'
            for name in first[-1] if name.startswith('reward/') and 'format' in name
            and all(row.get(name) == 0 for row in first)}


def reward_hacking(validations: Rows, metric: str, drop: float) -> Findings:
    """Whether the last validation is worse than the best before, although the reward rose.

    Args:
        validations: ``iter``, ``reward`` (of training, at that time), and numbers by name.
        metric: Name of a number, in percent, which the last one has.
        drop: Loss that counts.
    """
    *before, last = [row for row in validations if metric in row]
    if not before:
        return {}
    best = max(before, key=lambda row: row[metric])
    rewards = best['reward'], last['reward']
    if last[metric] > best[metric] - drop or rewards[1] <= rewards[0]:
        return {}
    return {metric: f'{last[metric]:.1f} at iteration {last["iter"]}, after {best[metric]:.1f} at '
                    f'iteration {best["iter"]}, while the training reward rose from '
                    f'{rewards[0]:.3f} to {rewards[1]:.3f}'}


def not_finite(row: dict[str, float]) -> Findings:
    """Whether a value is NaN or infinite."""
    values = [f'{name} = {value}' for name, value in row.items() if not math.isfinite(value)]
    return {'values': f'{", ".join(values)} at iteration {row["iter"]}'} if values else {}


def mean_of(rows: Rows, name: str) -> float | None:
    """Mean over the rows that have a finite value of this name; None if none has."""
    values = [row[name] for row in rows if math.isfinite(row.get(name, math.nan))]
    return fmean(values) if values else None


def _span(rows: Rows) -> str:
    return f'iterations {rows[0]["iter"]}-{rows[-1]["iter"]}'
