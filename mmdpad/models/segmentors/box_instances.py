# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Turns the labelled boxes of an answer into instances without masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.structures import InstanceData

from mmdpad.geometry.coordinates import scale_boxes
from mmdpad.models.scorers import ScoredObjects
from mmdpad.prompts import normalize_label
from mmdpad.rewards.detection import asked_labels
from mmdpad.structures import AnsweredObject


def box_instances(objects: Sequence[AnsweredObject], data_sample: Any,
                  image_shape: tuple[int, int],
                  model_shape: tuple[int, int],
                  scored: ScoredObjects | None = None) -> tuple[InstanceData, int]:
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
        scored: The scores of all objects; None if all have the score 1.

    Returns:
        - ``bboxes`` (n, 4) in the original frame, ``labels`` (n,) long, ``scores`` (n,), the lists
          ``label_names`` and ``descriptions`` of n strings, '' where there is none, and with
          ``scored`` the list ``features`` of n dicts, name -> value. Objects with a label that is
          not asked for are left out.
        - How many objects with a box were left out.
    """
    names = {number: normalize_label(item.label or '') for number, item in enumerate(objects)
             if item.box is not None}
    if data_sample.get('classes') is None:
        known = {name: label for label, name in enumerate(dict.fromkeys(names.values()))}
    else:
        known = asked_labels(data_sample)
    kept = [number for number, name in names.items() if name in known]
    items = [objects[number] for number in kept]
    boxes = torch.tensor([item.box for item in items], dtype=torch.float32).reshape(-1, 4)
    found = InstanceData(
        bboxes=scale_boxes(boxes, model_shape, image_shape),
        labels=torch.tensor([known[names[number]] for number in kept], dtype=torch.long),
        scores=torch.ones(len(kept)), label_names=[item.label or '' for item in items],
        descriptions=[item.description or '' for item in items])
    if scored is not None:
        found.scores = torch.from_numpy(scored.scores[kept])
        found.features = [{name: float(values[number]) for name, values in scored.features.items()}
                          for number in kept]
    return found, len(names) - len(kept)
