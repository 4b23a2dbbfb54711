# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Estimate the cost of a training step before loading anything."""
from .flops import step_flops
from .from_config import TrainingCost, read_config_cost, with_response_tokens
from .memory import peak, step_memory
from .report import format_report, make_report
from .shapes import PolicyShape, build_on_meta, read_policy_config
from .workload import Setup, Workload

__all__ = ['PolicyShape', 'Setup', 'TrainingCost', 'Workload', 'build_on_meta', 'format_report',
           'make_report', 'peak', 'read_config_cost', 'read_policy_config', 'step_flops',
           'step_memory', 'with_response_tokens']
