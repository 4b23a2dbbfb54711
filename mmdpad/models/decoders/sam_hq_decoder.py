# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A box and points become a mask, by SAM-HQ."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import SamHQModel, SamHQProcessor

from mmdpad.registry import MODELS

from .hf_sam_decoder import HFSAMDecoder


@MODELS.register_module()
class SAMHQDecoder(HFSAMDecoder):
    """A frozen SAM-HQ (arXiv 2306.01567), ViT-B to ViT-H; arguments as of :class:`HFSAMDecoder`.

    Its masks are the sums of the best proposal's logits and those of the high-quality token, which
    is transformers' default; the authors' predictor does the same.

    The embeddings of an image take 17 MB (ViT-B) to 25 MB (ViT-H).
    """

    model_class = SamHQModel
    processor_class = SamHQProcessor
    model_types = ('sam_hq', )
    example = 'syscv-community/sam-hq-vit-huge'

    def embed(self, pixels: Tensor) -> dict[str, Any]:
        image, layers = self.sam.get_image_embeddings(pixels)
        # Of the layers with global attention the mask decoder reads only the first.
        return dict(image_embeddings=image.float(), intermediate_embeddings=[layers[0].float()])

    def place(self, boxes: np.ndarray, points: np.ndarray, shape: tuple[int, int],
              seen: tuple[int, int]) -> dict[str, Tensor]:
        # As its processor does, which cannot be asked without an image: in float64.
        scale = np.array([seen[1] / shape[1], seen[0] / shape[0]])
        boxes = boxes.astype(np.float32).reshape(-1, 2, 2) * scale
        return dict(input_boxes=torch.from_numpy(boxes.reshape(1, -1, 4)),
                    input_points=torch.from_numpy(points * scale)[None])

    def finish(self, masks: Tensor, shape: tuple[int, int], seen: tuple[int, int]) -> Tensor:
        return self.processor.post_process_masks([masks], [shape], [seen])[0]
