# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How much texts repeat. A word is whatever stands between blanks; upper and lower case differ."""

from __future__ import annotations

from collections.abc import Sequence


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Share of different word n-grams among all n-grams of the texts together.

    Args:
        texts: Any texts, for example the chains of one group.
        n: Words in an n-gram.

    Returns:
        A value in [0, 1]: 1 if no n-gram occurs twice, 0 if there is none at all (no text, or
        each shorter than n words).

    Raises:
        ValueError: ``n`` is not positive.
    """
    grams = [gram for text in texts for gram in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(text: str, n: int = 4) -> float:
    """Share of the text's word n-grams that occurred before in it, in time linear in its length.

    Args:
        text: Anything a model may have written.
        n: Words in an n-gram.

    Returns:
        A value in [0, 1): 0 if nothing occurs twice or the text has less than n words, and near 1
        for a loop. A text without blanks is one word, so a language written without them has 0.

    Raises:
        ValueError: ``n`` is not positive.

    Example:
        >>> repetition('the red dog and the red dog', n=2)  # 2 of 6: "the red", "red dog"
        0.3333333333333333
    """
    grams = _ngrams(text, n)
    return (len(grams) - len(set(grams))) / len(grams) if grams else 0.0


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    if n < 1:
        raise ValueError(f'`n` should be at least 1 (words in an n-gram), but got {n}')
    words = text.split()
    return [tuple(words[i:i + n]) for i in range(len(words) - n + 1)]
