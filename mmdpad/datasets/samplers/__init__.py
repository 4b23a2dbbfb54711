# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .length_sorted_sampler import LengthSortedSampler

__all__ = ['LengthSortedSampler']
