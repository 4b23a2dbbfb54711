# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Encodes questions about images as tokens and pixels, by the model's own processor."""

from __future__ import annotations

import copy
import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmdpad.prompts import build_messages
from mmdpad.tasks import find_task
from mmdpad.utils.number_checks import check_number

from .chat_template import ChatTemplate
from .encoded_prompt import EncodedPrompt
from .families import find_family
from .policy_source import load_processor
from .response_codec import ResponseCodec

_COUNTED = 20000


def check_max_prompt_tokens(number: int) -> None:
    """Raise ValueError if a value of ``max_prompt_tokens`` is not a number of tokens."""
    check_number('max_prompt_tokens', number, 'at least 1', lambda n: n >= 1, True)


class PromptEncoder:
    """Encodes prompts. It holds only plain data, so that it can run in a data loader's workers.

    Args:
        source: Folder or hub name of the processor.
        templates: Name of a task -> template, see :func:`mmdpad.prompts.build_messages`; or the
            template of the only task.
        max_tokens: Longer prompts (image tokens included) are an error.
        coordinates: The coordinates that the prompt asks for.

    Attributes:
        templates: As above, a dict. The first one is for questions without a task.
        chat: The folder's chat template.
        responses: Converts responses to the prompts between text and tokens.

    Raises:
        ValueError: See :func:`.policy_source.load_processor`, :class:`.ChatTemplate` and
            :class:`.ResponseCodec`.
    """

    def __init__(self, source: str, templates: str | Mapping[str, str], max_tokens: int,
                 coordinates: str = 'pixels') -> None:
        self.processor: Any = load_processor(source)
        self.family = find_family(source)
        self.source = source
        self.processor.tokenizer.padding_side = 'left'
        self.templates = (dict(segmentation=templates) if isinstance(templates, str)
                          else dict(templates))
        self.max_tokens = max_tokens
        self.coordinates = coordinates
        self.chat = ChatTemplate(self.processor, source,
                                 self._messages('the red circle'))
        self.responses = ResponseCodec(source, self.processor.tokenizer, self.chat)

    @property
    def template(self) -> str:
        """The template of the first task; setting it makes that the only task."""
        return next(iter(self.templates.values()))

    @template.setter
    def template(self, template: str) -> None:
        self.templates = {next(iter(self.templates)): template}

    def __call__(self, image: Tensor, question: str, task: str | None = None) -> EncodedPrompt:
        """Encode one prompt, on the CPU.

        Args:
            image: uint8 (3, h, w), RGB, the model image.
            question: A normalized question.
            task: Name of its task; None for the first.

        Raises:
            ValueError: The task is unknown; the processor refuses the image, or would resize it, so
                that the model's coordinates would not be those of the model image; or the prompt is
                longer than ``max_tokens``.
        """
        prompt = self.read(self.write(question, task), image)
        prompt.task = task
        if problem := self._find_problem(prompt, tuple(image.shape[-2:]), question):
            raise ValueError(problem)
        return prompt

    def read(self, text: str, image: Tensor) -> EncodedPrompt:
        """Encode a text with a single image token, and its image, a uint8 (3, h, w).

        Raises:
            ValueError: The processor refuses the image, or returns other values than the family
                reads.
        """
        try:
            values = self.processor(text=[text], images=[image.cpu()],
                                    return_mm_token_type_ids=True, return_tensors='pt')
        except ValueError as error:
            raise ValueError(f'A prompt about a model image of (height, width) = '
                             f'{tuple(image.shape[-2:])} is refused by the processor of '
                             f'{self.source!r}: {error}') from error
        try:
            prompt = self.family.read_prompt(self.processor, values, image)
        except KeyError as error:
            raise ValueError(
                f'The processor of {self.source!r} should return {error}, which `read_prompt` of '
                f'{self.family.name} reads, but returns {", ".join(values)}; override it in a '
                f'subclass of PolicyFamily, see "Add a family" in docs/policies.md') from error
        prompt.unexpanded_ids = self.processor.tokenizer(text, return_tensors='pt')['input_ids'][0]
        return prompt

    def kept_size(self, image: Tensor) -> tuple[int, int]:
        """The (height, width) to which the processor resizes an image, a uint8 (3, h, w).

        Raises:
            ValueError: The processor refuses the image.
        """
        return self.family.kept_size(self.processor, self.read(self.write('x'), image))

    def with_template(self, template: str) -> PromptEncoder:
        """The same encoder with another template."""
        encoder = copy.copy(self)
        encoder.template = template
        return encoder

    def write(self, question: str, task: str | None = None) -> str:
        """Write the text of a prompt, with a single image token, by the template of a task."""
        return self.chat.render(self._messages(question, task))

    def write_reply(self, text: str, has_image: bool) -> str:
        """Write what follows a response, see :meth:`.ChatTemplate.render_reply`."""
        return self.chat.render_reply(self._messages('x'), text, has_image)

    def _messages(self, question: str, task: str | None = None) -> list[dict[str, Any]]:
        return build_messages(question, find_task(task, self.templates), self.coordinates)

    def _find_problem(self, prompt: EncodedPrompt, size: tuple[int, ...], question: str) -> str:
        """Describe the problem with a prompt and its image of a (height, width); empty if there is
        none."""
        tokens = int((prompt.token_types == 1).sum())
        features = self.family.image_tokens(self.processor, prompt)
        if tokens != features:
            return (f'A prompt should have one image token for each of the {features} features '
                    f'of its image, but that of {question[:200]!r} has {tokens}; remove image '
                    f'tokens ({self.processor.image_token}) from the question, or copy chat '
                    f'template and tokenizer of {self.source!r} from the model that this one '
                    f'was trained from')
        kept = self.family.kept_size(self.processor, prompt)
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
                         sizes: Iterable[tuple[int, int]], task: str | None = None) -> list[str]:
    """Check, before training, that the prompts of a data set can be encoded.

    Encodes the longest question with a blank image of each size, so that the model's own processor
    says which sizes it keeps. Needs no images or weights, and about a second for 20,000 questions;
    if there are more, only the 20,000 longest by characters are checked.

    Args:
        encoder: The policy's encoder, which needs only the files of the processor.
        questions: Normalized questions.
        sizes: (width, height) of the model images, as for ``ModelImageResize``.
        task: Name of the questions' task; None for the first.

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
    texts = [encoder.write(question, task) for _, question in longest]
    _, (_, question) = max(zip(map(len, tokenizer(texts)['input_ids']), longest, strict=True))
    problems = []
    for width, height in sorted({*sizes}):
        try:
            encoder(torch.zeros(3, height, width, dtype=torch.uint8), question, task)
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
            asked = sample['data_samples']
            sample['inputs']['prompt'] = self.encoder(
                sample['inputs']['model_image'], asked.question, getattr(asked, 'task', None))
        return self.collate(samples)
