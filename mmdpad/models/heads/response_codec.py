# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The one place where tokens of a response become text, and where text becomes tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from transformers import PreTrainedTokenizerBase

from mmdpad.models.sources import read_json

from .chat_template import TAG_TEXTS, ChatTemplate

GENERATION_CONFIG = 'generation_config.json'


class ResponseCodec:
    """How responses are written.

    A response's text begins with what the chat template has opened for it
    (:attr:`.ChatTemplate.opened`), although that is a part of the prompt's tokens. It ends with any
    token that the folder names as an end: in generation_config.json, in config.json, in the
    tokenizer or by the way in which the chat template ends the assistant's turn. Published folders
    name different ones: engines stop at all of them. Supervised training teaches the chat
    template's, so that a taught response has the tokens of the rendered conversation, or, where the
    template has none, the tokenizer's.

    Args:
        source: Folder or hub name.
        tokenizer: Its tokenizer.
        chat: Its chat template.

    Attributes:
        opened: See :class:`.ChatTemplate`.
        ends: Token -> where it is named. The first is taught.
        pad_token: For what is behind a response's end; the first end where the tokenizer has none.

    Raises:
        ValueError: A file is damaged, names something that is no token of the model's vocabulary,
            or nothing names an end.
    """

    def __init__(self, source: str, tokenizer: PreTrainedTokenizerBase,
                 chat: ChatTemplate) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self.opened = chat.opened
        self.closes_reasoning = chat.closes_reasoning
        self.ends: dict[int, list[str]] = {}
        self.ignored: list[int] = []
        config = read_json(source, 'config.json')
        text_config = config.get('text_config')
        text_config = text_config if isinstance(text_config, dict) else {}
        sizes = (text_config.get('vocab_size'), config.get('vocab_size'), len(tokenizer))
        size = next(size for size in sizes if isinstance(size, int))
        for where, value in (
                ('the chat template', chat.turn_end), ('the tokenizer', tokenizer.eos_token_id),
                (GENERATION_CONFIG, read_json(source, GENERATION_CONFIG).get('eos_token_id')),
                ('config.json', config.get('eos_token_id')),
                ('config.json', text_config.get('eos_token_id'))):
            for token in self._tokens(where, value, size):
                # transformers stops at generation_config.json's, whatever they are; config.json may
                # hold another vocabulary's, which would cut every response at some letter.
                if where == 'config.json' and token not in {
                        *self.ends, *tokenizer.added_tokens_decoder}:
                    self.ignored.append(token)
                elif where not in (named := self.ends.setdefault(token, [])):
                    named.append(where)
        if not self.ends:
            raise ValueError(
                f'Something in {source!r} should name the token that ends a response, but neither '
                f'{GENERATION_CONFIG} nor config.json (`eos_token_id`), nor the tokenizer '
                f'(`eos_token`), nor the chat template does; set `eos_token` in '
                f'tokenizer_config.json')
        pad = tokenizer.pad_token_id
        self.pad_token: int = next(iter(self.ends)) if pad is None or pad >= size else pad
        tags = {token for token, added in tokenizer.added_tokens_decoder.items()
                if added.content in TAG_TEXTS}
        self._no_text = {*tokenizer.all_special_ids, *self.ends, self.pad_token} - tags

    @property
    def end_tokens(self) -> list[int]:
        """Tokens that end a response; the first is the one that a given response is taught with."""
        return list(self.ends)

    def encode(self, text: str, forbidden: Collection[int] = ()) -> list[int]:
        """Tokens of a given response behind a prompt, the end token included.

        What the chat template has opened is left out, blanks behind it included where it writes
        such itself.

        Args:
            text: The whole response.
            forbidden: Tokens, besides the tokenizer's special ones, that it may not hold.

        Raises:
            ValueError: It does not begin with what the template opens, or holds a special token
                other than a tag, which no response can hold.
        """
        start = self.opened.rstrip()
        if not text.startswith(start):
            raise ValueError(f'A response should begin with {start!r}, which the chat template of '
                             f'{self.source!r} opens, but got {text[:200]!r}; begin it so, or use '
                             f'a folder whose template leaves that to the response')
        rest = text[len(start):]
        if start != self.opened:
            rest = rest.lstrip()
        ids = self.tokenizer(rest, add_special_tokens=False)['input_ids']
        if found := [token for token in ids if token in self._no_text or token in forbidden]:
            raise ValueError(f'A response should be text without special tokens, but got '
                             f'{self.tokenizer.decode(found)!r} in {text!r}; remove them')
        return [*ids, self.end_tokens[0]]

    def decode(self, rows: Iterable[list[int]]) -> list[str]:
        """Texts of responses, from their tokens (end, padding and special tokens are left out; tags
        are kept, also where the tokenizer calls them special)."""
        kept = [[token for token in row if token not in self._no_text] for row in rows]
        return [self.opened + text for text in self.tokenizer.batch_decode(
            kept, clean_up_tokenization_spaces=False)]

    def describe(self) -> str:
        """What a response begins and ends with, and who says so, in one line."""
        begins = (
            f'opens {self.opened!r}, which counts as written by each response' if self.opened else
            'opens and closes an empty <think> block (non-thinking mode), which counts as the '
            "prompt's" if self.closes_reasoning else 'opens no tag')
        ends = ' or '.join(f'{self.tokenizer.decode([token])} ({token}: {", ".join(named)})'
                           for token, named in self.ends.items())
        taught = ', of which supervised training teaches the first' if len(self.ends) > 1 else ''
        ignored = ''.join(f'; config.json names {token} ({self.tokenizer.decode([token])!r}) too, '
                          f'which is plain text and ends nothing'
                          for token in dict.fromkeys(self.ignored))
        return f'the chat template {begins}; a response ends with {ends}{taught}{ignored}'

    def _tokens(self, where: str, value: Any, size: int) -> list[int]:
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(token) is int and 0 <= token < size for token in values):
            raise ValueError(f'`eos_token_id` of {where} in {self.source!r} should be a token '
                             f'number below {size}, the size of the vocabulary, or a list of them, '
                             f'but got {value!r}; correct it there')
        return values

