# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks `model.train_cfg`, `model.test_cfg`, `model.loss` and SFT targets, alone and together."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmdpad.geometry.crops import CropLimits
from mmdpad.models.rollouts.sampling import check_sampling
from mmdpad.models.selectors import ConsensusSelector
from mmdpad.models.selectors.building import SELECTORS, as_config
from mmdpad.registry import MODELS, is_kind
from mmdpad.rl import PolicyLoss
from mmdpad.utils import renamed
from mmdpad.utils.number_checks import check_number

TRAIN_CFG = dict(group_size=8, temperature=1.0, max_new_tokens=1300, top_p=1.0, top_k=0)
"""Sampling settings of rollouts; the published values."""
TEST_CFG = dict(temperature=0.0, max_new_tokens=1024)
CONVERSATION: dict[str, Any] = dict(max_turns=2, max_tokens=4096, limits=None,
                                    decode_in_crop=False)
"""Settings of conversations, see :func:`conversation_settings`."""
CHOICE = ('num_samples', *SELECTORS, 'abstain_below', 'compare_greedy')
"""Keys of `model.test_cfg` that say how to choose among several answers, see
:class:`mmdpad.models.segmentors.choosing.Choice`."""


def training_sampling(train_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `model.train_cfg` into :data:`TRAIN_CFG`, the sampling settings of rollouts.

    Raises:
        ValueError: A key is unknown, or a value is out of range.
    """
    if unknown := sorted(train_cfg.keys() - TRAIN_CFG.keys()):
        hints = [f'; {name}: {hint}' for name in unknown
                 if (hint := renamed.advice('sampling', name))]
        raise ValueError(f'`train_cfg` of the model should have keys among {sorted(TRAIN_CFG)}, '
                         f'but got {unknown}{"".join(hints)}')
    sampling = TRAIN_CFG | dict(train_cfg)
    check_number('train_cfg.temperature', sampling['temperature'], 'positive', lambda t: t > 0)
    sampling = check_sampling(sampling, 'train_cfg')
    sampling['group_size'] = check_number('train_cfg.group_size', sampling['group_size'],
                                          'at least 1', lambda n: n >= 1, True)
    return sampling


def evaluation_sampling(test_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `model.test_cfg` into :data:`TEST_CFG`, the sampling settings of evaluation.

    Returns:
        Arguments of a rollout engine: without :data:`CHOICE`, and with ``group_size`` if
        ``num_samples`` is set; the default temperature is then 1.

    Raises:
        ValueError: A value is out of range, or see :func:`check_choice`.
    """
    sampling = {name: value for name, value in test_cfg.items() if name not in CHOICE}
    count = test_cfg.get('num_samples')
    if count is None:
        for name in CHOICE[1:]:
            if (value := test_cfg.get(name)) is not None and value is not False:
                raise ValueError(f'`test_cfg.num_samples` should be set where `test_cfg.{name}` is '
                                 f'{value!r}, but got None; set it, such as '
                                 f'num_samples=8, or leave `{name}` out')
        return check_sampling(TEST_CFG | sampling, 'test_cfg')
    sampling = check_sampling(TEST_CFG | dict(temperature=1.0) | sampling, 'test_cfg')
    sampling['group_size'] = check_number('test_cfg.num_samples', count, 'at least 1 or None',
                                          lambda n: n >= 1, True)
    check_choice(test_cfg, sampling)
    return sampling


def check_choice(test_cfg: Mapping[str, Any], sampling: Mapping[str, Any]) -> None:
    """Check how to choose among several answers.

    Args:
        test_cfg: `model.test_cfg` with ``num_samples``.
        sampling: What :func:`evaluation_sampling` makes of it.

    Raises:
        ValueError: There is no selector, or it is none; equal answers would be sampled; a consensus
            has one answer only; there is ``abstain_by``, but no threshold; or a value is of another
            kind.
    """
    count, temperature = sampling['group_size'], sampling['temperature']
    if count > 1 and temperature == 0:
        raise ValueError(f'`test_cfg.temperature` should be above 0 where '
                         f'`test_cfg.num_samples` is {count}, since greedy answers are all the '
                         f'same, but got {temperature}; set temperature=1.0')
    if test_cfg.get('select') is None:
        raise ValueError(f'`test_cfg.select` should say how to choose among `test_cfg.num_samples` '
                         f"= {count} answers, but got None; set it, such as select='consensus'")
    for name in SELECTORS:
        if test_cfg.get(name) is None:
            continue
        config = as_config(test_cfg[name], f'test_cfg.{name}')
        parts = [part for _, part in config.get('selectors', {}).values()] or [config]
        if count == 1 and any(is_kind(part, ConsensusSelector, MODELS) for part in parts):
            raise ValueError(f'`test_cfg.num_samples` should be at least 2 for a consensus, but '
                             f'got 1; set num_samples=8, or another `{name}`')
    threshold = test_cfg.get('abstain_below')
    if threshold is None and (judge := test_cfg.get('abstain_by')) is not None:
        raise ValueError(f'`test_cfg.abstain_below` should be set where `test_cfg.abstain_by` is '
                         f'{judge!r}, but got None; set it, such as abstain_below=0.3, or leave '
                         f'`abstain_by` out')
    if threshold is not None:
        check_number('test_cfg.abstain_below', threshold, 'a finite number or None', math.isfinite)
    if not isinstance(greedy := test_cfg.get('compare_greedy', False), bool):
        raise ValueError(f'`test_cfg.compare_greedy` should be True or False, but got {greedy!r}; '
                         'correct it')


def conversation_settings(model: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read `model.conversation` from the config of a model.

    Args:
        model: May have ``conversation``: ``max_turns``, ``max_tokens`` and ``limits``, arguments of
            a :class:`mmdpad.models.rollouts.ConversationSampler`; ``limits`` are those of a
            :class:`mmdpad.geometry.crops.CropLimits`. With ``decode_in_crop``, the mask decoder
            sees the last crop, not all of the image.

    Returns:
        All of these; None without conversations.

    Raises:
        ValueError: A key is unknown, a value is out of range, a turn may be longer than a
            conversation, or several answers are sampled (``num_samples``).
    """
    config = model.get('conversation')
    if config is None:
        return None
    check_keys('conversation', config, CONVERSATION)
    given = CONVERSATION | dict(config)
    for name in ('max_turns', 'max_tokens'):
        given[name] = check_number(f'conversation.{name}', given[name], 'at least 1',
                                   lambda n: n >= 1, True)
    if not isinstance(given['decode_in_crop'], bool):
        raise ValueError(f'`conversation.decode_in_crop` should be True or False, but got '
                         f'{given["decode_in_crop"]!r}; set one of them')
    limits = given['limits'] or {}
    check_keys('conversation.limits', limits, inspect.signature(CropLimits).parameters)
    try:
        given['limits'] = CropLimits(**limits)
    except ValueError as error:  # which begins with the name of the argument
        raise ValueError(str(error).replace('`', '`conversation.limits.', 1)) from None
    if (longest := max_response_tokens(model)) > given['max_tokens']:
        raise ValueError(f'`conversation.max_tokens` should be at least `max_new_tokens` = '
                         f'{longest} of one turn (`train_cfg`, `test_cfg`), but got '
                         f'{given["max_tokens"]}; raise it')
    check_alone('test_cfg.num_samples', (model.get('test_cfg') or {}).get('num_samples'))
    return given


def check_keys(path: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise ValueError unless this is a dict with some of the known keys."""
    if not isinstance(given, Mapping):
        raise ValueError(f'`{path}` should be a dict, but got {given!r}; correct it')
    if unknown := sorted(given.keys() - set(known)):
        raise ValueError(f'`{path}` should have keys among {sorted(known)}, but got {unknown}; '
                         f'correct them')


def check_alone(path: str, value: Any) -> None:
    """Raise ValueError if a setting is set that does not work with `model.conversation`."""
    if value:
        raise ValueError(f'`{path}` should not be set with `model.conversation`, since it takes an '
                         f'answer for a single response, but got {value!r}; leave one of them out')


def missing_type(path: str, example: str = 'NAME') -> str:
    """The problem with a part of a config that has no ``type``, as a message."""
    return (f'`{path}.type` should be the name of a class, but is missing; add it: '
            f'`{path}.type={example}`')


def check_part(name: str, given: Mapping[str, Any], default: str) -> None:
    """Raise ValueError if a part of a model has no ``type``; ``default`` is that of a model without
    the part."""
    if 'type' not in given:
        raise ValueError(missing_type(f'model.{name}', default))


def max_response_tokens(model: Mapping[str, Any]) -> int:
    """The maximum number of tokens in a response, in training and evaluation, by the config of a
    model.

    Raises:
        ValueError: See :func:`training_sampling` and :func:`evaluation_sampling`.
    """
    return max(training_sampling(model.get('train_cfg') or {})['max_new_tokens'],
               evaluation_sampling(model.get('test_cfg') or {})['max_new_tokens'])


def conversation_limits(model: Mapping[str, Any]) -> tuple[int, int]:
    """The maximum number of turns, and of tokens after a prompt, by the config of a model: 1, and
    those of a response, without ``conversation``.

    Raises:
        ValueError: See :func:`max_response_tokens` and :func:`conversation_settings`.
    """
    given = conversation_settings(model)
    if given is None:
        return 1, max_response_tokens(model)
    return given['max_turns'], given['max_tokens']


def build_loss(config: Mapping[str, Any]) -> PolicyLoss:
    """Build `model.loss`.

    Raises:
        ValueError: It has no ``type``, it is the loss of another kind of model, its ``entropy`` is
            neither 'grad' nor 'no_grad', or a value is out of range.
    """
    check_part('loss', config, 'GRPOLoss')
    loss = MODELS.build(config)
    if not isinstance(loss, PolicyLoss):
        raise ValueError(not_a_policy_loss('model.loss', type(loss)))
    if loss.entropy not in ('grad', 'no_grad'):
        raise ValueError(f"`entropy` of {type(loss).__name__} should be 'grad' or 'no_grad', but "
                         f'got {loss.entropy!r}; correct the class of `model.loss`')
    return loss


def check_loss(loss: PolicyLoss, sampling: Mapping[str, Any], engine: str,
               records_log_probs: bool) -> None:
    """Check that the rollout provides what a loss needs.

    Args:
        loss: The loss.
        sampling: Sampling settings of rollouts.
        engine: The name of the rollout engine's class.
        records_log_probs: See :class:`RolloutEngine`.

    Raises:
        ValueError: The engine does not record log-probabilities, or samples from a truncated
            distribution (the ratio compares complete ones).
    """
    if not loss.needs_sampling_logp:
        return
    compares = ("where `model.loss` compares the engine's log-probabilities (`importance_cap`, "
                'which `train_cfg.max_staleness` sets, or `off_policy_mask_threshold`')
    if sampling['top_p'] < 1 or sampling['top_k'] > 0:
        raise ValueError(
            f'`train_cfg.top_p` should be 1 and `train_cfg.top_k` 0 {compares}; the ratio compares '
            f'complete distributions), but got {sampling["top_p"]} and {sampling["top_k"]}; leave '
            f'them out')
    if not records_log_probs:
        raise ValueError(
            f'`rollout_engine` should record the log-probabilities of its samples {compares}), but '
            f'got {engine}, which does not; set its `records_log_probs=True`, use '
            f"`dict(type='SharedPrefixRollout', records_log_probs=True)`, or leave these settings "
            f'out')


def not_a_policy_loss(path: str, kind: type) -> str:
    """The problem with a loss of another kind, as a message."""
    return (f'`{path}` should be GRPOLoss or another subclass of `mmdpad.rl.PolicyLoss`, but got '
            f'{kind.__name__}; use such a loss')


def check_sft_targets(inputs: Any, data_samples: Sequence[Any] | None,
                      coordinates: str) -> None:
    """Check that data samples have SFT targets for a policy.

    Args:
        inputs: The model's input, for the message.
        data_samples: The data samples of the batch.
        coordinates: The coordinates that the policy writes.

    Raises:
        TypeError: A sample has no ``response``.
        ValueError: A response has other coordinates.
    """
    if not data_samples or not all('response' in sample for sample in data_samples):
        raise TypeError(
            f'`inputs` should be a RolloutBatch, as `GRPOTrainLoop` passes it, or data samples '
            f'should have a `response`, but got {type(inputs).__name__} and samples without it; '
            f"set `train_cfg=dict(type='GRPOTrainLoop', ...)`, or, for supervised training, put "
            f"`dict(type='ComposeResponse')` before `PackReasoningInputs`")
    for sample in data_samples:
        if (given := sample.get('response_coordinates', coordinates)) != coordinates:
            raise ValueError(f'`coordinates` of `ComposeResponse` should be {coordinates!r}, which '
                             f'the policy writes, but got {given!r}; set that value')
