# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The base class of decoders that find the instances of a text and pick them by boxes and points.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmdpad.prompts import noun_phrase, well_formed

from .instances import Instances, assign_instances
from .prompted_decoder import PromptedDecoder
from .prompts import check_prompts, clip_prompts, keep_inside

TEXTS = ('caption', 'noun_phrase')
"""What a decoder may take as the text: the caption of an answer, or its noun phrase."""


class ConceptDecoder(PromptedDecoder):
    """A frozen model that finds all instances of a text, of which each object gets its own.

    An object gets the instance with the highest match, :func:`.instances.match_instances`, among
    those whose box has an IoU of at least ``min_iou`` with the object's. Two objects never get the
    same instance: the sum of all matches is maximized. An object that gets none, or whose answer
    has no text, is decoded by its box and points alone (:meth:`segment`), as by any other decoder.

    Args:
        text: 'caption', or 'noun_phrase' for :func:`mmdpad.prompts.noun_phrase` of the caption.
        score_thr: Instances with a score of at most this are ignored, in [0, 1).
        min_iou: In (0, 1].
        cache_size, max_hole_area, max_sprinkle_area: See :class:`PromptedDecoder`.

    Raises:
        ValueError: A value is not such a one.
    """

    takes_text = True

    def __init__(self, *args: Any, text: str = 'caption', score_thr: float = 0.3,
                 min_iou: float = 0.1, **kwargs: Any) -> None:
        check_concept(text, score_thr, min_iou)
        super().__init__(*args, **kwargs)
        self.text, self.score_thr, self.min_iou = text, score_thr, min_iou

    def forward(self, image: np.ndarray, boxes: Tensor, points: Tensor,  # type: ignore[override]
                text: str | None = None, negatives: Sequence[Tensor] = ()
                ) -> tuple[Tensor, Tensor, Tensor]:
        """Segment the N objects of one answer about an image.

        Args:
            image, boxes, points, negatives: See :class:`PromptedDecoder`.
            text: The caption of the answer, or None.

        Returns:
            Masks (N, H, W) bool and scores (N,) float: the confidence in the instance, in [0, 1],
            or the score of :meth:`segment`. Whether an object is decoded by its box and points
            alone, (N,) bool. All are on the decoder's device.

        Raises:
            ValueError, NonFiniteError: See :class:`PromptedDecoder`.
        """
        return self.decode_answers(image, [(boxes, points, text, negatives)])[0]

    @torch.no_grad()
    def decode_answers(self, image: np.ndarray, answers: Sequence[tuple]
                       ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Segment the objects of several answers about one image: the same bits as from
        :meth:`forward` for each, but the image is encoded once, and each text is found once.

        Args:
            image: See :meth:`forward`.
            answers: The further arguments of :meth:`forward` for each answer.

        Returns, raises:
            See :meth:`forward`.
        """
        prompts = [check_prompts(image, boxes, points) for boxes, points, *_ in answers]
        rows_of: dict[str, list[int]] = {}
        for row, (_, _, caption, *_) in enumerate(answers):
            text = self.prepare_text(caption)
            rows_of.setdefault(text if len(prompts[row][0]) else '', []).append(row)
        decoded = {}
        with self.holding_image():
            for text, rows in rows_of.items():
                found = self.find(image, text) if text else None
                decoded.update({row: self._decode(image, *prompts[row], found, *answers[row][3:])
                                for row in rows})
        return [decoded[row] for row in range(len(answers))]

    def _decode(self, image: np.ndarray, boxes: np.ndarray, points: np.ndarray,
                found: Instances | None,
                negatives: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor, Tensor]:
        """Segment the objects of one answer, given the instances of its text."""
        shape = image.shape[:2]
        chosen = np.full(len(boxes), -1) if found is None else assign_instances(
            found, *clip_prompts(boxes, points, shape), self.min_iou,
            keep_inside(negatives, len(boxes), shape))
        masks = torch.zeros(len(boxes), *shape, dtype=torch.bool, device=self.device)
        scores = torch.zeros(len(boxes), device=self.device)
        fallback = torch.from_numpy(chosen < 0)
        if found is not None and not fallback.all():
            picked = torch.from_numpy(chosen)[~fallback]
            masks[~fallback] = self.clean(found.masks[picked]).to(self.device)
            scores[~fallback] = found.scores[picked].to(self.device)
        if fallback.any():
            masks[fallback], scores[fallback] = super().forward(
                image, torch.from_numpy(boxes)[fallback], torch.from_numpy(points)[fallback],
                [negatives[row] for row in fallback.nonzero()[:, 0]] if negatives else ())
        return masks, scores, fallback.to(self.device)

    @contextmanager
    def holding_image(self) -> Iterator[None]:
        """Keep what is computed from an image alone; all calls within the block have the same."""
        with self.feature_cache.keeping(1):
            yield

    def prepare_text(self, caption: str | None) -> str:
        """The text to find, empty without one."""
        caption = well_formed(caption or '').strip()
        return noun_phrase(caption) if self.text == 'noun_phrase' else caption

    @abstractmethod
    def find(self, image: np.ndarray, text: str) -> Instances:
        """Find all instances of a text, with scores above ``score_thr``.

        Args:
            image: uint8 (H, W, 3), RGB.
            text: Not empty.
        """


def check_concept(text: str = 'caption', score_thr: float = 0.3, min_iou: float = 0.1) -> None:
    """Raise ValueError unless these are settings of a :class:`ConceptDecoder`."""
    if text not in TEXTS:
        raise ValueError(f'`text` should be one of {TEXTS}, but got {text!r}')
    if not 0 <= score_thr < 1:
        raise ValueError(f'`score_thr` should be in [0, 1), but got {score_thr}')
    if not 0 < min_iou <= 1:
        raise ValueError(f'`min_iou` should be in (0, 1], but got {min_iou}')
