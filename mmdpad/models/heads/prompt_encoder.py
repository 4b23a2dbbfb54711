# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Encodes questions about images as tokens and pixels, by the model's own processor."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mmdpad.prompts import build_messages

from .chat_template import ChatTemplate
from .policy_source import load_processor
from .response_codec import ResponseCodec

_COUNTED = 20000


@dataclass
class EncodedPrompt:
    """One prompt with one image, without padding, as a data loader's worker returns it.

    Attributes:
        input_ids: (P,) long.
        token_types: (P,) int, 1 for image tokens, else 0.
        pixel_values: (patches, C) float, the patches of the image.
        grid: (1, 3) long: frames (1), rows and columns of patches.
        vision: The vision tower's features of the image, once it is encoded: (image tokens, D) for
            the language model's input, and for deeper levels if the model has them.
        image: uint8 (3, h, w), the image itself (no copy), for an engine with its own processor.
    """

    input_ids: Tensor
    token_types: Tensor
    pixel_values: Tensor
    grid: Tensor
    vision: tuple[Tensor, ...] | None = None
    image: Tensor | None = None

    def __len__(self) -> int:
        """Number of tokens in the prompt, image tokens included."""
        return len(self.input_ids)


class PromptEncoder:
    """Encodes prompts. It holds only plain data, so that it can run in a data loader's workers.

    Args:
        source: Folder or hub name of the processor.
        template: See :func:`mmdpad.prompts.build_messages`.
        max_tokens: Longer prompts (image tokens included) are an error.
        coordinates: The coordinates that the prompt asks for.

    Attributes:
        chat: The folder's chat template.
        responses: Converts responses to the prompts between text and tokens.

    Raises:
        ValueError: See :func:`.policy_source.load_processor`, :class:`.ChatTemplate` and
            :class:`.ResponseCodec`.
    """

    def __init__(self, source: str, template: str, max_tokens: int,
                 coordinates: str = 'pixels') -> None:
        self.processor: Any = load_processor(source)
        self.source = source
        self.processor.tokenizer.padding_side = 'left'
        self.template = template
        self.max_tokens = max_tokens
        self.coordinates = coordinates
        self.chat = ChatTemplate(self.processor, source,
                                 build_messages('the red circle', template, coordinates))
        self.responses = ResponseCodec(source, self.processor.tokenizer, self.chat)

    def __call__(self, image: Tensor, question: str) -> EncodedPrompt:
        """Encode one prompt, on the CPU.

        Args:
            image: uint8 (3, h, w), RGB, the model image.
            question: A normalized question.

        Raises:
            ValueError: The processor refuses the image, or would resize it, so that the model's
                coordinates would not be those of the model image; or the prompt is longer than
                ``max_tokens``.
        """
        prompt = self._read(image, question)
        if problem := self._find_problem(prompt, tuple(image.shape[-2:]), question):
            raise ValueError(problem)
        return prompt

    def _read(self, image: Tensor, question: str) -> EncodedPrompt:
        try:
            values = self.processor(text=[self.write(question)], images=[image.cpu()],
                                    return_mm_token_type_ids=True, return_tensors='pt')
        except ValueError as error:
            raise ValueError(f'A prompt about a model image of (height, width) = '
                             f'{tuple(image.shape[-2:])} is refused by the processor of '
                             f'{self.source!r}: {error}') from error
        return EncodedPrompt(values['input_ids'][0], values['mm_token_type_ids'][0],
                             values['pixel_values'], values['image_grid_thw'], image=image)

    def kept_size(self, image: Tensor) -> tuple[int, int]:
        """The (height, width) to which the processor resizes an image, a uint8 (3, h, w).

        Raises:
            ValueError: The processor refuses the image.
        """
        return self._size(self._read(image, 'x'))

    def _size(self, prompt: EncodedPrompt) -> tuple[int, int]:
        patch = self.processor.image_processor.patch_size
        _, rows, columns = prompt.grid[0].tolist()
        return rows * patch, columns * patch

    def write(self, question: str) -> str:
        """Write the text of a prompt, with a single image token."""
        return self.chat.render(build_messages(question, self.template, self.coordinates))

    def _find_problem(self, prompt: EncodedPrompt, size: tuple[int, ...], question: str) -> str:
        """Describe the problem with a prompt and its image of a (height, width); empty if there is
        none."""
        tokens = int((prompt.token_types == 1).sum())
        features = int(prompt.grid.prod()) // self.processor.image_processor.merge_size**2
        if tokens != features:
            return (f'A prompt should have one image token for each of the {features} features '
                    f'of its image, but that of {question[:200]!r} has {tokens}; remove image '
                    f'tokens ({self.processor.image_token}) from the question, or copy chat '
                    f'template and tokenizer of {self.source!r} from the model that this one '
                    f'was trained from')
        kept = self._size(prompt)
        if kept != size:
            return (f'A model image should have a size that the processor keeps, but '
                    f'(height, width) = {size} becomes {kept}; set '
                    f'`ModelImageResize(size={kept[::-1]})` (width, height), which it keeps')
        if len(prompt) > self.max_tokens:
            return (f'A prompt should have at most `max_prompt_tokens` = {self.max_tokens} tokens, '
                    f'but that of {question[:200]!r} has {len(prompt)} with its image of (height, '
                    f'width) = {size}; use a smaller model image or raise the limit')
        return ''


def check_prompt_lengths(encoder: PromptEncoder, questions: Iterable[str],
                         sizes: Iterable[tuple[int, int]]) -> list[str]:
    """Check, before training, that the prompts of a data set can be encoded.

    Encodes the longest question with a blank image of each size, so that the model's own processor
    says which sizes it keeps. Needs no images or weights, and about a second for 20,000 questions;
    if there are more, only the 20,000 longest by characters are checked.

    Args:
        encoder: The policy's encoder, which needs only the files of the processor.
        questions: Normalized questions.
        sizes: (width, height) of the model images, as for ``ModelImageResize``.

    Returns:
        The problems, one line for each size that the processor would change, or with which the
        longest question has more than ``encoder.max_tokens`` tokens; empty if all fit. Nothing is
        raised.
    """
    tokenizer = encoder.processor.tokenizer
    candidates = sorted({*questions}, key=len)[-_COUNTED:]
    if not candidates:
        return []
    # The few questions with the most tokens: merging at their ends changes the count by one or two.
    counts = map(len, tokenizer(candidates, add_special_tokens=False)['input_ids'])
    longest = heapq.nlargest(8, zip(counts, candidates, strict=True))
    texts = [encoder.write(question) for _, question in longest]
    _, (_, question) = max(zip(map(len, tokenizer(texts)['input_ids']), longest, strict=True))
    problems = []
    for width, height in sorted({*sizes}):
        try:
            encoder(torch.zeros(3, height, width, dtype=torch.uint8), question)
        except ValueError as error:
            problems.append(str(error))
    return problems


class EncodingCollate:
    """A data loader's ``collate_fn`` that encodes prompts before calling another one.

    This runs the processor in the loader's workers, which also decode the images. It adds
    ``prompt``, an :class:`EncodedPrompt`, to each sample's ``inputs``.
    """

    def __init__(self, encoder: PromptEncoder, collate: Any) -> None:
        self.encoder = encoder
        self.collate = collate

    def __call__(self, samples: Sequence[dict]) -> Any:
        for sample in samples:
            sample['inputs']['prompt'] = self.encoder(sample['inputs']['model_image'],
                                                      sample['data_samples'].question)
        return self.collate(samples)


def collate_text(prompts: Sequence[EncodedPrompt], pad_token: int,
                 device: torch.device) -> dict[str, Tensor]:
    """Collate B prompts for transformers: ``input_ids``, ``attention_mask`` and
    ``mm_token_type_ids``, (B, P) each, padded on the left, and ``image_grid_thw`` (B, 3)."""
    longest = max(map(len, prompts))

    def pad(rows: list[Tensor], value: int) -> Tensor:
        return torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0), value=value)
                            for row in rows]).to(device)

    return dict(input_ids=pad([p.input_ids for p in prompts], pad_token),
                attention_mask=pad([torch.ones_like(p.input_ids) for p in prompts], 0),
                mm_token_type_ids=pad([p.token_types for p in prompts], 0),
                image_grid_thw=torch.cat([p.grid for p in prompts]).to(device))


def collate_images(prompts: Sequence[EncodedPrompt],
                   device: torch.device) -> tuple[Tensor, Tensor]:
    """Collate the ``pixel_values`` of B images and ``image_grid_thw`` (B, 3) for a vision tower."""
    return (torch.cat([p.pixel_values for p in prompts]).to(device),
            torch.cat([p.grid for p in prompts]).to(device))


def join_vision(prompts: Sequence[EncodedPrompt]) -> SimpleNamespace:
    """Join the vision tower's features of B images for the models' ``mm_encoder_outputs``."""
    merged, *levels = zip(*[prompt.vision for prompt in prompts], strict=True)
    return SimpleNamespace(pooler_output=merged, deepstack_features=levels)
