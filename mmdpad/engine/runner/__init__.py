# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .evaluation_loops import ReasonSegTestLoop, ReasonSegValLoop
from .grpo_loop import GRPOTrainLoop
from .log_processor import ShortLogProcessor

__all__ = ['GRPOTrainLoop', 'ReasonSegTestLoop', 'ReasonSegValLoop', 'ShortLogProcessor']
