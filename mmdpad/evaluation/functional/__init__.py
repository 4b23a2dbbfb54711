# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .bootstrap import bootstrap_ratios, percentile_interval
from .mask_iou import IGNORE_REGIONS, apply_protocol, mask_iou

__all__ = ['IGNORE_REGIONS', 'apply_protocol', 'bootstrap_ratios', 'mask_iou',
           'percentile_interval']
