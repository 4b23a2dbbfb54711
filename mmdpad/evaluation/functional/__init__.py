# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .bootstrap import bootstrap_ratios, percentile_interval
from .mask_iou import IGNORE_REGIONS, apply_protocol, check_ignore_regions, mask_iou
from .seeds import seeds_and_scenes_interval, t_interval

__all__ = ['IGNORE_REGIONS', 'apply_protocol', 'bootstrap_ratios', 'check_ignore_regions',
           'mask_iou', 'percentile_interval', 'seeds_and_scenes_interval', 't_interval']
