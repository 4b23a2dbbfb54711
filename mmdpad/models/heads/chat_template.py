# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Reads from a chat template what it writes around a question and a response."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import ProcessorMixin

from mmdpad.prompts import TAGS

from .processor_files import template_files

_REPLACE = ('replace it with the template of the vision-language model that this one was trained '
            'from')
# What a template may raise in Jinja's sandbox.
_ERRORS = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError)
_MARK = 'a response to find again'
TAG_TEXTS = frozenset(f'<{slash}{tag}>' for tag in TAGS for slash in ('', '/'))
"""Opening and closing tags of a response."""
_EMPTY_BLOCK = re.compile(r'<think>\s*</think>\s*')


class ChatTemplate:
    r"""A chat template, and its properties, found by rendering a question and a response.

    Args:
        processor: The policy's processor.
        source: The policy's folder or hub name, for messages.
        messages: A question to the policy (:func:`mmdpad.prompts.build_messages`).

    Attributes:
        opened: The beginning of the response that is already in the prompt: from the first of
            the tags think, answer and caption that the template opens after the question without
            closing it, to the end of the prompt, for example ``'<think>\n'`` for
            Qwen3-VL-Thinking; empty if it opens none.
        closes_reasoning: Whether a prompt ends with an empty think block (non-thinking mode).
        lead: Whitespace before a response that the template does not write after the question, so
            that the policy writes it: a line break for GLM-4.5V. It is not part of the response's
            text.
        turn_end: Token that ends the assistant's turn; None if the template ends it with plain
            text or has no such turn.

    Raises:
        ValueError: There is no template; it cannot be rendered; it does not render the image as
            exactly one image token (it is for text only) or changes the question; or it ignores
            ``add_generation_prompt``, so that the policy would have to begin its own turn.
    """

    def __init__(self, processor: ProcessorMixin, source: str,
                 messages: Sequence[dict[str, Any]]) -> None:
        self.processor: Any = processor
        self.source = source
        self._check_exists()
        prompt = self.render(messages)
        self._check_image(prompt)
        tail = self._after_question(prompt, messages)
        self.opened = find_opened(self._after_added_tokens(tail))
        self.closes_reasoning = bool(re.search(r'<think>\s*</think>\s*\Z', tail))
        self.lead = ''
        self.turn_end: int | None = None
        if turn := self._find_turn(messages):
            header, after = turn
            self._check_generation_prompt(messages, tail, header)
            if not self.opened and header.startswith(tail):
                gap = header.removeprefix(tail)
                self.lead = gap[:len(gap) - len(gap.lstrip())]
            self.turn_end = self._first_added_token(after)

    def render(self, messages: Sequence[dict[str, Any]], generate: bool = True) -> str:
        """Render messages as text, with one image token for an image.

        Args:
            messages: As for ``apply_chat_template``.
            generate: Whether to begin the assistant's turn.
        """
        try:
            return self.processor.apply_chat_template(
                list(messages), add_generation_prompt=generate, tokenize=False)
        except _ERRORS as error:
            raise ValueError(f'{self._name()} cannot be rendered for a question about an image: '
                             f'{error}; {_REPLACE}') from error

    def render_reply(self, messages: Sequence[dict[str, Any]], text: str,
                     has_image: bool) -> str:
        """Render what follows a response and its end token in a conversation: the rest of the
        assistant's turn, a user's turn with the reply, and the beginning of the next response.

        Args:
            messages: A question to the policy, for the context; it is not part of the result.
            text: Text of the reply.
            has_image: Whether an image precedes it, as one image token.

        Raises:
            ValueError: The template has no such turns: it ends the assistant's turn without an
                added token, or changes the reply.
        """
        content = [*[dict(type='image')] * has_image, dict(type='text', text=text)]
        turn = dict(role='assistant', content=[dict(type='text', text=_MARK)])
        _, _, rest = self.render([*messages, turn, dict(role='user', content=content)]).partition(
            _MARK)
        end = '' if self.turn_end is None else self.processor.tokenizer.decode([self.turn_end])
        reply = rest.lstrip().removeprefix(end)
        if not end or reply == rest.lstrip() or text not in reply or (
                reply.count(self.processor.image_token) != has_image):
            raise ValueError(
                f'{self._name()} should end a turn of the assistant by an added token, and render '
                f'the reply after it with {int(has_image)} image tokens, but got {rest[:300]!r}; '
                f'{_REPLACE}')
        return reply

    @property
    def digest(self) -> str:
        """The first 16 digits of the SHA-256 of the template's text."""
        return hashlib.sha256(repr(self.processor.chat_template).encode()).hexdigest()[:16]

    def _name(self) -> str:
        files = template_files(self.source)
        return f'The chat template of {self.source!r}' + (f' ({files[0]})' if files else '')

    def _check_exists(self) -> None:
        if self.processor.chat_template is not None:
            return
        advice = 'copy'
        if getattr(self.processor.tokenizer, 'chat_template', None):
            advice = ('the one in tokenizer_config.json is not used for prompts with images: save '
                      'it as chat_template.jinja if it renders them, otherwise copy')
        raise ValueError(f'{self.source!r} should hold a chat template for its processor '
                         f'(chat_template.jinja or chat_template.json), but has none; {advice} the '
                         f'file from the model that this one was trained from')

    def _check_image(self, prompt: str) -> None:
        token = self.processor.image_token
        if (count := prompt.count(token)) != 1:
            raise ValueError(
                f'{self._name()} should render the image of a prompt as one {token!r}, but renders '
                f'{count or "none"}{"" if count else ": it is for text only"}; {_REPLACE}')

    def _after_question(self, text: str, messages: Sequence[dict[str, Any]]) -> str:
        """Return the text after the question in a rendered text."""
        question = messages[-1]['content'][-1]['text'].strip()
        _, found, tail = text.rpartition(question)
        if not found:
            raise ValueError(
                f"{self._name()} should render the text of a user's message unchanged, but got "
                f'{text[:300]!r}; {_REPLACE}')
        return tail

    def _find_turn(self, messages: Sequence[dict[str, Any]]) -> tuple[str, str] | None:
        """Return the text between a question and its response, and the text after the response;
        None if the template has no assistant's turn."""
        for content in (_MARK, [dict(type='text', text=_MARK)]):
            try:
                text = self._after_question(self.render(
                    [*messages, dict(role='assistant', content=content)], False), messages)
            except ValueError:  # a template may only render questions
                continue
            if _MARK in text:
                header, _, after = text.partition(_MARK)
                return header, after
        return None

    def _check_generation_prompt(self, messages: Sequence[dict[str, Any]], tail: str,
                                 header: str) -> None:
        """Refuse a template that begins the assistant's turn only if it has a response."""
        missing = _EMPTY_BLOCK.sub('', header.removeprefix(tail)).strip()
        if header.startswith(tail) and missing and self._after_question(
                self.render(messages, False), messages) == tail:
            raise ValueError(
                f"{self._name()} should begin the assistant's turn if `add_generation_prompt` is "
                f'true, but ignores it: the policy would have to write {missing!r} itself; add it '
                f'at the end of the template: {{% if add_generation_prompt %}}...{{% endif %}}')

    def _after_added_tokens(self, text: str) -> str:
        """Return the text after its last added token that is not a tag."""
        added = (token.content for token in self.processor.tokenizer.added_tokens_decoder.values()
                 if token.content not in TAG_TEXTS)
        return text[max((text.rfind(token) + len(token) for token in added if token in text),
                        default=0):]

    def _first_added_token(self, text: str) -> int | None:
        """Return the first token of a text if it is an added token, but not a tag; else None."""
        tokenizer = self.processor.tokenizer
        first = tokenizer(text.lstrip(), add_special_tokens=False)['input_ids'][:1]
        added = tokenizer.added_tokens_decoder.get(first[0]) if first else None
        return None if added is None or added.content in TAG_TEXTS else first[0]


def find_opened(text: str) -> str:
    r"""Return a text from its first unclosed think, answer or caption tag on.

    >>> find_opened('assistant\n<think>\n')
    '<think>\n'
    >>> find_opened('assistant\n<think>\n\n</think>\n\n')
    ''
    """
    starts = [text.rfind(f'<{tag}>') for tag in TAGS if text.rfind(f'<{tag}>') > text.rfind(
        f'</{tag}>')]
    return text[min(starts):] if starts else ''
