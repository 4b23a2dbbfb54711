# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""LFM2-VL and LFM2.5-VL, which see an image of more than about 512 x 512 pixels as square tiles,
row by row, and a small copy of the whole (the thumbnail).

Notation: T tiles of all images, the thumbnails among them; N patches of a tile; C its values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Lfm2VlImageProcessor

from .encoded_prompt import EncodedPrompt, collate_text
from .policy_family import PolicyFamily


class Lfm2VlFamily(PolicyFamily):
    """A prompt's ``pixel_values`` are the patches of its tiles (N, C), one tile after the other,
    and its ``grid`` the rows and columns of patches in each tile, (T, 2) long."""

    def check_parts(self, model: Any) -> None:
        """See :meth:`.PolicyFamily.check_parts`.

        Raises:
            ValueError: The convolutions have a bias.
        """
        super().check_parts(model)
        if model.config.text_config.conv_bias:
            raise ValueError(f'`conv_bias` in config.json of {self.name} should be false, as in '
                             f'the published models: with a bias, padding would change the tokens '
                             f'after it; use a model without')

    def blank_prompt(self, config: Any, height: int, width: int) -> EncodedPrompt:
        """See :meth:`.PolicyFamily.blank_prompt`; with the published settings of the processor."""
        processor = Lfm2VlImageProcessor()
        grid = processor(torch.zeros(3, height, width, dtype=torch.uint8),
                         return_tensors='pt')['spatial_shapes']
        vision = config.vision_config
        pixels = torch.empty(int(grid.prod(dim=1).sum()),
                             vision.num_channels * vision.patch_size**2, device='meta')
        tokens = torch.ones(int((grid // config.downsample_factor).prod(dim=1).sum()),
                            dtype=torch.long)
        return EncodedPrompt(tokens, tokens.int(), pixels, grid)

    def read_prompt(self, processor: Any, values: Any, image: Tensor) -> EncodedPrompt:
        """See :meth:`.PolicyFamily.read_prompt`."""
        ids, filled = values['input_ids'][0], values['pixel_attention_mask'].bool()
        return EncodedPrompt(ids, (ids == processor.image_token_id).int(),
                             values['pixel_values'][filled], values['spatial_shapes'], image=image)

    def kept_size(self, processor: Any, prompt: EncodedPrompt) -> tuple[int, int]:
        """See :meth:`.PolicyFamily.kept_size`."""
        assert prompt.image is not None
        height, width = prompt.image.shape[-2:]
        return _kept_size(processor.image_processor, height, width)

    def image_tokens(self, processor: Any, prompt: EncodedPrompt) -> int:
        """See :meth:`.PolicyFamily.image_tokens`."""
        return int((prompt.grid // processor.image_processor.downsample_factor).prod(dim=1).sum())

    def encode_images(self, model: Any,
                      prompts: Sequence[EncodedPrompt]) -> Iterable[tuple[Tensor, ...]]:
        """See :meth:`.PolicyFamily.encode_images`."""
        states = iter(self.tower(model)(
            **_pad_tiles(prompts, model.device), return_dict=True).last_hidden_state)
        project = model.model.multi_modal_projector
        return [(torch.cat([
            project(next(states)[:rows * columns].view(1, rows, columns, -1)).flatten(0, 2)
            for rows, columns in prompt.grid.tolist()]), ) for prompt in prompts]

    def generation_inputs(self, prompts: Sequence[EncodedPrompt], pad_token: int,
                          device: torch.device) -> dict[str, Tensor]:
        """See :meth:`.PolicyFamily.generation_inputs`."""
        text = collate_text(prompts, pad_token, device)
        del text['mm_token_type_ids']  # not an argument of the model
        return text | _pad_tiles(prompts, device)


def _pad_tiles(prompts: Sequence[EncodedPrompt], device: torch.device) -> dict[str, Tensor]:
    """The images of B prompts as the model takes them: (T, N, C) with the longest N, (T, 2) rows
    and columns, and (T, N), 1 for patches and 0 for padding."""
    grids = torch.cat([prompt.grid for prompt in prompts])
    sizes = grids.prod(dim=1)
    tiles = torch.cat([prompt.pixel_values for prompt in prompts]).split(sizes.tolist())
    filled = torch.arange(int(sizes.max())) < sizes[:, None]
    return dict(pixel_values=pad_sequence(list(tiles), batch_first=True).to(device),
                spatial_shapes=grids.to(device), pixel_attention_mask=filled.int().to(device))


@lru_cache(maxsize=256)
def _kept_size(processor: Any, height: int, width: int) -> tuple[int, int]:
    """The (height, width) of the tiles of an image together, or of the only one."""
    made = processor(torch.zeros(3, height, width, dtype=torch.uint8), return_row_col_info=True)
    rows, columns = made['image_rows'][0], made['image_cols'][0]
    if rows * columns > 1:
        return rows * processor.tile_size, columns * processor.tile_size
    height, width = made['image_sizes'][0]
    return height, width
