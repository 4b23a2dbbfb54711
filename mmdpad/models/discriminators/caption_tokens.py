# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The length of a caption in the tokens of a CLIP model, and whether it fits."""

from __future__ import annotations

from functools import partial

from open_clip.tokenizer import (
    HFTokenizer,
    SigLipTokenizer,
    SimpleTokenizer,
    basic_clean,
    canonicalize_text,
)
from torch import Tensor

# A text with more characters per available token than any vocabulary's entry has cannot fit. Byte
# pair encoding takes quadratic time for one long word, so such a text is not tokenized at all.
_MAX_CHARS_PER_TOKEN = 64


class CaptionTokens:
    """open_clip's tokenizer, which cuts long texts, with the length that it does not tell.

    Args:
        tokenizer: What ``open_clip.get_tokenizer`` gives.
        model_context: Positions of the model's text tower, if known; the smaller of this and the
            tokenizer's own limit counts (77 for OpenAI's models, start and end included).
    """

    def __init__(self, tokenizer: SimpleTokenizer | HFTokenizer | SigLipTokenizer,
                 model_context: int | None = None) -> None:
        self._tokenizer = tokenizer
        limits = [limit for limit in (tokenizer.context_length, model_context) if limit]
        self.context_length = min(limits)
        self._empty = self.count('')

    def __call__(self, texts: list[str]) -> Tensor:
        """Token ids, (len(texts), context length), long."""
        return self._tokenizer(texts)

    def count(self, text: str) -> int:
        """Tokens of a text with start and end tokens, before anything is cut off."""
        tokenizer = self._tokenizer
        if isinstance(tokenizer, SimpleTokenizer):
            return len(tokenizer.encode(text)) + 2
        if isinstance(tokenizer, SigLipTokenizer):
            return len(tokenizer.tokenizer(canonicalize_text(basic_clean(text))).input_ids)
        if not isinstance(tokenizer, HFTokenizer):
            raise TypeError(f'`tokenizer` should be one of open_clip\'s three kinds, but got '
                            f'{type(tokenizer).__name__}')
        # Not verbose: whether a text is too long for the model is just the question.
        encode = partial(tokenizer.tokenizer, tokenizer.clean_fn(text), verbose=False)
        if tokenizer.tokenizer_mode == 'clips':  # it adds start, end and class tokens itself
            return len(encode(add_special_tokens=False).input_ids) + 3
        return len(encode().input_ids)

    def fits(self, text: str | None) -> bool:
        """Whether a text says something and is not longer than the context."""
        if text is None:
            return False
        text = ' '.join(text.split())
        if len(text) > self.context_length * _MAX_CHARS_PER_TOKEN:
            return False
        return self._empty < self.count(text) <= self.context_length
