# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The discriminative reward of answers whose objects have descriptions of their own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmdpad.geometry.boxes import enlarge, overlaps
from mmdpad.geometry.coordinates import shape_of
from mmdpad.geometry.detections import DetectionTruth
from mmdpad.geometry.regions import crop, mask_out
from mmdpad.structures import ParseFailure, ReasoningOutput, RolloutBatch
from mmdpad.structures.reasoning_output import Box

from .detection import DetectedObjects, asked_labels, detection_truth


@dataclass(frozen=True)
class Instance:
    """An object of a response that is compared with its image.

    Attributes:
        row: The response.
        number: Which of the response's objects it is.
        description: Of the object; None if it has none.
        views: Numbers of the views it is compared with: its region, then its contrasts.
    """

    row: int
    number: int
    description: str | None
    views: list[int]


@dataclass
class Views:
    """All images that descriptions are compared with, each once.

    Attributes:
        images: So far.
    """

    images: list[np.ndarray] = field(default_factory=list)
    _numbers: dict[Any, int] = field(default_factory=dict)

    def add(self, key: Any, make: Any) -> int:
        """The number of the view with this key; ``make`` makes it if it is new."""
        if key not in self._numbers:
            self._numbers[key] = len(self.images)
            self.images.append(make())
        return self._numbers[key]


class DescribedInstances:
    """The instances of a rollout's responses, by the options of the discriminative term.

    Args:
        rollout: The rollout.
        options: :class:`mmdpad.rewards.DiscriminativeOptions`.

    Attributes:
        instances: Those with a region.
        divisors: (B * G,) float: for each response, the larger of its number of objects (without
            ignored ones) and its number of targets, at least 1.
        views: Their views.
    """

    def __init__(self, rollout: RolloutBatch, options: Any) -> None:
        self.options = options
        self.views = Views()
        self.instances: list[Instance] = []
        divisors = []
        if options.region == 'target':
            _ = rollout.target_boxes  # raises where there are none
        for prompt, (sample, negatives) in enumerate(zip(
                rollout.data_samples, rollout.negative_boxes, strict=True)):
            scene = _Scene(prompt, sample, rollout.model_images[prompt], negatives.tolist())
            first = prompt * rollout.group_size
            for row in range(first, first + rollout.group_size):
                divisors.append(self._add(row, rollout.parsed[row], scene))
        self.divisors = torch.tensor(divisors, dtype=torch.float32)

    @property
    def descriptions(self) -> list[str | None]:
        """The description of each instance."""
        return [instance.description for instance in self.instances]

    def similarities(self, cosines: Tensor) -> Tensor:
        """S1, S2 and the rank of each of I instances.

        Args:
            cosines: (P, I) of the views with :attr:`descriptions`, by one discriminator.

        Returns:
            (I, 3) float.
        """
        found = torch.full((len(self.instances), 3), math.nan)
        for number, instance in enumerate(self.instances):
            own = cosines[instance.views, number]
            found[number] = torch.stack([own[0], own[1:].max(), (own >= own[0]).sum()])
        return found

    def sum_up(self, values: Tensor) -> Tensor:
        """The values (I,) of the instances as (B * G,): the sum over each response's instances,
        divided by its divisor."""
        return self._total(values) / self.divisors

    def average(self, values: Tensor) -> Tensor:
        """The mean of (I,) values over each response's instances that have one, (B * G,); NaN
        without any."""
        known = values.isfinite()
        return self._total(values.masked_fill(~known, 0)) / self._total(known.float())

    def _total(self, values: Tensor) -> Tensor:
        rows = torch.tensor([instance.row for instance in self.instances], dtype=torch.long)
        return torch.zeros(len(self.divisors)).index_add(0, rows, values)

    def _add(self, row: int, parsed: ReasoningOutput | ParseFailure, scene: _Scene) -> int:
        """Add the instances of a response; gives its divisor."""
        boxes: dict[int, Box] = {number: item.box for number, item in enumerate(parsed.objects)
                                 if item.box is not None}
        counted, owners = len(parsed.objects), {number: number for number in boxes}
        wanted = 0
        if scene.truth is not None:
            wanted = len(scene.truth.boxes)
            detected = DetectedObjects.of(parsed, scene.truth, scene.names)
            match = detected.matcher.match(self.options.match_iou)
            counted = detected.count(match)
            places = list(boxes)
            owners = {places[i]: j for i, j, _ in match.pairs}
        for number, target in owners.items():
            if self.options.region == 'target':
                assert scene.truth is not None
                others = [*scene.truth.boxes, *scene.negatives]
                region = others.pop(target)
            else:
                region = boxes[number]
                others = [box for place, box in boxes.items() if place != number]
            if (overlaps(region, scene.shape) if self.options.region == 'target'
                    else self.options.allow(region, scene.shape)):
                self.instances.append(Instance(row, number, parsed.objects[number].description,
                                               self._look(scene, region, others)))
        return max(counted, wanted, 1)

    def _look(self, scene: _Scene, box: Sequence[float],
              others: Iterable[Sequence[float]]) -> list[int]:
        """The views of an instance: its region, then its contrasts."""
        margin, contrast = self.options.region_margin, self.options.contrast

        def see(some: Sequence[float]) -> int:
            return self.views.add((scene.prompt, tuple(some)),
                                  lambda: crop(scene.image, enlarge(some, margin)))

        if contrast == 'masked':
            return [see(box), self.views.add(
                (scene.prompt, 'masked', tuple(box)),
                lambda: mask_out(scene.image, enlarge(box, margin)))]
        whole = self.views.add((scene.prompt, 'image'), lambda: scene.image)
        rest = map(see, others) if contrast == 'others' else ()
        return [see(box), whole, *rest]


class _Scene:
    """A prompt's image and what is known about it.

    Attributes:
        prompt: Its number in the rollout.
        negatives: Boxes of other objects that the data name.
        truth: Its targets; None if the data name none. Targets without labels have the label 0.
        names: Label of each name that an object may have.
        shape: (h, w) of the image.
    """

    def __init__(self, prompt: int, sample: Any, image: Tensor, negatives: list[Any]) -> None:
        self.prompt = prompt
        self.negatives = negatives
        self._pixels = image
        self.shape = shape_of(image)
        self.truth: DetectionTruth | None = None
        self.names = {'': 0}
        if hasattr(sample, 'model_targets'):
            if 'labels' in sample.model_targets:
                self.truth, self.names = detection_truth(sample), asked_labels(sample)
            else:
                boxes = sample.model_targets.bboxes.tolist()
                self.truth = DetectionTruth(boxes, [0] * len(boxes))

    @cached_property
    def image(self) -> np.ndarray:
        """The model image, uint8 (h, w, 3), RGB."""
        return self._pixels.permute(1, 2, 0).cpu().numpy()
