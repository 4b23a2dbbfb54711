# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The first steps of a pipeline: load the image and its masks, in the original frame."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from pycocotools import mask as coco_mask

from mmdpad.geometry.masks import encode_mask, segmentation_rle
from mmdpad.geometry.targets import covered_pixels
from mmdpad.registry import TRANSFORMS

from ..errors import DatasetError
from ..images import MAX_PIXELS, check_max_pixels, decode_image, read_image
from ..reason_seg_annotation import draw_target, parse_annotation
from .required import missing, require


@TRANSFORMS.register_module()
class LoadReasoningImage(BaseTransform):
    """Load an image as RGB in the original frame (defined in :mod:`mmdpad.datasets.images`).

    Required keys: ``img_path``, or ``img`` if the image is already in memory (uint8 RGB). The
    content of a file in ``img_bytes`` is used instead of the file, and removed; errors then still
    name ``img_path``.
    Added keys: ``img`` (H, W, 3) uint8 RGB, ``ori_shape`` and ``img_shape``, both (H, W).

    Args:
        max_pixels: No larger image is decoded. Data sets and the inferencer take this limit from
            their pipeline, and check all headers before work starts. At most twice the default.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        self.max_pixels = check_max_pixels(max_pixels)

    def transform(self, results: dict) -> dict:
        if 'img_bytes' in results:
            results['img'] = decode_image(results.pop('img_bytes'), results['img_path'],
                                          self.max_pixels)
        elif 'img' not in results:
            results['img'] = read_image(results['img_path'], self.max_pixels)
        image = results['img']
        is_rgb = (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3
                  and image.shape[2] == 3 and image.size > 0)
        if not is_rgb:
            got = (f'{image.dtype} {image.shape}'
                   if isinstance(image, np.ndarray) else type(image).__name__)
            raise ValueError(f'`img` should be a uint8 RGB array (H, W, 3), but got {got}; '
                             'convert it, or give `img_path`')
        results['ori_shape'] = results['img_shape'] = image.shape[:2]
        return results


@TRANSFORMS.register_module()
class LoadReasonSegMask(BaseTransform):
    """Draw the shapes of a ReasonSeg annotation in the original frame.

    Required keys: ``ann_path``, ``ori_shape``.
    Added keys: ``gt_masks`` (K, H, W), where K is 1, or 0 if no target is marked, and
    ``ignore_mask`` (H, W), bool, disjoint.

    Raises:
        DatasetError: See :func:`mmdpad.datasets.reason_seg_annotation.draw_target`.
    """

    reads_truth = True

    def transform(self, results: dict) -> dict:
        require(results, type(self).__name__, 'ori_shape', 'ann_path')
        height, width = results['ori_shape']
        path = results['ann_path']
        target, ignore = draw_target(parse_annotation(path), height, width, path)
        results['gt_masks'], results['ignore_mask'] = target[None][:int(target.any())], ignore
        return results


@TRANSFORMS.register_module()
class LoadInstanceMasks(BaseTransform):
    """Draw COCO segmentations in the original frame.

    Required keys: ``ori_shape`` and ``instances``, a list (as in mmdet's data sets) of dicts with
    ``mask`` (:func:`mmdpad.geometry.masks.segmentation_rle`) and ``ignore_flag``; 1 marks a region
    that the evaluation leaves out, for which ``bbox`` can replace the mask.
    Added keys: ``gt_masks`` (K, H, W) bool, one per target, K may be 0; and, if there are regions
    to ignore, ``ignore_mask`` (H, W) bool, without the targets' pixels. An RLE that is all
    background does not count as an instance. If the results have ``classes``, also ``gt_labels``
    (K,) int64, from ``bbox_label``, and ``instances`` are those that count, with ``mask`` as an
    RLE.

    Raises:
        DatasetError: There are no instances, one has no mask, or see :func:`check_segmentation`.
    """

    reads_truth = True

    def transform(self, results: dict) -> dict:
        require(results, type(self).__name__, 'ori_shape', 'instances')
        height, width = results['ori_shape']
        masks: dict[int, list[np.ndarray]] = {0: [], 1: []}
        kept = []
        for instance in results['instances']:
            rle = instance_rle(instance, height, width, results)
            if rle is not None and marks_pixels(rle):
                masks[instance['ignore_flag']].append(coco_mask.decode(rle).astype(bool))
                kept.append(dict(instance, mask=rle))
        results['gt_masks'] = np.stack(masks[0]) if masks[0] else np.zeros(
            (0, height, width), bool)
        if 'classes' in results:
            results['gt_labels'] = np.array([one['bbox_label'] for one in kept
                                             if not one['ignore_flag']], np.int64)
            results['instances'] = kept
        if masks[1]:
            results['ignore_mask'] = np.any(masks[1], axis=0) & ~results['gt_masks'].any(axis=0)
        return results


def instance_rle(instance: dict, height: int, width: int, results: dict) -> dict | None:
    """The mask of one of an item's instances.

    Args:
        instance: Has ``mask``; an ignored one (``ignore_flag``) may have only ``bbox``, (x1, y1,
            x2, y2) in pixels of the original frame as in :func:`covered_pixels`.
        height, width: Of the image, in pixels.
        results: The item, for messages.

    Returns:
        An RLE; None for an ignored instance that has neither mask nor box.

    Raises:
        DatasetError: A target has none, or see :func:`check_segmentation`.
    """
    if 'mask' in instance:
        return check_segmentation(instance['mask'], height, width, results['img_path'])
    if not instance['ignore_flag']:
        raise missing(results, LoadInstanceMasks.__name__, '`mask` of each instance',
                      'for data with boxes only, use `TargetsFromBoxes` instead of '
                      '`LoadInstanceMasks` and `TargetsFromMask`: box and point rewards work, '
                      'mask rewards and mask metrics do not')
    if 'bbox' not in instance:
        return None
    x1, y1, x2, y2 = covered_pixels([instance['bbox']], height, width)[0].astype(int)
    mask = np.zeros((height, width), bool)
    mask[y1:y2 + 1, x1:x2 + 1] = True
    return encode_mask(mask)


def check_segmentation(segmentation: object, height: int, width: int, where: str) -> dict:
    """:func:`mmdpad.geometry.masks.segmentation_rle` for a data set's file; ``where`` names it.

    Raises:
        DatasetError: It cannot be read, has another size, or its polygons mark no pixel. (An RLE
            may mark none: it counts as no object.)
    """
    try:
        rle = segmentation_rle(segmentation, height, width)
    except ValueError as error:
        raise DatasetError(f'A mask of {where} cannot be used: {error}; correct or remove it',
                           'wrong mask') from error
    if not marks_pixels(rle) and _is_drawn(segmentation):
        raise DatasetError(f'A mask of {where} marks no pixel in the image of {width} x {height} '
                           'pixels (width x height); correct or remove it', 'empty mask')
    return rle


def marks_pixels(rle: dict) -> bool:
    """Whether a mask, as RLE with compressed counts, marks any pixel."""
    return bool(coco_mask.area(rle))


def _is_drawn(segmentation: object) -> bool:
    """Whether a segmentation consists of polygons."""
    return isinstance(segmentation, list) and not isinstance(segmentation[0], dict)
