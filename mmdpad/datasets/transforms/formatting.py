# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The last step of a pipeline: pack what the data loader passes to the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdpad.geometry.targets import box_from_mask
from mmdpad.prompts.template import normalize_question
from mmdpad.registry import TRANSFORMS

from .mmdet_ground_truth import mmdet_ground_truth
from .required import require, require_masks

META_KEYS = ('img_id', 'img_path', 'ori_shape', 'model_shape', 'texts', 'text_index',
             'is_sentence', 'task', 'classes', 'class_labels', 'not_exhaustive', 'answers',
             'evidence', 'choices', 'question_type', 'response', 'response_coordinates',
             'sample_idx', 'empty_target', 'left_out', 'not_asked')


@TRANSFORMS.register_module()
class PackReasoningInputs(BaseTransform):
    """Pack an item as ``dict(inputs=..., data_samples=...)``.

    ``inputs`` has ``image`` (3, H, W) and ``model_image`` (3, h, w), uint8 RGB, in the original
    and the model frame. ``data_samples`` is a ``DetDataSample`` with ``question`` (normalized) and,
    if the results have them, :data:`META_KEYS` as metainfo and

    - ``gt_instances``: ``bboxes`` (K, 4) float32 XYXY inclusive, ``masks`` (K, H, W) bool and
      ``labels`` (K,), in the original frame, from the keys ``gt_masks`` and ``gt_labels`` (0
      without them); K is 1, unless a question may mean several objects, or none; also as metainfo,
      in the forms of :func:`mmdet_ground_truth`;
    - as metainfo ``instances``, if the question names classes: those of the data set, in mmdet's
      form, with ``bbox`` in the original frame, x2 and y2 outer edges, ``bbox_label``,
      ``ignore_flag`` and, if that is 1, ``crowd``; with :class:`LoadInstanceMasks` also ``mask``;
    - ``ignored_instances``: ``masks`` (1, H, W) bool, from ``ignore_mask``;
    - ``model_targets``: ``bboxes`` (K, 4) and ``points`` (K, P, 2), float32, in the model frame,
      from ``model_boxes`` and ``model_points``; ``labels`` (K,) long, from ``model_labels``, if the
      question names classes; and as metainfo ``outer_edges``, whether x2 and y2 are outer edges and
      not inclusive;
    - ``model_ignored``: ``bboxes`` (n, 4) float32, ``labels`` (n,) long and ``crowds`` (n,) bool,
      in the model frame, of what is neither target nor mistake, from ``model_ignored``;
    - ``model_negatives``: ``bboxes`` (n, 4) float32 of objects other than the target, in the
      model frame, n may be 0, from ``model_negatives``.

    Required keys: ``img``, ``model_img``, ``question``.

    Args:
        meta_keys: Further keys of the results that become metainfo, if the results have them: what
            the rewards and metrics of another task need.

    Raises:
        DatasetError: A key is missing; the message names the transform that adds it.
    """

    def __init__(self, meta_keys: Sequence[str] = ()) -> None:
        self.meta_keys = (*META_KEYS, *meta_keys)

    def transform(self, results: dict) -> dict:
        step = type(self).__name__
        require(results, step, 'img', 'model_img', 'question')
        sample = DetDataSample(
            metainfo={key: results[key] for key in self.meta_keys if key in results})
        sample.set_metainfo({'question': normalize_question(results['question'])})
        if 'gt_masks' in results:
            masks = require_masks(results, step)
            boxes = np.array([box_from_mask(mask) for mask in masks], np.float32).reshape(-1, 4)
            labels = results.get('gt_labels', np.zeros(len(masks), np.int64))
            sample.gt_instances = InstanceData(
                bboxes=torch.from_numpy(boxes), masks=torch.from_numpy(masks),
                labels=torch.from_numpy(labels))
            sample.set_metainfo(mmdet_ground_truth(masks, boxes, labels))
        if 'classes' in results:
            sample.set_metainfo(dict(instances=[
                {key: value for key, value in instance.items()
                 if key != 'mask' or 'gt_masks' in results}
                for instance in results.get('instances', ())]))
        if 'ignore_mask' in results:
            sample.ignored_instances = InstanceData(
                masks=torch.from_numpy(results['ignore_mask'])[None])
        if 'model_boxes' in results:
            sample.model_targets = InstanceData(
                metainfo=dict(outer_edges=results.get('outer_edges', False)),
                bboxes=results['model_boxes'], points=results['model_points'],
                **({'labels': results['model_labels']} if 'model_labels' in results else {}))
        if 'model_ignored' in results:
            sample.model_ignored = InstanceData(**results['model_ignored'])
        if 'model_negatives' in results:
            sample.model_negatives = InstanceData(bboxes=results['model_negatives'])
        images = {
            'image': _channels_first(results['img']),
            'model_image': _channels_first(results['model_img'])
        }
        return {'inputs': images, 'data_samples': sample}


def _channels_first(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) array -> contiguous (3, H, W) tensor."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
