# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A prompt with its image, encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class EncodedPrompt:
    """One prompt with one image, without padding, as a data loader's worker returns it; or the
    reply to a turn (:class:`.replies.ReplyEncoder`), which has one or none; or a started
    conversation (:meth:`followed_by`), whose images are in its :attr:`parts`, while
    ``pixel_values``, ``grid``, ``vision`` and ``image`` are those of the first turn.

    Attributes:
        input_ids: (P,) long.
        token_types: (P,) int, 1 for image tokens, else 0.
        pixel_values: (patches, C) float, the patches of the image; other families may have another
            layout, with a first dimension along which images are concatenated.
        grid: (1, 3) long, or (0, 3) without an image: frames (1), rows and columns of patches; or
            whatever other families need to know of the image.
        vision: The vision tower's features of the image, once it is encoded: (image tokens, D) for
            the language model's input, and for deeper levels if the model has them.
        image: uint8 (3, h, w), the image itself (no copy), for an engine with its own processor.
        unexpanded_ids: (P',) long, for such an engine: the tokens before the processor replaced
            the single token of each image by those for its features, and any around them.
        task: Name of the task whose template the prompt has; None for the first.
        first: In a started conversation, the prompt of its first turn; those of a group share one
            object.
        replies: In a started conversation, the replies with images, in order.
    """

    input_ids: Tensor
    token_types: Tensor
    pixel_values: Tensor
    grid: Tensor
    vision: tuple[Tensor, ...] | None = None
    image: Tensor | None = None
    unexpanded_ids: Tensor | None = None
    task: str | None = None
    first: EncodedPrompt | None = None
    replies: tuple[EncodedPrompt, ...] = ()

    def __len__(self) -> int:
        """Number of tokens in the prompt, image tokens included."""
        return len(self.input_ids)

    @property
    def parts(self) -> tuple[EncodedPrompt, ...]:
        """The prompt of the first turn and the replies with images, in the order of their tokens,
        which hold the pixels and features of a started conversation; otherwise the prompt itself.
        """
        return (self, ) if self.first is None else (self.first, *self.replies)

    @property
    def images(self) -> tuple[Tensor, ...]:
        """All images, in the order of their tokens."""
        return tuple(part.image for part in self.parts if part.image is not None)

    def followed_by(self, response_ids: Tensor, reply: EncodedPrompt) -> EncodedPrompt:
        """The prompt of the next turn: this one, a response (R,) with its end token, and the reply
        to it."""
        response_ids = response_ids.cpu()
        assert self.unexpanded_ids is not None and reply.unexpanded_ids is not None
        return replace(
            self, first=self.parts[0], replies=(*self.replies, *[reply] * bool(len(reply.grid))),
            input_ids=torch.cat([self.input_ids, response_ids, reply.input_ids]),
            token_types=torch.cat([self.token_types, torch.zeros_like(response_ids).int(),
                                   reply.token_types]),
            unexpanded_ids=torch.cat([self.unexpanded_ids, response_ids, reply.unexpanded_ids]))

    def with_vision(self, features: Iterator[tuple[Tensor, ...] | None]) -> EncodedPrompt:
        """A copy with the next features for each of its :attr:`parts`."""
        first, *replies = (replace(part, vision=next(features)) for part in self.parts)
        return first if self.first is None else replace(self, first=first, replies=(*replies, ))


def parts_of(prompts: Iterable[EncodedPrompt]) -> list[EncodedPrompt]:
    """The parts of all prompts, see :attr:`EncodedPrompt.parts`."""
    return [part for prompt in prompts for part in prompt.parts]


Replies = Sequence[Sequence[EncodedPrompt]]
"""For each of N responses, the replies in it that have an image, in order."""


def collate_text(prompts: Sequence[EncodedPrompt], pad_token: int,
                 device: torch.device) -> dict[str, Tensor]:
    """Collate B prompts: ``input_ids``, ``attention_mask`` and ``mm_token_type_ids``, (B, P) each,
    padded on the left."""
    longest = max(map(len, prompts))

    def pad(rows: list[Tensor], value: int) -> Tensor:
        return torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0), value=value)
                            for row in rows]).to(device)

    return dict(input_ids=pad([p.input_ids for p in prompts], pad_token),
                attention_mask=pad([torch.ones_like(p.input_ids) for p in prompts], 0),
                mm_token_type_ids=pad([p.token_types for p in prompts], 0))
