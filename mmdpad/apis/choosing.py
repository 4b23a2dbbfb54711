# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How one call of an inferencer chooses among several answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from mmengine.registry import DefaultScope
from torch import nn

if TYPE_CHECKING:
    from mmdpad.models.segmentors.choosing import Choice


class Choosing(NamedTuple):
    """What a model's attributes ``test_cfg`` and ``choice`` are within a call."""

    test_cfg: dict[str, Any]
    choice: Choice | None


def build_choosing(cfg: Mapping[str, Any], model: nn.Module,
                   asked: Mapping[str, Any]) -> Choosing:
    """Merge what a call asks for into the config's `model.test_cfg`.

    Args:
        cfg: The config of the model.
        model: The model.
        asked: Those of ``num_samples``, ``select``, ``abstain_below`` and ``abstain_by`` that are
            given.

    Raises:
        ValueError: The model does not choose among answers, the selector needs the ground truth,
            or see :func:`mmdpad.models.segmentors.settings.evaluation_sampling`.
    """
    # Transformers is imported when a model is built, not with this module.
    from mmdpad.engine.short_selectors import write_out_selectors
    from mmdpad.models.segmentors import ConceptAgent, ReasoningSegmentor
    from mmdpad.models.segmentors.choosing import Choice
    from mmdpad.models.segmentors.settings import check_alone, evaluation_sampling
    if not isinstance(model, ReasoningSegmentor) or isinstance(model, ConceptAgent):
        raise ValueError(f'`samples` needs a ReasoningSegmentor, which gives one response to a '
                         f'question, but the model is a {type(model).__name__}; leave it out')
    if model.conversations is not None:
        check_alone('samples', asked)
    own = dict(cfg['model'].get('test_cfg') or {})
    if own.get('num_samples') is None and own.get('temperature') == 0 and (
            asked.get('num_samples') or 1) > 1:
        own['temperature'] = 1.0  # greedy answers are all the same
    test_cfg = {**own, **asked}
    with DefaultScope.overwrite_default_scope('mmdpad'):
        write_out_selectors(dict(cfg.items(), model=dict(test_cfg=test_cfg)))
        sampling = evaluation_sampling(test_cfg)
        choice = Choice.of(test_cfg, model.tasks)
    check_choice(choice)
    return Choosing(sampling, choice)


def check_choice(choice: Choice | None) -> None:
    """Raise ValueError if a choice needs the ground truth."""
    for part in choice.parts if choice is not None else ():
        if part.needs_truth:
            raise ValueError(f'`select` and `abstain_by` should not need the ground truth, which '
                             f'is unknown here, but got {part.name!r}; use another selector')


@contextmanager
def choosing_by(model: Any, choosing: Choosing | None) -> Iterator[None]:
    """Within the block, the model chooses like this; None for its own way."""
    if choosing is None:
        yield
        return
    before = Choosing(model.test_cfg, model.choice)
    model.test_cfg, model.choice = choosing
    try:
        yield
    finally:
        model.test_cfg, model.choice = before
