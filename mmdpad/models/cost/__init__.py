# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The memory and the operations of a training step, from the sizes of a policy."""
from .fake_policy import ImageInputs, build_on_meta
from .flops import step_flops
from .memory import peak, step_memory
from .shapes import PolicyShape, read_policy_config
from .workload import Setup, Workload

__all__ = ['ImageInputs', 'PolicyShape', 'Setup', 'Workload', 'build_on_meta', 'peak',
           'read_policy_config', 'step_flops', 'step_memory']
