# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Estimate the cost of a training step before loading anything."""
from mmdpad.models.cost.flops import step_flops
from mmdpad.models.cost.memory import peak, step_memory
from mmdpad.models.cost.shapes import PolicyShape, build_on_meta, read_policy_config
from mmdpad.models.cost.workload import Setup, Workload

from .from_config import TrainingCost, read_config_cost, with_response_tokens
from .report import format_report, make_report

__all__ = ['PolicyShape', 'Setup', 'TrainingCost', 'Workload', 'build_on_meta', 'format_report',
           'make_report', 'peak', 'read_config_cost', 'read_policy_config', 'step_flops',
           'step_memory', 'with_response_tokens']
