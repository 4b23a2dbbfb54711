# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Turns the labelled boxes of an answer into instances without masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.structures import InstanceData

from mmdpad.geometry.coordinates import scale_boxes
from mmdpad.prompts import normalize_label
from mmdpad.rewards.detection import asked_labels
from mmdpad.structures import AnsweredObject


def box_instances(objects: Sequence[AnsweredObject], data_sample: Any,
                  image_shape: tuple[int, int],
                  model_shape: tuple[int, int]) -> tuple[InstanceData, int]:
    """Turn the n objects of an answer into instances.

    Args:
        objects: Boxes in pixels of the model image, with or without labels. Objects without a box,
            as of a task that asks for points only, are no instances.
        data_sample: Its ``classes``, the names of the classes that the question asks for, and
            ``class_labels``, the data set's label of each, decide which objects are instances.
            Names are compared by :func:`mmdpad.prompts.normalize_label`. Without ``classes``, the
            labels are numbered in the order in which the answer names them.
        image_shape: (H, W) of the image.
        model_shape: (h, w) of the model image.

    Returns:
        - ``bboxes`` (n, 4) in the original frame, ``labels`` (n,) long, ``scores`` (n,), all 1, and
          the lists ``label_names`` and ``descriptions`` of n strings, '' where there is none.
          Objects with a label that is not asked for are left out.
        - How many objects with a box were left out.
    """
    objects = [item for item in objects if item.box is not None]
    if data_sample.get('classes') is None:
        found = dict.fromkeys(normalize_label(item.label or '') for item in objects)
        known = {name: label for label, name in enumerate(found)}
    else:
        known = asked_labels(data_sample)
    kept = [item for item in objects if normalize_label(item.label or '') in known]
    boxes = torch.tensor([item.box for item in kept], dtype=torch.float32).reshape(-1, 4)
    return InstanceData(
        bboxes=scale_boxes(boxes, model_shape, image_shape),
        labels=torch.tensor([known[normalize_label(item.label or '')] for item in kept],
                            dtype=torch.long),
        scores=torch.ones(len(kept)), label_names=[item.label or '' for item in kept],
        descriptions=[item.description or '' for item in kept]), len(objects) - len(kept)
