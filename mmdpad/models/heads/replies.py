# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Encodes the replies to a policy's turns, with or without an image."""

from __future__ import annotations

import torch
from torch import Tensor

from .encoded_prompt import EncodedPrompt
from .prompt_encoder import PromptEncoder


class ReplyEncoder:
    """Encodes what comes between two turns of a policy: the rest of its turn's markup, a turn of
    the user with the reply, and the beginning of its next turn, by the policy's own chat template.

    Only what is new is encoded. The tokens that the policy chose stay as they are: encoding the
    whole conversation again could split its text in another way, and chat templates of thinking
    models drop earlier reasoning.

    Args:
        encoder: The encoder of the policy's prompts.

    Attributes:
        factor: The processor keeps images whose height and width are multiples of so many pixels,
            within its bounds.

    Raises:
        ValueError: The policy's family has not been tried with replies, or its chat template has no
            such turns.
    """

    def __init__(self, encoder: PromptEncoder) -> None:
        if not encoder.family.converses:
            raise ValueError(
                f'Conversations should have a policy of a family that was tried with images in '
                f'replies (Qwen2-VL, Qwen2.5-VL, Qwen3-VL), but got {encoder.family.name}; use '
                f'such a policy')
        for has_image in (False, True):
            encoder.write_reply('a reply', has_image)
        self.encoder = encoder
        images = encoder.processor.image_processor
        self.factor: int = images.patch_size * images.merge_size

    def __call__(self, text: str, image: Tensor | None = None) -> EncodedPrompt:
        """Encode a reply, on the CPU.

        Args:
            text: Its text, without special tokens.
            image: uint8 (3, h, w), RGB, before the text; None for a reply in text.

        Raises:
            ValueError: The processor would resize the image, so that coordinates would not be those
                of the image.
        """
        written = self.encoder.write_reply(text, image is not None)
        if image is None:
            tokenizer = self.encoder.processor.tokenizer
            ids = tokenizer(written, add_special_tokens=False, return_tensors='pt')['input_ids'][0]
            return EncodedPrompt(ids, torch.zeros_like(ids).int(), torch.zeros(0),
                                 torch.zeros(0, 3, dtype=torch.long), unexpanded_ids=ids)
        reply = self.encoder.read(written, image)
        kept = self.encoder.family.kept_size(self.encoder.processor, reply)
        if kept != image.shape[-2:]:
            raise ValueError(
                f'The image of a reply should have a size that the processor of '
                f'{self.encoder.source!r} keeps, but (height, width) = {tuple(image.shape[-2:])} '
                f'becomes {kept}; change the `min_pixels`, `max_pixels` or `size` of crops')
        return reply
