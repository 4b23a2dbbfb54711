# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks the optimizer, its wrapper and the schedulers of a config by building them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from torch import nn

from mmdpad.registry import OPTIM_WRAPPERS, PARAM_SCHEDULERS, is_kind

from .refusals import REFUSALS, describe_refusal

_BY_PRECISION = ('loss_scale', 'dtype', 'use_fsdp')


def check_optimizer(config: Mapping[str, Any]) -> Iterator[str]:
    """Build the optimizer, its wrapper and the schedulers for a tiny layer."""
    given = config.get('optim_wrapper')
    if not given:
        return
    wrapper = {key: copy.deepcopy(value) for key, value in given.items() if key != 'paramwise_cfg'}
    if 'optimizer' not in wrapper and 'constructor' not in wrapper:
        yield '`optim_wrapper` needs the entry `optimizer`; add it'
        return
    if is_kind(wrapper, AmpOptimWrapper, OPTIM_WRAPPERS) and not torch.cuda.is_available():
        wrapper = {key: value for key, value in wrapper.items() if key not in _BY_PRECISION}
        wrapper['type'] = OptimWrapper
    if 'constructor' in wrapper:
        return  # it may need the real model
    path, entry = 'optim_wrapper', given
    try:
        built = build_optim_wrapper(nn.Linear(1, 1), ConfigDict(wrapper))
        schedulers = config.get('param_scheduler') or []
        many = isinstance(schedulers, (list, tuple))
        for number, scheduler in enumerate(schedulers if many else [schedulers]):
            path, entry = 'param_scheduler' + f'.{number}' * many, scheduler
            made = PARAM_SCHEDULERS.build(
                {key: value for key, value in scheduler.items() if key != 'convert_to_iter_based'},
                default_args=dict(optimizer=built))
            if not getattr(made, 'need_val_args', False):
                with warnings.catch_warnings():
                    warnings.simplefilter('ignore')  # no optimizer step comes before it
                    made.step()
    except (*REFUSALS, ArithmeticError) as error:
        yield describe_refusal(path, entry, error)
    except ImportError:  # a missing package is reported elsewhere
        pass
