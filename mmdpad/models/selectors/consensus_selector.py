# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Chooses the answer that agrees most with the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from mmengine.structures import InstanceData

from mmdpad.geometry.mask_iou import pairwise_iou, union_of
from mmdpad.geometry.targets import box_from_mask
from mmdpad.registry import MODELS
from mmdpad.structures import Candidate, ParseFailure, Selection
from mmdpad.structures.candidates import agreement
from mmdpad.tasks import Task

from .selector import Selector, check_masks, refuse


@MODELS.register_module()
class ConsensusSelector(Selector):
    """The mean overlap with the other N - 1 answers, of which unusable responses overlap with
    nothing; in [0, 1]. A single answer has no value.

    Overlap is the IoU of the masks of two answers (the union of several objects), 1 of two empty
    masks. So the medoid of the masks wins, which is minimum Bayes risk decoding (arXiv 2108.04718)
    with the IoU as utility. For answers in words, overlap is whether they are the same after
    normalization, or name the same choice: the most frequent answer wins, as in self-consistency
    (arXiv 2203.11171).

    Args:
        vote: Answer with the mask of those pixels that more than half of the usable answers have,
            and with the text of the answer whose mask has the highest IoU with it; that IoU is the
            value. For masks only.
    """

    name = 'consensus'

    def __init__(self, vote: bool = False) -> None:
        self.vote = vote
        if vote:
            self.name = 'vote'

    def check_tasks(self, tasks: Mapping[str, Task]) -> None:
        """See :class:`Selector`."""
        if self.vote:
            check_masks('ConsensusSelector with `vote`', tasks)
        refuse(self.name, [name for name, task in tasks.items() if task.has_labels],
               'answers that are one mask or in words, not labelled boxes',
               "name 'likelihood' instead")

    def values(self, selection: Selection) -> np.ndarray:
        """See :class:`Selector`."""
        usable = selection.usable
        if not self.vote:
            return agreement(selection.overlaps, usable)
        if not usable.any():
            return np.full(len(usable), np.nan)
        overlaps = pairwise_iou([vote(selection), *(
            union_of(own.instances.masks) for own in selection.candidates)])[0, 1:]
        return np.where(usable, overlaps, np.nan)

    def answer(self, selection: Selection, chosen: int) -> Candidate:
        """The chosen candidate; with ``vote``, with the voted mask as its only instance, its tight
        box and the candidate's points. A vote for no pixel says that there is no target."""
        candidate = selection.candidates[chosen]
        if not self.vote or isinstance(candidate.parsed, ParseFailure):
            return candidate
        mask = vote(selection)
        count = int(mask.any())
        scores, points = (candidate.instances[name].cpu() for name in ('scores', 'points'))
        voted = InstanceData(
            masks=torch.from_numpy(mask[None][:count]),
            bboxes=torch.from_numpy(box_from_mask(mask)[None] if count else np.zeros(
                (0, 4), np.float32)),
            points=points.reshape(1, points.shape[0] * points.shape[1], 2)[:count],
            scores=(scores.mean()[None] if len(scores) else torch.zeros(1))[:count],
            labels=torch.zeros(count, dtype=torch.long))
        parsed = candidate.parsed if count else replace(candidate.parsed, objects=())
        return replace(candidate, parsed=parsed, instances=voted)


def vote(selection: Selection) -> np.ndarray:
    """The pixels, bool (H, W), that more than half of the usable answers have in their masks."""
    masks = [union_of(own.instances.masks) for own in selection.candidates if own.usable]
    return 2 * np.sum(masks, axis=0, dtype=np.int32) > len(masks)
