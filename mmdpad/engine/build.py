# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The runner that a config asks for."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.runner import FlexibleRunner, Runner

import mmdpad.registry  # noqa: F401 - mmengine builds a strategy before it knows the scope
from mmdpad.registry import MODELS


def build_runner(config: Config) -> Runner | FlexibleRunner:
    """mmengine's Runner, or its FlexibleRunner where the config has a ``strategy``."""
    if config.get('strategy') is None:
        return Runner.from_cfg(config)
    runner = FlexibleRunner.from_cfg(config)
    # It would build the model after the loops, which look at it.
    runner.model = MODELS.build(runner.model)
    return runner
