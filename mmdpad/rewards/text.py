# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How much texts repeat. Words are separated by whitespace; upper and lower case differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, count

import numpy as np


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Share of distinct word n-grams among all n-grams of the texts together.

    Args:
        texts: Any texts, for example the reasoning of each response in a group.
        n: Words in an n-gram.

    Returns:
        A value in [0, 1]: 1 if no n-gram occurs twice, 0 if there is no n-gram (no text, or each
        shorter than n words).

    Raises:
        ValueError: ``n`` is not positive.
    """
    different, total = _count_ngrams(texts, n)
    return different / total if total else 0.0


def repetition(text: str, n: int = 4) -> float:
    """Share of the text's word n-grams that occur earlier in it; takes near-linear time.

    Args:
        text: Any model output.
        n: Words in an n-gram.

    Returns:
        A value in [0, 1): 0 if nothing occurs twice or the text has fewer than n words, and near 1
        for a loop. A text without whitespace is one word, so a language written without it gets 0.

    Raises:
        ValueError: ``n`` is not positive.

    Example:
        >>> repetition('the red dog and the red dog', n=2)  # 2 of 6: "the red", "red dog"
        0.3333333333333333
    """
    different, total = _count_ngrams([text], n)
    return (total - different) / total if total else 0.0


def _count_ngrams(texts: Sequence[str], n: int) -> tuple[int, int]:
    """The number of distinct n-grams, and of all n-grams.

    Works on numbers in place of words: a megabyte of text has up to 500,000 n-grams, too many for
    one Python object each.
    """
    if n < 1:
        raise ValueError(f'`n` should be at least 1 (words in an n-gram), but got {n}')
    split = [words for text in texts if len(words := text.split()) >= n]
    if not split:
        return 0, 0
    numbers: dict[str, int] = defaultdict(count().__next__)
    written = np.fromiter(map(numbers.__getitem__, chain(*split)), np.int64)
    grams = written
    for start in range(1, n):
        if grams.max() >= 2**62 // len(numbers):  # renumber before int64 overflows
            grams = np.unique(grams, return_inverse=True)[1]
        grams = grams[:-1] * len(numbers) + written[start:]
    inside = np.concatenate([np.arange(len(words)) <= len(words) - n for words in split])
    grams = np.sort(grams[inside[:len(grams)]])
    return 1 + int(np.count_nonzero(grams[1:] != grams[:-1])), len(grams)
