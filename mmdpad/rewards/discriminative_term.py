# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The discriminative reward R_dpad: what a caption is compared with, and what it earns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmdpad.geometry.boxes import Numbers, covered_share, enlarge, overlaps, union_box
from mmdpad.geometry.coordinates import shape_of
from mmdpad.geometry.regions import crop, mask_out
from mmdpad.registry import REWARDS
from mmdpad.structures import RolloutBatch
from mmdpad.structures.reasoning_output import Box

from .described_instances import DescribedInstances
from .discriminative import check_form, discriminative_reward
from .sharing import build_discriminator, shared_pixels

REGIONS = ('target', 'predicted', 'target_or_predicted')
CONTRASTS = ('image', 'masked', 'others')
COMBINATIONS = ('mean', 'min', 'vote')


@dataclass(frozen=True)
class DiscriminativeOptions:
    """The options of the discriminative term, checked on construction.

    The defaults are the paper's. S1 is the similarity of a caption to its region, S2 to the
    contrast.

    Attributes:
        form: Form of :func:`mmdpad.rewards.discriminative_reward`, which maps S1 and S2 to a
            value: a name, a sum of several, or their weights by name.
        temperature, alpha: Parameters of the forms 'softmax' and 'sigmoid'.
        region: 'target' is the ground-truth box. 'predicted' is the response's own box in the model
            image; a response scores 0 if it has no box that overlaps the image. For several
            objects it is the union box. If there are no objects, every response scores 0.
            'target_or_predicted' is 'predicted' for the prompts for which the data have no box, and
            'target' for the others.
        max_region: Share of the image, in (0, 1], that a predicted region covers at most, its
            margin included; with a larger one a response scores 0. Without a limit, a region that
            leaves out little of the image wins by chance, whatever the caption says
            (docs/decisions.md).
        region_margin: The region extends beyond its box by this share of the box's width and height
            on every side, clipped to the image; not negative.
        contrast: 'image' is the whole image. 'masked' is the image with the region masked out
            (:func:`mask_out`; if the region covers the image, the image itself). 'others' is the
            best match among the other objects in the data, cropped with the same margin (if there
            are none, the whole image).
        combine: How to combine the values of several discriminators, each computed by the form:
            'mean', 'min', or 'vote', which is 1 where S1 > S2 for more than half of them and needs
            the form 'binary'. A discriminator that cannot use a caption, because it is too long,
            gives it the value 0.
        per_instance: Score the description of each object instead of one caption, for a task whose
            answers have them. An object is matched to a target of its label
            (:class:`mmdpad.geometry.detections.DetectionMatcher`); without a match it is worth
            nothing. Its region is the matched target or, with 'predicted', its own box. With
            'others', the contrasts are the image and all other boxes: those of the data (targets
            and other objects), or with 'predicted' those of the answer. The value of a response is
            the sum over its objects divided by the larger of the numbers of objects and targets, so
            leaving out objects does not pay. Where the data have no targets, every predicted box is
            scored.
        match_iou: IoU that a match exceeds, in [0, 1); only with ``per_instance``.

    Raises:
        ValueError: A name is unknown, or a number is out of range.
    """

    form: str | Mapping[str, float] = 'binary'
    temperature: float = 0.1
    alpha: float = 100.0
    region: str = 'target'
    max_region: float = 1.0
    region_margin: float = 0.0
    contrast: str = 'image'
    combine: str = 'mean'
    per_instance: bool = False
    match_iou: float = 0.5

    def __post_init__(self) -> None:
        forms = check_form(self.form, self.temperature, self.alpha)
        for name, names in (('region', REGIONS), ('contrast', CONTRASTS),
                            ('combine', COMBINATIONS)):
            if getattr(self, name) not in names:
                raise ValueError(f'`{name}` should be one of {names}, but got '
                                 f'{getattr(self, name)!r}')
        if not 0 <= self.region_margin < math.inf:
            raise ValueError(f'`region_margin` should be a share of the box, 0 or more, but got '
                             f'{self.region_margin}')
        if not 0 < self.max_region <= 1:
            raise ValueError(f'`max_region` should be a share of the image in (0, 1], but got '
                             f'{self.max_region}')
        if self.per_instance and self.region == 'target_or_predicted':
            raise ValueError("`region` should be 'target' or 'predicted' with `per_instance`, but "
                             "got 'target_or_predicted'")
        if not 0 <= self.match_iou < 1:
            raise ValueError(f'`match_iou` should be an IoU in [0, 1), but got {self.match_iou}')
        if self.combine == 'vote' and forms != {'binary': 1.0}:
            raise ValueError(f"`combine` should be one of {COMBINATIONS[:2]} with the form "
                             f"{self.form!r}, but got 'vote', which counts wins; set "
                             f"form='binary', or another `combine`")

    def allow(self, box: Numbers, shape: tuple[int, int]) -> bool:
        """Whether a predicted box in an image of shape (height, width) may be a region."""
        return overlaps(box, shape) and covered_share(
            enlarge(box, self.region_margin), shape) <= self.max_region


@REWARDS.register_module()
class DiscriminativeReward:
    """Rewards captions that fit their object better than its contrast, or with ``per_instance``
    the descriptions of several objects.

    Args:
        discriminator: Config of a model that maps P uint8 RGB images and N captions to (P, N)
            cosines, NaN for a caption that cannot be used; see ``CLIPDiscriminator``. A list of
            configs makes an ensemble, see ``combine``. Terms with equal configs share one model
            (:func:`build_discriminator`).
        device: Where the discriminators run; default: the device of the model that is trained, or
            mmengine's current one where there is none.
        **options: See :class:`DiscriminativeOptions`.

    Raises:
        ValueError: The list is empty, or see :class:`DiscriminativeOptions`.
    """

    needs_model = True

    def __init__(self, discriminator: dict | Sequence[dict],
                 device: str | torch.device | None = None, **options: Any) -> None:
        self.options = DiscriminativeOptions(**options)
        self.configs = as_configs(discriminator)
        self.device = device

    @cached_property
    def discriminators(self) -> list[nn.Module]:
        """The models, built when they are asked for first."""
        return [build_discriminator(config, self.device) for config in self.configs]

    def prepare(self, model: Any = None, dataset: Any = None) -> None:
        """Build the discriminators, so that nothing starts without their weights.

        Raises:
            KeyError: A type is not registered; or whatever a discriminator raises.
        """
        if self.device is None and model is not None:
            self.device = next(model.parameters()).device
        _ = self.discriminators

    def __call__(self, rollout: RolloutBatch) -> Tensor:
        """Return (B, G) rewards in the form's range.

        Writes to ``rollout.signals``: 's_roi' (S1), 's_image' (S2, for any contrast), 's_margin'
        (S1 - S2), and 's_rank', 1 + the number of contrasts that fit the caption at least as well
        as the region. With the contrast 'others' this is the object's rank among all objects in the
        data; with a single contrast it is 1 or 2. Each signal is (B, G), the mean over several
        discriminators (and with ``per_instance`` over the objects), and NaN without a usable
        caption or a region.
        """
        if self.options.per_instance:
            return self._score_instances(rollout)
        views, places = self._all_views(rollout)
        captions = [parsed.caption for parsed in rollout.parsed]
        found = torch.full((len(self.discriminators), len(places), 3), math.nan)
        for model, cosines in enumerate(self.compare(views, captions)):
            for row, (place, cosine) in enumerate(zip(places, cosines.T, strict=True)):
                own = cosine[place]
                if len(own):
                    found[model, row] = torch.stack([own[0], own[1:].max(), (own >= own[0]).sum()])
        self._log(rollout, *found.mean(0).unbind(1))
        return rollout.per_response(self._value(found))

    def _score_instances(self, rollout: RolloutBatch) -> Tensor:
        """:meth:`__call__` for objects with descriptions of their own."""
        described = DescribedInstances(rollout, self.options)
        found, values = (own.float() for own in self.score_instances(described))
        s1, s2, rank = found.unbind(1)
        self._log(rollout, *map(described.average, (
            s1, s2, rank.masked_fill((s1 - s2).isnan(), math.nan))))
        return rollout.per_response(described.sum_up(values))

    def score_instances(self, described: DescribedInstances) -> tuple[Tensor, Tensor]:
        """Compare the descriptions of I instances with their views.

        Returns:
            (I, 3) float64: S1, S2 and the rank, means over several discriminators; and (I,)
            float64, the values in the form's range. (In float32 the form 'sigmoid' is 1 for all
            margins above 0.17.)
        """
        found = torch.stack([described.similarities(cosines) for cosines in self.compare(
            described.views.images, described.descriptions)]).double()
        return found.mean(0), self._value(found)

    @staticmethod
    def _log(rollout: RolloutBatch, *values: Tensor) -> None:
        """Write the signals from S1, S2 and the rank of each response, (B * G,)."""
        s1, s2, rank = map(rollout.per_response, values)
        margin = s1 - s2
        rollout.signals.update(s_roi=s1, s_image=s2, s_margin=margin,
                               s_rank=rank.masked_fill(margin.isnan(), math.nan))

    def _value(self, found: Tensor) -> Tensor:
        """The value (N,) of N captions from (K, N, 3) similarities by K discriminators."""
        options = self.options
        return _combine(discriminative_reward(
            found[..., 0], found[..., 1], options.form, options.temperature, options.alpha),
            options.combine)

    def compare(self, images: Sequence[np.ndarray],
                captions: Sequence[str | None]) -> list[Tensor]:
        """Compare each caption with each image.

        Args:
            images: P uint8 arrays (h, w, 3), RGB; sizes may differ.
            captions: N captions, None where one is missing.

        Returns:
            For each discriminator, (P, N) cosines in [-1, 1], NaN for a caption that it cannot use.
        """
        if len(self.discriminators) == 1:
            return [self.discriminators[0](images, captions)]
        with shared_pixels():
            return [model(images, captions).cpu() for model in self.discriminators]

    def _all_views(self, rollout: RolloutBatch) -> tuple[list[np.ndarray], list[slice]]:
        """Collect all views, and the slice of them that each response is compared with: its region,
        then its contrasts. The slice is empty for a response without a region."""
        images = [image.permute(1, 2, 0).cpu().numpy() for image in rollout.model_images]
        negatives = [boxes.tolist() for boxes in rollout.negative_boxes]
        views: list[np.ndarray] = []

        @cache
        def look(prompt: int, box: Box | None) -> slice:
            start = len(views)
            if box is not None:
                views.extend(self._views(images[prompt], box, negatives[prompt]))
            return slice(start, len(views))

        places = [look(row // rollout.group_size, box)
                  for row, box in enumerate(self._boxes(rollout))]
        return views, places

    def _boxes(self, rollout: RolloutBatch) -> list[Box | None]:
        """Find the boxes of B * G regions, without their margin; None where a response has none."""
        size, region = rollout.group_size, self.options.region
        targets: list[Box | None] = [None] * len(rollout.parsed)
        if region != 'predicted':
            targets = [union_box(boxes.tolist()) for boxes in rollout.target_boxes
                       for _ in range(size)]
        if region == 'target':
            return targets
        shapes = [shape_of(image) for image in rollout.model_images
                  for _ in range(size)]
        boxes = [union_box([item.box for item in parsed.objects if item.box])
                 for parsed in rollout.parsed]
        return [target or (box if box and self.options.allow(box, shape) else None)
                for target, box, shape in zip(targets, boxes, shapes, strict=True)]

    def _views(self, image: np.ndarray, box: Box, others: list[list[float]]) -> list[np.ndarray]:
        """Crop the region of a box, followed by its contrasts."""
        margin, contrast = self.options.region_margin, self.options.contrast
        region = enlarge(box, margin)
        contrasts = [image]
        if contrast == 'masked':
            contrasts = [mask_out(image, region)]
        elif contrast == 'others' and others:
            contrasts = [crop(image, enlarge(other, margin)) for other in others]
        return [crop(image, region), *contrasts]


def as_configs(discriminator: Mapping | Sequence[Mapping]) -> list[Mapping]:
    """Return one or several configs as a list.

    Raises:
        ValueError: The list is empty.
    """
    configs = [discriminator] if isinstance(discriminator, Mapping) else list(discriminator)
    if not configs:
        raise ValueError('`discriminator` should be the config of a model or a list of configs, '
                         'but got an empty list; name one')
    return configs


def _combine(values: Tensor, how: str) -> Tensor:
    """Combine the values (K, N) of K discriminators into (N,)."""
    if how == 'vote':
        return (2 * values.sum(0) > len(values)).to(values.dtype)
    return values.amin(0) if how == 'min' else values.mean(0)
