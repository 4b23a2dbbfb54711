# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What a family of vision-language models has to offer, with Qwen-VL's answers as defaults.

Notation: B prompts of up to P tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmdpad.geometry.coordinates import check_coordinates

from . import vision_tower
from .encoded_prompt import EncodedPrompt, collate_text, parts_of

_VISION_TOKENS = ('image_token_id', 'video_token_id', 'vision_start_token_id',
                  'vision_end_token_id', 'vision_token_id')


@dataclass(frozen=True)
class PolicyFamily:
    """A family of vision-language models. The defaults are those of Qwen-VL; a family that differs
    overrides methods in a subclass.

    Attributes:
        name: The name to display.
        model_class: The class of transformers. Its ``model`` should take ``mm_encoder_outputs``,
            features of images that are already encoded, unless the family overrides
            :meth:`feature_inputs`.
        coordinates: The coordinates that the published weights write, one of
            :data:`mmdpad.geometry.coordinates.COORDINATES`.
        vision_tokens: Keys in config.json of the tokens that represent images or videos; a config
            may lack some.
        vision_tower: Path of the vision tower in the model.
        vision_blocks: Path of its blocks in the vision tower.
        language_model: Path of the language model, which has ``embed_tokens``, ``layers`` and
            ``rotary_emb``.
        language_norm: Path of the last norm in the language model.
        language_linears: Pattern of the last parts of names: the linear layers of attention and MLP
            in the language model's layers.
        vision_linears: The same in the vision tower's blocks.
        shared_layers: The kinds of layers, as in ``layer_types`` of a config.json, that
            :mod:`.shared_prefix` computes as transformers does. Any other kind would mix the
            prompts and responses of a row, and is refused, see :mod:`.attention_support`.
        mrope: Whether tokens have positions in time, height and width, by the model's
            ``get_rope_index``; otherwise they are counted.
        token_types: Name of the model's argument that is 1 for image tokens and 0 for others, if
            they attend to each other in both directions ('token_type_ids' of Gemma 3). The shared
            prefix does not support it, see :mod:`.attention_support`.
        converses: Whether replies with further images (:class:`.replies.ReplyEncoder`) were tried:
            they are computed as in a single prompt of transformers.
    """

    name: str
    model_class: type[PreTrainedModel]
    coordinates: str
    vision_tokens: tuple[str, ...] = _VISION_TOKENS
    vision_tower: str = 'model.visual'
    vision_blocks: str = 'blocks'
    language_model: str = 'model.language_model'
    language_norm: str = 'norm'
    language_linears: str = '(q|k|v|o|gate|up|down)_proj'
    vision_linears: str = 'qkv|proj|fc1|fc2|(gate|up|down)_proj|linear_fc1|linear_fc2'
    shared_layers: tuple[str, ...] = ('full_attention', )
    mrope: bool = True
    token_types: str | None = None
    converses: bool = False

    def __post_init__(self) -> None:
        check_coordinates(self.coordinates)

    def check_parts(self, model: Any) -> None:
        """Check that a model, which may be on the meta device, has the parts that this names.

        Raises:
            ValueError: It lacks one of them.
        """
        blocks = f'{self.vision_tower}.{self.vision_blocks}'
        for name, path in dict(vision_tower=self.vision_tower, vision_blocks=blocks,
                               language_model=self.language_model,
                               language_norm=f'{self.language_model}.{self.language_norm}'
                               ).items():
            try:
                model.get_submodule(path)
            except AttributeError as error:
                known = [f'model.{part}' for part, _ in model.model.named_children()]
                raise ValueError(
                    f'`{name}` of {self.name} should name a part of {type(model).__name__}, but '
                    f'there is no {path} ({error}); set it to its path (`model` has '
                    f'{", ".join(known)})') from error
        if self.mrope and not hasattr(model.model, 'get_rope_index'):
            raise ValueError(f'`mrope` of {self.name} should be False, since '
                             f'{type(model.model).__name__} has no `get_rope_index`; set it, or '
                             f'override `positions` with that')

    def tower(self, model: nn.Module) -> Any:
        """The vision tower of a model of this family."""
        return model.get_submodule(self.vision_tower)

    def blocks(self, model: nn.Module) -> Any:
        """The blocks of its vision tower, in order."""
        return self.tower(model).get_submodule(self.vision_blocks)

    def language(self, model: nn.Module) -> Any:
        """Its language model."""
        return model.get_submodule(self.language_model)

    def norm(self, model: nn.Module) -> Any:
        """The last norm of its language model."""
        return self.language(model).get_submodule(self.language_norm)

    def is_vision(self, name: str) -> bool:
        """Whether a module or weight of this full name computes features of images: all those
        outside the language model and the output head, such as the vision tower and a projector
        behind it."""
        return not f'{name}.'.startswith((f'{self.language_model}.', 'lm_head.'))

    def vision_modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """The outermost modules that compute features of images, by name."""
        found: dict[str, nn.Module] = {}
        for name, module in model.named_modules():
            has_language = not name or self.language_model.startswith(f'{name}.')
            is_part = name.startswith(tuple(f'{outer}.' for outer in found))
            if self.is_vision(name) and not has_language and not is_part:
                found[name] = module
        return found

    def vision_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """The weights by which features of images are computed."""
        return [p for name, p in model.named_parameters() if self.is_vision(name)]

    def lora_targets(self, reach: str) -> str:
        """Pattern of full names of the linear layers that 'language' or 'language_and_vision'
        stands for: attention and MLP of the language model, or these and the vision tower's
        blocks."""
        language, tower = (path.rpartition('.')[2]
                           for path in (self.language_model, self.vision_tower))
        pattern = rf'.*{language}.*\.({self.language_linears})'
        if reach == 'language':
            return pattern
        blocks = self.vision_blocks.replace('.', r'\.')
        return rf'{pattern}|.*{tower}\.{blocks}.*\.({self.vision_linears})'

    def kept_size(self, processor: Any, prompt: EncodedPrompt) -> tuple[int, int]:
        """The (height, width) to which the processor resized the image of a prompt."""
        _, rows, columns = prompt.grid[0].tolist()
        patch = processor.image_processor.patch_size
        return rows * patch, columns * patch

    def image_tokens(self, processor: Any, prompt: EncodedPrompt) -> int:
        """The number of image tokens that the image of a prompt should have."""
        return int(prompt.grid.prod()) // processor.image_processor.merge_size**2

    def patches(self, model: Any, prompt: EncodedPrompt) -> int:
        """The number of patches of a prompt's image, for which the vision tower has a state."""
        return len(prompt.pixel_values)

    def blank_prompt(self, config: Any, height: int, width: int) -> EncodedPrompt:
        """A prompt of nothing but an image, whose pixels are on the meta device, for estimates.

        Args:
            config: The model's config of transformers; the processor's settings are not known.
            height, width: Of the model image in pixels, rounded to what the processor keeps.

        Returns:
            The prompt, with one input id for each image token, and token types of 1.
        """
        vision = config.vision_config
        merge, patch = vision.spatial_merge_size, vision.patch_size
        rows, columns = (max(1, round(length / (patch * merge))) * merge
                         for length in (height, width))
        channels = getattr(vision, 'in_channels', None) or vision.in_chans
        tokens = torch.ones(rows * columns // merge**2, dtype=torch.long)
        pixels = torch.empty(rows * columns, channels * vision.temporal_patch_size * patch**2,
                             device='meta')
        return EncodedPrompt(tokens, tokens.int(), pixels, torch.tensor([[1, rows, columns]]))

    def read_prompt(self, processor: Any, values: Any, image: Tensor) -> EncodedPrompt:
        """Make a prompt from the processor's output for one text and its image."""
        return EncodedPrompt(values['input_ids'][0], values['mm_token_type_ids'][0],
                             values['pixel_values'], values['image_grid_thw'], image=image)

    def encode_images(self, model: Any,
                      prompts: Sequence[EncodedPrompt]) -> Iterable[tuple[Tensor, ...]]:
        """Encode the images of B prompts or replies, as a whole: the features of each, see
        :attr:`.EncodedPrompt.vision`."""
        grids = torch.cat([prompt.grid for prompt in prompts]).to(model.device)
        output = model.model.get_image_features(
            torch.cat([prompt.pixel_values for prompt in prompts]).to(model.device), grids,
            return_dict=True, **vision_tower.sorted_windows(self.tower(model), grids))
        levels = [output.pooler_output, *(getattr(output, 'deepstack_features', None) or [])]
        return zip(*levels, strict=True)

    def feature_inputs(self, prompts: Sequence[EncodedPrompt]) -> dict[str, Any]:
        """Arguments for ``model.model`` that pass on the features of the images of B prompts, in
        the order of their tokens."""
        merged, *levels = zip(*[part.vision for part in parts_of(prompts)], strict=True)
        return dict(mm_encoder_outputs=dict(image=SimpleNamespace(
            pooler_output=merged, deepstack_features=levels)))

    def generation_inputs(self, prompts: Sequence[EncodedPrompt], pad_token: int,
                          device: torch.device) -> dict[str, Tensor]:
        """Arguments for ``model.generate``: B prompts padded on the left, and their images as the
        processor returns them."""
        parts = parts_of(prompts)
        return dict(collate_text(prompts, pad_token, device),
                    pixel_values=torch.cat([part.pixel_values for part in parts]).to(device),
                    image_grid_thw=torch.cat([part.grid for part in parts]).to(device))

    def positions(self, model: Any, input_ids: Tensor, token_types: Tensor,
                  prompts: Sequence[EncodedPrompt],
                  attention_mask: Tensor | None = None) -> Tensor:
        """The ``position_ids`` of B rows of tokens, each a prompt and what follows it.

        Args:
            model: The model.
            input_ids, token_types, attention_mask: (B, L); without a mask, all tokens count.
            prompts: B prompts, for their images.

        Returns:
            (3, B, L) long, positions in time, height and width; (B, L) without ``mrope``.
        """
        if self.mrope:
            grids = torch.cat([part.grid for part in parts_of(prompts)]).to(input_ids.device)
            return model.model.get_rope_index(input_ids, token_types, grids,
                                              attention_mask=attention_mask)[0]
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)

    def text_positions(self, length: int, device: torch.device) -> Tensor:
        """The ``position_ids`` of a row of text, (3, 1, length) or (1, length)."""
        positions = torch.arange(length, device=device)[None]
        return positions.expand(3, 1, length) if self.mrope else positions
