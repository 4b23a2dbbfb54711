# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Converts between the tokens and the text of a response."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from mmdpad.models.sources import read_json
from mmdpad.prompts import TAGS, Place, well_formed

from .chat_template import TAG_TEXTS, ChatTemplate
from .token_places import place_tokens

GENERATION_CONFIG = 'generation_config.json'
BOX_MARKS = ('<|begin_of_box|>', '<|end_of_box|>')
"""GLM-V's tokens around a box in its answer, which tokenizers do not always treat as special."""
_LAST_TAG = f'</{TAGS[-1]}>'


class ResponseCodec:
    """Encodes and decodes responses, and determines how they begin and end.

    A response's text begins with the tag that the chat template opens for it
    (:attr:`.ChatTemplate.opened`), although those tokens belong to the prompt, and not with the
    whitespace that the policy writes first (:attr:`.ChatTemplate.lead`). It ends with any token
    that generation_config.json, config.json, the tokenizer or the chat template's end of a turn
    names; published folders disagree, so engines stop at all of them. Of the tags, only
    ``</caption>`` may end a response: GLM-4.1V's generation_config.json names ``</answer>``, but
    the caption comes after it. Supervised training uses the chat template's end token, so that an
    SFT target has the tokens of the rendered conversation, or the tokenizer's if the template has
    none.

    Args:
        source: Folder or hub name.
        tokenizer: Its tokenizer.
        chat: Its chat template.

    Attributes:
        opened, lead: See :class:`.ChatTemplate`.
        ends: End token -> the files that name it. Supervised training uses the first one.
        tag_ends: Tags within a response that a file names as end tokens, in the same way; engines
            do not stop at them.
        pad_token: Padding after a response's end; the first end token if the tokenizer has none.

    Raises:
        ValueError: A file is damaged, an end token is outside the model's vocabulary, or no end
            token is named.
    """

    def __init__(self, source: str, tokenizer: PreTrainedTokenizerBase,
                 chat: ChatTemplate) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self.opened, self.lead = chat.opened, chat.lead
        self.closes_reasoning = chat.closes_reasoning
        self.ends: dict[int, list[str]] = {}
        self.tag_ends: dict[int, list[str]] = {}
        self.ignored: list[int] = []
        config = read_json(source, 'config.json')
        text_config = config.get('text_config')
        text_config = text_config if isinstance(text_config, dict) else {}
        sizes = (text_config.get('vocab_size'), config.get('vocab_size'), len(tokenizer))
        size = next(size for size in sizes if isinstance(size, int))
        tags = {token for token, added in tokenizer.added_tokens_decoder.items()
                if added.content in TAG_TEXTS}
        inner_tags = tags - {tokenizer.convert_tokens_to_ids(_LAST_TAG)}
        for where, value in (
                ('the chat template', chat.turn_end), ('the tokenizer', tokenizer.eos_token_id),
                (GENERATION_CONFIG, read_json(source, GENERATION_CONFIG).get('eos_token_id')),
                ('config.json', config.get('eos_token_id')),
                ('config.json', text_config.get('eos_token_id'))):
            for token in self._tokens(where, value, size):
                # transformers always stops at those in generation_config.json. config.json may hold
                # one from another vocabulary, which would cut every response at some letter.
                if where == 'config.json' and token not in {
                        *self.ends, *tokenizer.added_tokens_decoder}:
                    self.ignored.append(token)
                    continue
                ends = self.tag_ends if token in inner_tags else self.ends
                if where not in (named := ends.setdefault(token, [])):
                    named.append(where)
        if not self.ends:
            raise ValueError(
                f'{source!r} should name the token that ends a response, but neither '
                f'{GENERATION_CONFIG} nor config.json (`eos_token_id`), nor the tokenizer '
                f'(`eos_token`), nor the chat template does; set `eos_token` in '
                f'tokenizer_config.json')
        pad = tokenizer.pad_token_id
        self.pad_token: int = next(iter(self.ends)) if pad is None or pad >= size else pad
        marks = {tokenizer.convert_tokens_to_ids(mark) for mark in BOX_MARKS} & {
            *tokenizer.added_tokens_decoder}
        self._no_text = {*tokenizer.all_special_ids, *self.ends, self.pad_token, *marks} - tags

    @property
    def end_tokens(self) -> list[int]:
        """Tokens that end a response; supervised training uses the first."""
        return list(self.ends)

    def encode(self, text: str, forbidden: Collection[int] = ()) -> list[int]:
        """Encode an SFT target as the tokens after a prompt, including the end token.

        Leaves out the tag that the chat template opens, and the whitespace after it if the template
        writes some; adds the whitespace before it that the policy writes.

        Args:
            text: The complete response.
            forbidden: Tokens that it may not contain, besides the tokenizer's special ones.

        Raises:
            ValueError: It does not begin with the tag that the template opens, or contains a
                special token other than a tag.
        """
        start = self.opened.rstrip()
        if not text.startswith(start):
            raise ValueError(f'A response should begin with {start!r}, which the chat template of '
                             f'{self.source!r} opens, but got {text[:200]!r}; add it, or use a '
                             f'folder whose template does not open it')
        rest = text[len(start):]
        if start != self.opened:
            rest = rest.lstrip()
        if not rest.startswith(self.lead):
            rest = self.lead + rest
        ids = self.tokenizer(rest, add_special_tokens=False)['input_ids']
        if found := [token for token in ids if token in self._no_text or token in forbidden]:
            raise ValueError(f'A response should be text without special tokens, but got '
                             f'{self.tokenizer.decode(found)!r} in {text!r}; remove them')
        return [*ids, self.end_tokens[0]]

    def encode_again(self, text: str, forbidden: Collection[int] = ()) -> list[int]:
        """Encode a response that a policy wrote, from its :meth:`decode`-d text, without an end
        token. The tokens may be others than those that were sampled: a text can be split in
        several ways, of which this is the tokenizer's.

        Args:
            text: The response, complete or not.
            forbidden: Tokens to leave out, besides the tokenizer's special ones, if the text
                happens to spell some.
        """
        rest = well_formed(text.removeprefix(self.opened))
        ids = self.tokenizer(rest if rest.startswith(self.lead) else self.lead + rest,
                             add_special_tokens=False)['input_ids']
        return [token for token in ids if token not in self._no_text and token not in forbidden]

    def locate(self, row: Sequence[int]) -> tuple[str, list[Place | None]]:
        """Decode a response as :meth:`decode` does, and find the characters of each token.

        Returns:
            The text, and the place in it of each token: its characters, complete or not, see
            :func:`.token_places.place_tokens`; None for a token that :meth:`decode` leaves out.
        """
        numbers = [number for number, token in enumerate(row) if token not in self._no_text]
        text, found = place_tokens(self.tokenizer, [row[number] for number in numbers])
        rest = text.removeprefix(self.lead)
        shift = len(self.opened) + len(rest) - len(text)
        places: list[Place | None] = [None] * len(row)
        for number, (start, end) in zip(numbers, found, strict=True):
            places[number] = max(start + shift, 0), max(end + shift, 0)
        return self.opened + rest, places

    def decode(self, rows: Iterable[list[int]]) -> list[str]:
        """Decode responses without end, padding and special tokens, and marks around boxes
        (:data:`BOX_MARKS`); tags are kept even if the tokenizer treats them as special."""
        kept = [[token for token in row if token not in self._no_text] for row in rows]
        return [self.opened + text.removeprefix(self.lead) for text in self.tokenizer.batch_decode(
            kept, clean_up_tokenization_spaces=False)]

    def describe(self) -> str:
        """Describe in one line how a response begins and ends, and which files determine it."""
        begins = (
            f'opens {self.opened!r}, which counts as part of each response' if self.opened else
            'opens and closes an empty <think> block (non-thinking mode), which counts as part of '
            'the prompt' if self.closes_reasoning else 'opens no tag')
        if self.lead:
            begins += f', but puts {self.lead!r} before a response, which is not part of its text'
        ends = self._named(self.ends)
        taught = ', of which supervised training uses the first' if len(self.ends) > 1 else ''
        ignored = ''.join(f'; {token} ({self.tokenizer.decode([token])!r}) of config.json is '
                          f'ignored, since it is plain text'
                          for token in dict.fromkeys(self.ignored))
        if self.tag_ends:
            ignored += f'; the tag {self._named(self.tag_ends)} within a response does not end it'
        return f'the chat template {begins}; a response ends with {ends}{taught}{ignored}'

    def _named(self, ends: dict[int, list[str]]) -> str:
        return ' or '.join(f'{self.tokenizer.decode([token])} ({token}: {", ".join(named)})'
                           for token, named in ends.items())

    def _tokens(self, where: str, value: Any, size: int) -> list[int]:
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(token) is int and 0 <= token < size for token in values):
            raise ValueError(f'`eos_token_id` of {where} in {self.source!r} should be a token id '
                             f'below {size}, the size of the vocabulary, or a list of them, but '
                             f'got {value!r}; correct it')
        return values

