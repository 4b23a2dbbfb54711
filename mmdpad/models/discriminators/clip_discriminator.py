# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How well captions fit pictures, by a frozen CLIP model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor

from mmdpad.models.frozen import FrozenModule
from mmdpad.registry import MODELS

from .caption_tokens import CaptionTokens
from .open_clip_loading import load_open_clip


@MODELS.register_module()
class CLIPDiscriminator(FrozenModule):
    """Cosine similarities of pictures and captions.

    Args:
        model_name: An architecture of ``open_clip.list_models()``, 'local-dir:PATH' (a folder with
            ``open_clip_config.json`` and weights) or 'hf-hub:ORG/REPO'. The default with
            ``pretrained='openai'`` is the published choice, CLIP ViT-B/32.
        pretrained: A tag of that architecture or a local weights file; None for the two prefixes.
            For a file with OpenAI's weights name the '-quickgelu' variant of the architecture
            (a tag's activation is set here, a file does not tell).
        precision: 'fp32', 'fp16', 'bf16', 'pure_fp16' or 'pure_bf16', as open_clip means them.
            Cosines are float32 in any case.
        allow_random: Accept missing weights and use random ones; for smoke tests only.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: see :func:`load_open_clip`.
    """

    def __init__(self,
                 model_name: str = 'ViT-B-32',
                 pretrained: str | None = 'openai',
                 precision: str = 'fp32',
                 allow_random: bool = False) -> None:
        super().__init__()
        self.clip, self._preprocess, tokenizer = load_open_clip(model_name, pretrained, precision,
                                                                allow_random)
        self.tokens = CaptionTokens(tokenizer, getattr(self.clip, 'context_length', None))
        self._input_dtype = open_clip.get_input_dtype(precision) or torch.float32
        self.freeze()

    @torch.no_grad()
    def forward(self, pictures: Sequence[np.ndarray], captions: Sequence[str | None]) -> Tensor:
        """Compare every picture with every caption.

        Every distinct picture is encoded once, the distinct captions in one batch; equal pictures
        have exactly equal cosines.

        Args:
            pictures: P uint8 arrays (h, w, 3), RGB; sizes may differ.
            captions: N texts or None.

        Returns:
            (P, N) float32 cosines in [-1, 1] on the CPU. The column of a caption that is missing,
            says nothing or is longer than the model's context is NaN.
        """
        cosines = torch.full((len(pictures), len(captions)), math.nan)
        usable = {text: self.tokens.fits(text) for text in dict.fromkeys(captions)}
        columns = [column for column, text in enumerate(captions) if usable[text]]
        if len(pictures) and columns:
            images, image_of = self._encode_pictures(pictures)
            texts, text_of = self._encode_texts([captions[column] for column in columns])
            cosines[:, columns] = (images @ texts.T).clamp(-1, 1)[image_of][:, text_of]
        return cosines

    def _encode_pictures(self, pictures: Sequence[np.ndarray]) -> tuple[Tensor, list[int]]:
        """Unit vectors (distinct pictures, D), float32, on the CPU, and the row of each picture."""
        rows = _distinct((p.shape, p.tobytes()) for p in pictures)
        first = [rows.index(row) for row in range(max(rows) + 1)]
        pixels = torch.stack([self._preprocess(Image.fromarray(pictures[i])) for i in first])
        features = self.clip.encode_image(pixels.to(self.device, self._input_dtype))
        return _unit(features), rows

    def _encode_texts(self, texts: list[str]) -> tuple[Tensor, list[int]]:
        """Unit vectors (distinct texts, D), float32, on the CPU, and the row of each text."""
        tokens = self.tokens(list(dict.fromkeys(texts)))
        return _unit(self.clip.encode_text(tokens.to(self.device))), _distinct(texts)


def _distinct(keys) -> list[int]:
    """The number of each key among the distinct ones, in order of first appearance."""
    numbers: dict = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu()
