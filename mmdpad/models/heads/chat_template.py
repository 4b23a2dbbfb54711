# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What the chat template of a policy's folder writes around a question and around a response."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from jinja2 import TemplateError
from transformers import ProcessorMixin

from mmdpad.models.sources import read_json
from mmdpad.prompts import TAGS

REMEDY = 'The folder should hold tokenizer, processor and chat template as they were published'
# What a program run in a sandbox of Jinja's may raise; transformers: ValueError without a template.
_ERRORS = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError)
_MARK = 'a response to find again'
# Where transformers looks, the first that counts first; with None the file holds nothing else.
_FILES = {'processor_config.json': 'chat_template', 'chat_template.json': None,
          'chat_template.jinja': None, 'tokenizer_config.json': 'chat_template'}
TAG_TEXTS = frozenset(f'<{slash}{tag}>' for tag in TAGS for slash in ('', '/'))
"""Tags of a response as they are written."""
_EMPTY_BLOCK = re.compile(r'<think>\s*</think>\s*')


class ChatTemplate:
    """A chat template, looked at once by rendering a question and a response.

    Args:
        processor: Of the policy's folder.
        source: The folder or its hub name, for messages.
        messages: A question as the policy will be asked it (:func:`mmdpad.prompts.build_messages`).

    Attributes:
        opened: The beginning of the response that a prompt holds already: from the first of the
            tags think, answer and caption that the template opens behind the question and does not
            close, to the end of the prompt, for example ``'<think>\\n'`` of Qwen3-VL-Thinking;
            empty where it opens none.
        closes_reasoning: Whether a prompt ends with an empty think block (non-thinking mode).
        turn_end: Token with which the template ends the assistant's turn; None if it is plain
            text, or the template has no such turn.

    Raises:
        ValueError: The template cannot be rendered; does not render the image as one image token
            and the question as it is (it is for text only); or ignores ``add_generation_prompt``,
            so that the policy would have to begin its own turn.
    """

    def __init__(self, processor: ProcessorMixin, source: str,
                 messages: Sequence[dict[str, Any]]) -> None:
        self.processor = processor
        self.source = source
        prompt = self.render(messages)
        self._check_image(prompt)
        tail = self._behind_question(prompt, messages)
        self.opened = find_opened(self._behind_added_tokens(tail))
        self.closes_reasoning = bool(re.search(r'<think>\s*</think>\s*\Z', tail))
        self.turn_end: int | None = None
        if turn := self._find_turn(messages):
            header, behind = turn
            self._check_generation_prompt(messages, tail, header)
            self.turn_end = self._first_added_token(behind)

    def render(self, messages: Sequence[dict[str, Any]], generate: bool = True) -> str:
        """Messages as text, one image token in place of an image.

        Args:
            messages: As of ``apply_chat_template``.
            generate: Begin the assistant's turn.
        """
        try:
            return self.processor.apply_chat_template(
                list(messages), add_generation_prompt=generate, tokenize=False)
        except _ERRORS as error:
            raise ValueError(f'{self._name()} cannot be used: {error}. {REMEDY}; a template for '
                             f'text only cannot ask about an image') from error

    @property
    def digest(self) -> str:
        """A name of the template's text: the start of its SHA-256."""
        return hashlib.sha256(repr(self.processor.chat_template).encode()).hexdigest()[:16]

    def _name(self) -> str:
        return f'The chat template of {self.source!r}{_find_file(self.source)}'

    def _check_image(self, prompt: str) -> None:
        token = self.processor.image_token
        if (count := prompt.count(token)) != 1:
            raise ValueError(
                f'{self._name()} should render the image of a prompt as one {token!r}, but renders '
                f'{count or "none"}{"" if count else ": it is for text only"}; replace it with the '
                f'template of the vision-language model that this one was made from')

    def _behind_question(self, text: str, messages: Sequence[dict[str, Any]]) -> str:
        """What a rendered text has behind the question."""
        question = messages[-1]['content'][-1]['text'].strip()
        _, found, tail = text.rpartition(question)
        if not found:
            raise ValueError(
                f"{self._name()} should render the text of a user's message as it is, but does "
                f'not: {text[:300]!r}; replace it with the template of the vision-language model '
                f'that this one was made from')
        return tail

    def _find_turn(self, messages: Sequence[dict[str, Any]]) -> tuple[str, str] | None:
        """What stands between the question and a response to it, and what behind the response; None
        where the template has no such turn."""
        for content in (_MARK, [dict(type='text', text=_MARK)]):
            try:
                text = self._behind_question(self.render(
                    [*messages, dict(role='assistant', content=content)], False), messages)
            except ValueError:  # a template may be for questions only
                continue
            if _MARK in text:
                header, _, behind = text.partition(_MARK)
                return header, behind
        return None

    def _check_generation_prompt(self, messages: Sequence[dict[str, Any]], tail: str,
                                 header: str) -> None:
        """Refuse a template that begins the assistant's turn for a given response only."""
        missing = _EMPTY_BLOCK.sub('', header.removeprefix(tail)).strip()
        if header.startswith(tail) and missing and self._behind_question(
                self.render(messages, False), messages) == tail:
            raise ValueError(
                f"{self._name()} should begin the assistant's turn where `add_generation_prompt` "
                f'is true, but ignores it: the policy would have to write {missing!r} itself; add '
                f'it at the end of the template: {{% if add_generation_prompt %}}...{{% endif %}}')

    def _behind_added_tokens(self, text: str) -> str:
        """The end of a text that is plain text and tags."""
        added = (token.content for token in self.processor.tokenizer.added_tokens_decoder.values()
                 if token.content not in TAG_TEXTS)
        return text[max((text.rfind(token) + len(token) for token in added if token in text),
                        default=0):]

    def _first_added_token(self, text: str) -> int | None:
        """The token that a text begins with, if it is none of plain text."""
        tokenizer = self.processor.tokenizer
        first = tokenizer(text.lstrip(), add_special_tokens=False)['input_ids'][:1]
        added = tokenizer.added_tokens_decoder.get(first[0]) if first else None
        return None if added is None or added.content in TAG_TEXTS else first[0]


def find_opened(text: str) -> str:
    """From the first of the tags think, answer and caption that is not closed, to the end.

    >>> find_opened('assistant\\n<think>\\n')
    '<think>\\n'
    >>> find_opened('assistant\\n<think>\\n\\n</think>\\n\\n')
    ''
    """
    starts = [text.rfind(f'<{tag}>') for tag in TAGS if text.rfind(f'<{tag}>') > text.rfind(
        f'</{tag}>')]
    return text[min(starts):] if starts else ''


def _find_file(source: str) -> str:
    """The file of a folder that holds its chat template, as ' (NAME)'; empty if it is not found."""
    folder = Path(source)
    if not folder.is_dir():
        cached = try_to_load_from_cache(source, 'config.json')
        folder = Path(cached).parent if isinstance(cached, str) else folder
    for name, entry in _FILES.items():
        path = folder / name
        if path.is_file() and (entry is None or entry in read_json(source, name)):
            return f' ({name})'
    return ''
