# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""InternVL in transformers' own format: images are square tiles.

Notation: T tiles of an image, side S in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import GotOcr2ImageProcessor
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from .encoded_prompt import EncodedPrompt, collate_text
from .policy_family import PolicyFamily


class InternVLFamily(PolicyFamily):
    """Families whose processor resizes an image to rows and columns of square tiles, and adds the
    whole image as another tile (thumbnail) if there are several.

    A prompt's ``pixel_values`` are (T, 3, S, S) float, and its ``grid`` (1, 3) holds 1, rows and
    columns of tiles, without the thumbnail.
    """

    def kept_size(self, processor: Any, prompt: EncodedPrompt) -> tuple[int, int]:
        """See :meth:`.PolicyFamily.kept_size`."""
        height, width = _tile(processor)
        _, rows, columns = prompt.grid[0].tolist()
        return rows * height, columns * width

    def image_tokens(self, processor: Any, prompt: EncodedPrompt) -> int:
        """See :meth:`.PolicyFamily.image_tokens`."""
        return len(prompt.pixel_values) * processor.image_seq_length

    def patches(self, model: Any, prompt: EncodedPrompt) -> int:
        """See :meth:`.PolicyFamily.patches`."""
        return len(prompt.pixel_values) * self.tower(model).embeddings.patch_embeddings.num_patches

    def blank_prompt(self, config: Any, height: int, width: int) -> EncodedPrompt:
        """See :meth:`.PolicyFamily.blank_prompt`."""
        published, tile = GotOcr2ImageProcessor, tuple(config.vision_config.image_size)
        columns, rows = get_optimal_tiled_canvas((height, width), tile, published.min_patches,
                                                 published.max_patches)
        tiles = rows * columns + (rows * columns > 1)
        tokens = torch.ones(tiles * config.image_seq_length, dtype=torch.long)
        return EncodedPrompt(tokens, tokens.int(), torch.empty(tiles, 3, *tile, device='meta'),
                             torch.tensor([[1, rows, columns]]))

    def read_prompt(self, processor: Any, values: Any, image: Tensor) -> EncodedPrompt:
        """See :meth:`.PolicyFamily.read_prompt`."""
        tiles, tokens = values['pixel_values'], values['input_ids'][0]
        images, (rows, columns) = processor.image_processor, (1, 1)
        if len(tiles) > 1:
            columns, rows = get_optimal_tiled_canvas(
                tuple(image.shape[-2:]), _tile(processor), images.min_patches, images.max_patches)
        return EncodedPrompt(tokens, (tokens == processor.image_token_id).int(), tiles,
                             torch.tensor([[1, rows, columns]]), image=image)

    def encode_images(self, model: Any,
                      prompts: Sequence[EncodedPrompt]) -> Iterable[tuple[Tensor, ...]]:
        """See :meth:`.PolicyFamily.encode_images`."""
        tiles = torch.cat([prompt.pixel_values for prompt in prompts]).to(model.device)
        features = model.model.get_image_features(tiles, return_dict=True).pooler_output
        own = features.split([len(prompt.pixel_values) for prompt in prompts])
        return [(tokens.flatten(0, 1), ) for tokens in own]

    def feature_inputs(self, prompts: Sequence[EncodedPrompt]) -> dict[str, Any]:
        """See :meth:`.PolicyFamily.feature_inputs`."""
        (tokens, ) = zip(*[prompt.vision for prompt in prompts], strict=True)
        return dict(mm_encoder_outputs=dict(image=SimpleNamespace(
            pooler_output=torch.cat(tokens)[None])))

    def generation_inputs(self, prompts: Sequence[EncodedPrompt], pad_token: int,
                          device: torch.device) -> dict[str, Tensor]:
        """See :meth:`.PolicyFamily.generation_inputs`."""
        text = collate_text(prompts, pad_token, device)
        del text['mm_token_type_ids']  # not an argument of the model
        return dict(text, pixel_values=torch.cat([p.pixel_values for p in prompts]).to(device))


def _tile(processor: Any) -> tuple[int, int]:
    """(height, width) of a tile in pixels."""
    size = processor.image_processor.size
    return size['height'], size['width']
