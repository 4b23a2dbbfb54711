# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Compares captions with images by a frozen CLIP model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmdpad.models.frozen import FrozenModule
from mmdpad.models.non_finite import NonFiniteError, diagnose
from mmdpad.models.retry_on_oom import retry_on_oom
from mmdpad.registry import MODELS
from mmdpad.rewards.sharing import to_pixels

_NAME = 'The discriminator (CLIP)'


@MODELS.register_module()
class CLIPDiscriminator(FrozenModule):
    """Computes cosine similarities of images and captions.

    Args:
        model_name: An architecture of ``open_clip.list_models()``, 'local-dir:PATH' (a folder with
            ``open_clip_config.json`` and weights) or 'hf-hub:ORG/REPO'. The default with
            ``pretrained='openai'`` is the published choice, CLIP ViT-B/32.
        pretrained: A tag of that architecture or a local weights file; None for the two prefixes.
            For a tag, the right activation is set. A file with weights of OpenAI, MetaCLIP or DFN
            needs the '-quickgelu' variant of the architecture; any other variant is an error if
            the file's name or content reveals this.
        precision: 'fp32', 'fp16', 'bf16', 'pure_fp16' or 'pure_bf16', as in open_clip. Cosines are
            always float32.
        context_length: Number of positions of the text tower, for a weights file that differs from
            the architecture (248 for Long-CLIP on 'ViT-B-16-quickgelu').
        quick_gelu: The activation, QuickGELU (True) or GELU (False); overrides the architecture,
            tag and file. None uses theirs.
        allow_random: Accept missing weights and use random ones; for smoke tests only.
        cache_size: Number of images whose features are cached between calls, so that a repeated
            image is neither preprocessed nor encoded again; 0 disables the cache. A feature takes
            4 bytes per dimension in main memory: 2 KB for ViT-B/32, 16 MB for the default size.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: See :func:`load_open_clip`.
    """

    def __init__(self,
                 model_name: str = 'ViT-B-32',
                 pretrained: str | None = 'openai',
                 precision: str = 'fp32',
                 context_length: int | None = None,
                 quick_gelu: bool | None = None,
                 allow_random: bool = False,
                 cache_size: int = 8192) -> None:
        super().__init__(cache_size)
        # Imported here, since most users of mmdpad.models build no CLIP and open_clip imports timm.
        import open_clip

        from .caption_tokens import CaptionTokens
        from .open_clip_loading import load_open_clip
        self.clip: Any
        self.clip, self._preprocess, tokenizer = load_open_clip(
            model_name, pretrained, precision, allow_random, context_length, quick_gelu)
        self._preprocessing = repr(sorted(self.clip.visual.preprocess_cfg.items()))
        self.tokens = CaptionTokens(tokenizer, getattr(self.clip, 'context_length', None))
        self._input_dtype = open_clip.get_input_dtype(precision) or torch.float32
        self.freeze()

    @torch.no_grad()
    def forward(self, images: Sequence[np.ndarray], captions: Sequence[str | None]) -> Tensor:
        """Compare every image with every caption.

        Each distinct image that is not cached is encoded once, and the distinct captions in one
        batch. Equal images have exactly equal cosines.

        Args:
            images: P uint8 arrays (h, w, 3), RGB; sizes may differ.
            captions: N captions, None where one is missing.

        Returns:
            (P, N) float32 cosines in [-1, 1] on the CPU. The column of a caption that is missing,
            empty or longer than the model's context is NaN.

        Raises:
            NonFiniteError: Features are NaN or infinite.
        """
        texts = [text for text in dict.fromkeys(captions)
                 if text is not None and self.tokens.fits(text)]
        cosines = torch.full((len(images), len(texts) + 1), math.nan)  # the last: unusable
        if len(images) and texts:
            features = self.feature_cache.lookup(images, self._encode_images)
            cosines[:, :-1] = _cosines(features, self._encode_texts(texts))
        column: dict[str | None, int] = {text: number for number, text in enumerate(texts)}
        return cosines[:, [column.get(text, -1) for text in captions]]

    def _encode_images(self, images: list[np.ndarray]) -> list[Tensor]:
        """Encode each image as a unit vector (D,), float32, on the CPU.

        On a CPU, each image has products of its own. In a batch, an image's last bits depend on the
        other images, and so on what is cached; a resumed run starts with an empty cache.
        """
        from .image_tower import encode_images
        pixels = to_pixels(images, self._preprocess, self._preprocessing)

        def encode(part: slice) -> Tensor:
            inputs = pixels[part].to(self.device, self._input_dtype)
            return _unit(encode_images(self.clip, inputs) if self.device.type == 'cpu' else
                         self.clip.encode_image(inputs))

        features = torch.cat(retry_on_oom(encode, len(images), _NAME))
        self._check(features, encode, 'an image')
        return [feature.clone() for feature in features]

    def _encode_texts(self, texts: list[str]) -> Tensor:
        """Encode texts as unit vectors (len(texts), D), float32, on the CPU."""
        from .text_tower import encode_text
        tokens = self.tokens(texts)

        def encode(part: slice) -> Tensor:
            return _unit(encode_text(self.clip, tokens[part].to(self.device)))

        features = torch.cat(retry_on_oom(encode, len(tokens), _NAME))
        self._check(features, encode, 'a caption')
        return features

    def _check(self, features: Tensor, encode: Callable[[slice], Tensor], what: str) -> None:
        """Refuse NaN, which is reserved for the cosines of unusable captions."""
        rows = features.isfinite().all(dim=1).logical_not().nonzero()
        if rows.numel():
            row = int(rows[0])
            raise NonFiniteError(
                f'{_NAME} should give finite features of {what}, but some are not. '
                + diagnose(self.clip, lambda: encode(slice(row, row + 1)), '`precision`'))


def _cosines(images: list[Tensor], texts: Tensor) -> Tensor:
    """Cosines (P, N) of P unit vectors (D,) and N unit vectors (N, D).

    Computes one product per distinct object, since equal rows of a matrix product may round
    differently.
    """
    rows = {id(image): texts @ image for image in images}
    return torch.stack([rows[id(image)] for image in images]).clamp(-1, 1)


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu()
