# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Names from before 0.1.0 that a config may still use, with their new names."""

from __future__ import annotations

TYPES = dict(
    AnswerPictureHook='ReasonSegVisualizationHook', AnswerStoreHook='ResponseCacheHook',
    ChainLengthReward='ReasoningLengthReward', PlainCheckpointHook='SafeCheckpointHook',
    PromptResize='ModelImageResize')
ARGUMENTS = dict(
    chain_share='length_share', updates_per_rollout='num_iterations')


def advice(name: str, now: dict[str, str]) -> str | None:
    """What to write instead of an old name; None if the name is not an old one."""
    return f'it is called {now[name]} now; write that' if name in now else None
