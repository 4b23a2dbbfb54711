# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A mask decoder for segment-anything models."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

import mmdpad.toy.sam  # noqa: F401 adds vit_shapes to sam_model_registry
from mmdpad.models.weights import load_strictly, read_checkpoint
from mmdpad.registry import MODELS

from .prompted_decoder import PromptedDecoder, best_of, join_points

_HINT = ('Download a checkpoint of the same model as `model` (for vit_h that is '
         'sam_vit_h_4b8939.pth, see the README of segment-anything) and set `checkpoint` to it')
# Attributes of SamPredictor that belong to its image.
_IMAGE_STATE = ('features', 'original_size', 'input_size', 'is_image_set')


@MODELS.register_module()
class SAMDecoder(PromptedDecoder):
    """A frozen segment-anything model, prompted by one box and some points per object.

    Of the three masks that SAM proposes, it returns the one with the highest predicted IoU.
    Embeddings of recent images are cached, so several questions about one image encode it once.

    Args:
        model: A name in ``segment_anything.sam_model_registry``, or ``vit_shapes``, the toy SAM
            (:mod:`mmdpad.toy.sam`).
        checkpoint: State dict of that model (``.pth`` or ``.safetensors``; half precision is
            converted to float32). None is an error unless ``allow_random`` is set.
        allow_random: Accept ``checkpoint=None`` and use random weights; for smoke tests only.
        cache_size: Number of images whose embeddings are cached, on the decoder's device: 4 MB
            each for all of SAM's own models, 64 MB for the default; 0 disables the cache.
        max_hole_area, max_sprinkle_area: See :class:`PromptedDecoder`.

    Raises:
        ValueError: The model name is unknown, there is no checkpoint, or it does not fit the model;
            or an area is negative.
        FileNotFoundError: The checkpoint does not exist.
    """

    takes_negative_points = True

    def __init__(self,
                 model: str = 'vit_h',
                 checkpoint: str | None = None,
                 allow_random: bool = False,
                 cache_size: int = 16,
                 max_hole_area: int = 0,
                 max_sprinkle_area: int = 0) -> None:
        super().__init__(cache_size, max_hole_area, max_sprinkle_area)
        check_name(model)
        # Read the file first, so that a wrong path fails before a large model is built.
        state = read_checkpoint(checkpoint, _HINT, allow_random)
        self.sam = sam_model_registry[model]()
        if state is not None:
            assert checkpoint is not None
            load_strictly(self.sam, state, checkpoint, _HINT)
        self.variant = self.describe(model)
        self.freeze()
        self._predictor = SamPredictor(self.sam)
        self._predictor.transform = _AtLeastAPixel(self.sam.image_encoder.img_size)

    def segment(self, image: np.ndarray, boxes: np.ndarray, points: np.ndarray,
                negatives: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """See :class:`PromptedDecoder`. The scores are SAM's own IoU estimates (near [0, 1], not
        clipped)."""
        self._set_image(image)
        shape, transform = image.shape[:2], self._predictor.transform
        points, labels = join_points(points, negatives)
        masks, scores, _ = self._predictor.predict_torch(
            point_coords=self._tensor(transform.apply_coords(points, shape)),
            point_labels=torch.as_tensor(labels, device=self.device),
            boxes=self._tensor(transform.apply_boxes(boxes, shape)))
        return best_of(masks, scores)

    def _set_image(self, image: np.ndarray) -> None:
        (state, ) = self.feature_cache.lookup([image], self._encode)
        vars(self._predictor).update(state)

    def _encode(self, images: list[np.ndarray]) -> list[dict[str, Any]]:
        """Encode each image and return the predictor's state for it."""
        states = []
        for image in images:
            self._predictor.set_image(image)
            states.append({name: getattr(self._predictor, name) for name in _IMAGE_STATE})
        return states

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float, device=self.device)


def check_name(model: str) -> None:
    """Raise ValueError unless this is a name in ``segment_anything.sam_model_registry``."""
    if model not in sam_model_registry:
        raise ValueError(f'`model` should be one of {sorted(sam_model_registry)} (names in '
                         f'segment_anything.sam_model_registry), but got {model!r}')


class _AtLeastAPixel(ResizeLongestSide):
    """segment-anything's transform, but every side of a resized image has at least one pixel."""

    @staticmethod
    def get_preprocess_shape(*shape: int) -> tuple[int, int]:
        height, width = ResizeLongestSide.get_preprocess_shape(*shape)
        return max(height, 1), max(width, 1)
