# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How well captions fit pictures, by a frozen CLIP model."""

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
    """Cosine similarities of pictures and captions.

    Args:
        model_name: An architecture of ``open_clip.list_models()``, 'local-dir:PATH' (a folder with
            ``open_clip_config.json`` and weights) or 'hf-hub:ORG/REPO'. The default with
            ``pretrained='openai'`` is the published choice, CLIP ViT-B/32.
        pretrained: A tag of that architecture or a local weights file; None for the two prefixes.
            A tag's activation is set here. A file with weights of OpenAI, MetaCLIP or DFN needs the
            '-quickgelu' variant of the architecture, and is refused by another one where its name
            or content tells.
        precision: 'fp32', 'fp16', 'bf16', 'pure_fp16' or 'pure_bf16', as open_clip means them.
            Cosines are float32 in any case.
        context_length: Positions of the text tower, for a weights file that has another number
            than the architecture (248 for Long-CLIP on 'ViT-B-16-quickgelu').
        quick_gelu: The activation: QuickGELU (True) or GELU (False), whatever the architecture, tag
            or file says; None believes them.
        allow_random: Accept missing weights and use random ones; for smoke tests only.
        cache_size: Pictures whose features are kept from call to call, so that a picture that
            comes again is neither preprocessed nor encoded; 0 keeps none. A feature takes 4 bytes
            a dimension in main memory: 2 KB for ViT-B/32, 16 MB for the default number.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: see :func:`load_open_clip`.
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
        # Here, because most who import mmdpad.models build no CLIP, and open_clip brings timm.
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
    def forward(self, pictures: Sequence[np.ndarray], captions: Sequence[str | None]) -> Tensor:
        """Compare every picture with every caption.

        Every distinct picture that is not in the cache is encoded once, the distinct captions in
        one batch; equal pictures have exactly equal cosines.

        Args:
            pictures: P uint8 arrays (h, w, 3), RGB; sizes may differ.
            captions: N texts or None.

        Returns:
            (P, N) float32 cosines in [-1, 1] on the CPU. The column of a caption that is missing,
            says nothing or is longer than the model's context is NaN.

        Raises:
            NonFiniteError: Features are NaN or infinite.
        """
        texts = [text for text in dict.fromkeys(captions)
                 if text is not None and self.tokens.fits(text)]
        cosines = torch.full((len(pictures), len(texts) + 1), math.nan)  # the last: unusable
        if len(pictures) and texts:
            images = self.feature_cache.lookup(pictures, self._encode_pictures)
            cosines[:, :-1] = _cosines(images, self._encode_texts(texts))
        column: dict[str | None, int] = {text: number for number, text in enumerate(texts)}
        return cosines[:, [column.get(text, -1) for text in captions]]

    def _encode_pictures(self, pictures: list[np.ndarray]) -> list[Tensor]:
        """A unit vector (D,), float32, on the CPU, for each picture.

        On a CPU one by one, which takes some 40 % longer: in a batch a picture's last bits depend
        on the others, so on what the cache holds, and a resumed run begins with an empty one.
        """
        most = 1 if self.device.type == 'cpu' else None
        pixels = to_pixels(pictures, self._preprocess, self._preprocessing)

        def encode(part: slice) -> Tensor:
            return _unit(self.clip.encode_image(pixels[part].to(self.device, self._input_dtype)))

        features = torch.cat(retry_on_oom(encode, len(pictures), _NAME, most))
        self._check(features, encode, 'a picture')
        return [feature.clone() for feature in features]

    def _encode_texts(self, texts: list[str]) -> Tensor:
        """Unit vectors (len(texts), D), float32, on the CPU."""
        from .text_tower import encode_text
        tokens = self.tokens(texts)

        def encode(part: slice) -> Tensor:
            return _unit(encode_text(self.clip, tokens[part].to(self.device)))

        features = torch.cat(retry_on_oom(encode, len(tokens), _NAME))
        self._check(features, encode, 'a caption')
        return features

    def _check(self, features: Tensor, encode: Callable[[slice], Tensor], what: str) -> None:
        """Refuse NaN, since that stands for the cosine of an unusable caption."""
        rows = features.isfinite().all(dim=1).logical_not().nonzero()
        if rows.numel():
            row = int(rows[0])
            raise NonFiniteError(
                f'{_NAME} should have finite features of {what}, but they are not. '
                + diagnose(self.clip, lambda: encode(slice(row, row + 1)), '`precision`'))


def _cosines(images: list[Tensor], texts: Tensor) -> Tensor:
    """(P, N) of P unit vectors (D,) and N unit vectors (N, D).

    One product for each distinct object: within a matrix product, equal rows may round differently.
    """
    rows = {id(image): texts @ image for image in images}
    return torch.stack([rows[id(image)] for image in images]).clamp(-1, 1)


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu()
