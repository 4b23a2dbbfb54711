# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .length_sorted_sampler import LengthSortedSampler
from .selective_sampler import SelectiveSampler
from .variance_sampler import VarianceSampler

__all__ = ['LengthSortedSampler', 'SelectiveSampler', 'VarianceSampler']
