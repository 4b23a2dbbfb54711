# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The length of a caption in the tokens of a CLIP model, and whether it can be scored."""

from __future__ import annotations

from open_clip.tokenizer import (
    HFTokenizer,
    SigLipTokenizer,
    SimpleTokenizer,
    basic_clean,
    canonicalize_text,
)
from torch import Tensor

# A text with more characters per available token than any vocabulary's entry has cannot fit, and is
# not tokenized at all.
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
        self._special = _special_ids(tokenizer)
        self._empty = self.count('')

    def __call__(self, texts: list[str]) -> Tensor:
        """Token ids, (len(texts), context length), long."""
        return self._tokenizer(texts)

    def count(self, text: str) -> int:
        """Tokens of a text with start and end tokens, before anything is cut off."""
        tokenizer = self._tokenizer
        if isinstance(tokenizer, SimpleTokenizer):
            return len(self._encode(text)) + 2
        if getattr(tokenizer, 'tokenizer_mode', None) == 'clips':  # start, end and class tokens
            return len(self._encode(text)) + 3
        return len(self._encode(text, add_special_tokens=True))

    def _encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Token ids of a text, cleaned as open_clip does."""
        tokenizer = self._tokenizer
        if isinstance(tokenizer, SimpleTokenizer):
            return tokenizer.encode(text)
        clean = (tokenizer.clean_fn if isinstance(tokenizer, HFTokenizer) else
                 lambda text: canonicalize_text(basic_clean(text)))
        # Not verbose: whether a text is too long for the model is just the question.
        return tokenizer.tokenizer(clean(text), add_special_tokens=add_special_tokens,
                                   verbose=False).input_ids

    def fits(self, text: str | None) -> bool:
        """Whether a text says something, is not longer than the context, and is read to its end.

        A text that holds a special token, such as '<end_of_text>', is not: the model would not see
        what follows it.
        """
        if text is None:
            return False
        text = ' '.join(text.split())
        if len(text) > self.context_length * _MAX_CHARS_PER_TOKEN:
            return False
        return (self._empty < self.count(text) <= self.context_length
                and self._special.isdisjoint(self._encode(text)))


def _special_ids(tokenizer: SimpleTokenizer | HFTokenizer | SigLipTokenizer) -> frozenset[int]:
    """Tokens that no word has: start, end, padding and the like, but not the unknown word.

    Raises:
        TypeError: It is none of open_clip's tokenizers.
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
