# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .mask_iou import IGNORE_REGIONS, apply_protocol, giou_and_ciou, mask_iou

__all__ = ['IGNORE_REGIONS', 'apply_protocol', 'giou_and_ciou', 'mask_iou']
