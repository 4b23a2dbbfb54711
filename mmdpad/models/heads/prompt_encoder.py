# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A question about an image becomes tokens and pixels, by the model's own processor."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from mmdpad.prompts import build_messages

from .chat_template import ChatTemplate
from .policy_source import load_processor
from .response_codec import ResponseCodec

_COUNTED = 20000


@dataclass
class EncodedPrompt:
    """One prompt with one image, without padding, as a data loader's worker hands it over.

    Attributes:
        input_ids: (P,) long.
        token_types: (P,) int, 1 for image tokens, else 0.
        pixel_values: (patches, C) float, the patches of the image.
        grid: (1, 3) long: frames (1), rows and columns of patches.
        vision: What the vision tower made of the image, where it has seen it: (image tokens, D)
            for the language model's input, and for further levels where the model has some.
        image: uint8 (3, h, w), the image itself (no copy), for an engine with a processor of its
            own.
    """

    input_ids: Tensor
    token_types: Tensor
    pixel_values: Tensor
    grid: Tensor
    vision: tuple[Tensor, ...] | None = None
    image: Tensor | None = None

    def __len__(self) -> int:
        """Tokens of the prompt, those of the image included."""
        return len(self.input_ids)


class PromptEncoder:
    """Encodes a prompt; of plain data only, so that a data loader's worker can do it.

    Args:
        source: Folder or hub name of the processor.
        template: See :func:`mmdpad.prompts.build_messages`.
        max_tokens: Longer prompts (image tokens included) are an error.
        coordinates: Those in which an answer is wanted.

    Attributes:
        chat: The folder's chat template.
        responses: How responses to the prompts are written.

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
            image: uint8 (3, h, w), RGB, of the prompt's size.
            question: A normalized question.

        Raises:
            ValueError: The processor would resize the image, so that the model's coordinates were
                not those of the prompt image; or the prompt is longer than ``max_tokens``.
        """
        values = self.processor(text=[self.write(question)], images=[image.cpu()],
                                return_mm_token_type_ids=True, return_tensors='pt')
        prompt = EncodedPrompt(values['input_ids'][0], values['mm_token_type_ids'][0],
                               values['pixel_values'], values['image_grid_thw'], image=image)
        patch = self.processor.image_processor.patch_size
        _, rows, columns = prompt.grid[0].tolist()
        height, width = image.shape[-2:]
        problem = self.problem((height, width), (rows * patch, columns * patch),
                               len(prompt), question)
        tokens = int((prompt.token_types == 1).sum())
        features = rows * columns // self.processor.image_processor.merge_size**2
        if tokens != features:
            problem = (f'A prompt should have one image token for each of the {features} features '
                       f'of its image, but that of {question[:200]!r} has {tokens}; remove image '
                       f'tokens ({self.processor.image_token}) from the question, or copy chat '
                       f'template and tokenizer of {self.source!r} from the model that this one '
                       f'was trained from')
        if problem:
            raise ValueError(problem)
        return prompt

    def write(self, question: str) -> str:
        """The text of a prompt, with one token in place of the image's."""
        return self.chat.render(build_messages(question, self.template, self.coordinates))

    def problem(self, size: tuple[int, int], kept: tuple[int, int], tokens: int,
                question: str) -> str:
        """What is wrong with a prompt: its image is ``size`` (height, width), which the processor
        makes ``kept``, and it has that many tokens. Empty if nothing is."""
        images = self.processor.image_processor
        if kept != size:
            return (f'A prompt image should have a size that the processor keeps, but '
                    f'(height, width) = {size} becomes {kept}; set `ModelImageResize(size=...)` to '
                    f'multiples of {images.patch_size * images.merge_size} within the min_pixels '
                    f'and max_pixels of the processor')
        if tokens > self.max_tokens:
            return (f'A prompt should have at most `max_prompt_tokens` = {self.max_tokens} tokens, '
                    f'but that of {question[:200]!r} has {tokens} with its image of (height, '
                    f'width) = {size}; use a smaller prompt image or raise the limit')
        return ''


def check_prompt_lengths(encoder: PromptEncoder, questions: Iterable[str],
                         sizes: Iterable[tuple[int, int]]) -> list[str]:
    """Whether the prompts of a data set can be encoded, before anything is trained.

    Counts the tokens of text and image without images or weights, in about a second for 20,000
    questions; of more, the 20,000 longest by characters are looked at.

    Args:
        encoder: The policy's; only the files of its processor are needed for one.
        questions: Normalised questions.
        sizes: (width, height) of the prompt images, as ``ModelImageResize`` takes them.

    Returns:
        What is wrong, a line for each size that the processor would change, or with which the
        longest question has more than ``encoder.max_tokens``; empty if all fit. Nothing is raised.
    """
    tokenizer, images = encoder.processor.tokenizer, encoder.processor.image_processor
    candidates = sorted({*questions}, key=len)[-_COUNTED:]
    if not candidates:
        return []
    # The few longest by their own tokens; what joins at a question's ends is a token or two.
    counts = map(len, tokenizer(candidates, add_special_tokens=False)['input_ids'])
    longest = heapq.nlargest(8, zip(counts, candidates, strict=True))
    texts = [encoder.write(question) for _, question in longest]
    text, (_, question) = max(zip(map(len, tokenizer(texts)['input_ids']), longest, strict=True))
    side = images.patch_size * images.merge_size
    problems = []
    for width, height in sorted({*sizes}):
        try:
            kept = smart_resize(height, width, side, images.size['shortest_edge'],
                                images.size['longest_edge'])
        except ValueError as error:  # an aspect beyond 200
            problems.append(f'A prompt image of (height, width) = {(height, width)} is refused by '
                            f'the processor: {error}')
            continue
        tokens = text - 1 + kept[0] * kept[1] // side**2  # one token stands for the image
        problems.append(encoder.problem((height, width), kept, tokens, question))
    return [problem for problem in problems if problem]


class EncodingCollate:
    """A data loader's ``collate_fn`` that encodes prompts before another one collates.

    So the processor works in the loader's workers, next to the decoding of images. Each sample's
    ``inputs`` get a ``prompt``, an :class:`EncodedPrompt`.
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
    """``input_ids``, ``attention_mask`` and ``mm_token_type_ids`` of B prompts, (B, P) each,
    padded on the left, and ``image_grid_thw`` (B, 3), as transformers takes a batch."""
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
    """``pixel_values`` of B images and ``image_grid_thw`` (B, 3), as a vision tower takes them."""
    return (torch.cat([p.pixel_values for p in prompts]).to(device),
            torch.cat([p.grid for p in prompts]).to(device))


def join_vision(prompts: Sequence[EncodedPrompt]) -> SimpleNamespace:
    """What the vision tower made of B images, as the models' ``mm_encoder_outputs`` take it."""
    merged, *levels = zip(*[prompt.vision for prompt in prompts], strict=True)
    return SimpleNamespace(pooler_output=merged, deepstack_features=levels)
