# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Estimate the cost of a training step before loading anything."""
from .from_config import TrainingCost, read_config_cost, with_response_tokens
from .report import configured_memory, format_report, make_report

__all__ = ['TrainingCost', 'configured_memory', 'format_report', 'make_report', 'read_config_cost',
           'with_response_tokens']
