# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import random
import time

import pytest

from mmdpad.rewards import distinct_n, repetition


def test_by_hand():
    # Of a b | b a | a b, a b | b c: three of five occur for the first time.
    assert distinct_n(['a b a b', 'a b c'], 2) == 3 / 5
    # a b c a b c a b: six 3-grams, abc bca cab and then abc bca cab again.
    assert repetition('a b c a b c a b', n=3) == 3 / 6
    # Of one text the two add up to 1.
    assert distinct_n(['a b c a b c a b'], 3) == 3 / 6


def test_what_has_no_ngram():
    assert distinct_n([], 2) == distinct_n(['', 'one'], 2) == 0
    assert repetition('') == repetition('a a a') == 0, 'less than four words'
    assert repetition('a a a a') == 0, 'its only 4-gram is the first'
    assert repetition('a a a a a') == 1 / 2


@pytest.mark.parametrize('text', ['\ud800 \x00 <think>' * 50, '\u3000\t\n' * 9, '苹果' * 999,
                                  'x' * 100_000, '{"a": [' * 999])
def test_any_text_has_a_value_in_range(text):
    assert 0 <= repetition(text) < 1 and 0 <= distinct_n([text, text], 2) <= 1


@pytest.mark.parametrize('n', [1, 2, 4, 5, 80])
@pytest.mark.parametrize('words', [1, 2, 9, 3000])
def test_equals_sets_of_words(n, words):
    rng = random.Random(n * words)
    texts = [' '.join(str(rng.randrange(words)) for _ in range(length))
             for length in (0, 1, 79, 80, 81, 4000)]
    texts.append(texts[-1])
    grams = [tuple(split[i:i + n]) for split in map(str.split, texts)
             for i in range(len(split) - n + 1)]
    assert distinct_n(texts, n) == len(set(grams)) / len(grams)
    own = grams[-(4000 - n + 1):]
    assert repetition(texts[-1], n) == (len(own) - len(set(own))) / len(own)


def test_long_ngrams_that_differ_in_their_first_word():
    # With 64 words a number of 12 or more of them has no room for the first.
    assert distinct_n([f'{i} ' + 'b ' * 79 for i in range(63)], 80) == 1


def test_a_long_loop_takes_no_long_time():
    start = time.perf_counter()
    assert repetition('so it is ' * 100_000) > 0.9999
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize('n', [0, -1])
def test_ngrams_of_no_words_are_refused(n):
    with pytest.raises(ValueError, match=f'at least 1 .*but got {n}'):
        repetition('a', n)
    with pytest.raises(ValueError, match=f'but got {n}'):
        distinct_n(['a'], n)
