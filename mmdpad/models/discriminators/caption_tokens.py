# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Counts a caption's CLIP tokens, and checks whether it can be scored."""

from __future__ import annotations

from open_clip.tokenizer import (
    HFTokenizer,
    SigLipTokenizer,
    SimpleTokenizer,
    basic_clean,
    canonicalize_text,
)
from torch import Tensor

# No vocabulary has entries longer than this, so a text with more characters per available token
# cannot fit, and is not tokenized at all.
_MAX_CHARS_PER_TOKEN = 64


class CaptionTokens:
    """Wraps open_clip's tokenizer, which truncates long texts, and adds their full token counts.

    Args:
        tokenizer: A tokenizer from ``open_clip.get_tokenizer``.
        model_context: Number of positions of the model's text tower, if known. The smaller of this
            and the tokenizer's own limit applies (77 for OpenAI's models, with start and end).
    """

    def __init__(self, tokenizer: SimpleTokenizer | HFTokenizer | SigLipTokenizer,
                 model_context: int | None = None) -> None:
        self._tokenizer = tokenizer
        limits = [limit for limit in (tokenizer.context_length, model_context) if limit]
        self.context_length = min(limits)
        self._special = _special_ids(tokenizer)
        self._empty = self.count('')

    def __call__(self, texts: list[str]) -> Tensor:
        """Token ids, (len(texts), context length), long."""
        return self._tokenizer(texts)

    def count(self, text: str) -> int:
        """Count the tokens of a text, with start and end tokens, before truncation."""
        tokenizer = self._tokenizer
        if isinstance(tokenizer, SimpleTokenizer):
            return len(self._encode(text)) + 2
        if getattr(tokenizer, 'tokenizer_mode', None) == 'clips':  # start, end and class tokens
            return len(self._encode(text)) + 3
        return len(self._encode(text, add_special_tokens=True))

    def _encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Clean a text as open_clip does, and return its token ids."""
        tokenizer = self._tokenizer
        if isinstance(tokenizer, SimpleTokenizer):
            return tokenizer.encode(text)
        clean = (tokenizer.clean_fn if isinstance(tokenizer, HFTokenizer) else
                 lambda text: canonicalize_text(basic_clean(text)))
        # Not verbose: no warning about long texts, since the caller checks the length.
        return tokenizer.tokenizer(clean(text), add_special_tokens=add_special_tokens,
                                   verbose=False).input_ids

    def fits(self, text: str | None) -> bool:
        """Whether a text is not empty, fits in the context, and is read to its end.

        A text with a special token, such as '<end_of_text>', does not fit: the model would not see
        what follows the token.
        """
        if text is None:
            return False
        text = ' '.join(text.split())
        if len(text) > self.context_length * _MAX_CHARS_PER_TOKEN:
            return False
        return (self._empty < self.count(text) <= self.context_length
                and self._special.isdisjoint(self._encode(text)))


def _special_ids(tokenizer: SimpleTokenizer | HFTokenizer | SigLipTokenizer) -> frozenset[int]:
    """Special tokens such as start, end and padding, but not the unknown word.

    Raises:
        TypeError: The tokenizer is none of open_clip's.
    """
    if isinstance(tokenizer, SimpleTokenizer):
        return frozenset(tokenizer.all_special_ids)
    if not isinstance(tokenizer, HFTokenizer | SigLipTokenizer):
        raise TypeError(f'`tokenizer` should be one of open_clip\'s three kinds, but got '
                        f'{type(tokenizer).__name__}')
    inner = tokenizer.tokenizer
    ends = {inner.eos_token_id, inner.sep_token_id}
    return frozenset(number for number in inner.all_special_ids
                     if number != inner.unk_token_id or number in ends)
