# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .evaluation_loops import ReasonSegTestLoop, ReasonSegValLoop
from .grpo_loop import GRPOTrainLoop
from .local_backend import LocalVisBackend
from .log_processor import ShortLogProcessor
from .pass_rate_loop import PassRateLoop

__all__ = ['GRPOTrainLoop', 'LocalVisBackend', 'PassRateLoop', 'ReasonSegTestLoop',
           'ReasonSegValLoop', 'ShortLogProcessor']
