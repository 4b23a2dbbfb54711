# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Do captions fit a detector's boxes better than the whole image?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric

from mmdpad.datasets.transforms import read_image
from mmdpad.registry import METRICS
from mmdpad.rewards import DiscriminativeReward
from mmdpad.structures import AnsweredObject, ReasoningOutput, RolloutBatch

_SIGNALS = ('s_roi', 's_image', 's_margin')
_COLUMNS = (*_SIGNALS, 'discriminated')


@METRICS.register_module()
class DiscriminationMetric(BaseMetric):
    """Scores the predicted boxes of any detector with :class:`DiscriminativeReward`.

    S1 is the cosine of a box's caption with the box's part of the image, S2 with the whole image.
    No ground truth is needed. Metrics (prefix ``discrimination``):

    - ``num_boxes``: boxes with a score of at least ``score_thr``; ``num_unusable``: those of them
      that hold no part of the image or whose caption is empty or too long for the discriminator;
    - ``s_roi``, ``s_image``, ``s_margin``: mean of S1, S2 and S1 - S2 over the usable boxes, in
      [-1, 1], [-1, 1] and [-2, 2]; NaN without usable boxes;
    - ``discriminated``: share of all boxes with S1 > S2, in [0, 1], where unusable boxes count as
      not discriminated; NaN without boxes. ``combine`` combines several discriminators' answers.

    The caption of a box comes from the prediction if ``pred_instances`` has ``captions`` (a list of
    str). Otherwise it is made from the name of the box's label: from ``label_names``, which
    open-vocabulary detectors predict, or from the data set's classes.

    Args:
        discriminator: Config of the discriminator or a list of them, see
            :class:`DiscriminativeReward`; S1 and S2 of several are their means. In a config of
            mmdet, its type needs the scope as well: 'mmdpad.CLIPDiscriminator'.
        template: Makes a caption from ``{label}``.
        captions: Name of a label -> its caption, in place of the template.
        score_thr: In [0, 1].
        collect_device, prefix: As in mmengine.
        **options: ``region_margin``, ``contrast`` ('image' or 'masked') and ``combine`` of
            :class:`DiscriminativeOptions`.

    Raises:
        ValueError: ``template`` has no ``{label}``, or an option is out of range.
    """

    default_prefix = 'discrimination'

    def __init__(self,
                 discriminator: dict | Sequence[dict],
                 template: str = 'a photo of a {label}',
                 captions: Mapping[str, str] | None = None,
                 score_thr: float = 0.3,
                 collect_device: str = 'cpu',
                 prefix: str | None = None,
                 **options: Any) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if '{label}' not in template:
            raise ValueError(f'`template` should contain "{{label}}" in place of the label\'s '
                             f'name, but got {template!r}')
        self.template = template
        self.captions = dict(captions or {})
        self.score_thr = score_thr
        self.reward = DiscriminativeReward(discriminator, form='binary', region='predicted',
                                           **options)
        self.reward.prepare()

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Score samples in the form of ``DetDataSample.to_dict()``: ``img_path`` and
        ``pred_instances`` with ``bboxes`` (n, 4) XYXY in pixels of the original frame, ``scores``
        (n,) and ``labels`` (n,) or ``captions``.

        Raises:
            ValueError: The size of the image file differs from the boxes' frame (``ori_shape``), or
                a label has no name.
        """
        self.results.extend(self._score(sample) for sample in data_samples)

    def _score(self, sample: dict) -> dict[str, list[float]]:
        """The columns of one image: a value for each box above the score threshold."""
        predicted = sample['pred_instances']
        kept = (predicted['scores'] >= self.score_thr).nonzero().flatten().tolist()
        if not kept:
            return {name: [] for name in _COLUMNS}
        captions = self._captions(predicted)
        boxes = predicted['bboxes'].tolist()
        rollout = RolloutBatch(
            data_samples=[sample], model_images=[_load(sample)], group_size=len(kept),
            texts=[captions[i] for i in kept],
            parsed=[ReasoningOutput(None, captions[i], (AnsweredObject(tuple(boxes[i]), ()), ))
                    for i in kept])
        discriminated = self.reward(rollout)  # also writes the signals
        columns = dict(rollout.signals, discriminated=discriminated)
        return {name: columns[name][0].tolist() for name in _COLUMNS}

    def _captions(self, predicted: dict) -> Sequence[str]:
        """A caption for each of n boxes."""
        if 'captions' in predicted:
            return predicted['captions']
        names = predicted.get('label_names')
        if names is None:
            names = self._class_names(predicted['labels'].tolist())
        return [self.captions.get(name, self.template.format(label=name)) for name in names]

    def _class_names(self, labels: list[int]) -> list[str]:
        meta = self.dataset_meta or {}
        if isinstance(meta, Sequence):  # concatenated data sets whose metainfo differs
            meta = meta[0] if len({tuple(part.get('classes') or ()) for part in meta}) == 1 else {}
        classes = meta.get('classes') or ()
        unknown = self.captions.keys() - set(classes)
        if unknown:
            raise ValueError(f'`captions` should name classes of the data set, but got '
                             f'{sorted(unknown)}, which are not in {list(classes)}')
        if max(labels) >= len(classes):
            raise ValueError(f"`dataset_meta['classes']` should name every label, but label "
                             f'{max(labels)} was predicted and there are {len(classes)} names; '
                             f'set `metainfo=dict(classes=...)` of the data set')
        return [classes[label] for label in labels]

    def compute_metrics(self, results: list[dict[str, list[float]]]) -> dict[str, float]:
        """Average over the boxes of all images."""
        boxes = {name: np.concatenate([row[name] for row in results]) for name in _COLUMNS}
        usable = np.isfinite(boxes['s_margin'])
        metrics = {name: _mean(boxes[name][usable]) for name in _SIGNALS}
        metrics['discriminated'] = _mean(boxes['discriminated'])
        return dict(metrics, num_boxes=len(usable), num_unusable=int((~usable).sum()))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _load(sample: dict) -> torch.Tensor:
    """The image of a sample, uint8 (3, H, W), RGB, in the frame of its boxes."""
    image = read_image(sample['img_path'])
    shape = sample.get('ori_shape', image.shape[:2])
    if tuple(shape) != image.shape[:2]:
        raise ValueError(f'{sample["img_path"]} should have the size of the boxes\' frame, '
                         f'`ori_shape` {tuple(shape)}, but got {image.shape[:2]} (height, width)')
    return torch.from_numpy(image).permute(2, 0, 1)
