# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from mmdpad.models.feature_cache import FeatureCache, content_key


def image(value):
    return np.full((2, 3), value, np.uint8)


class Double:
    """Twice the values of each batch of images, and the batches that it was asked for."""

    def __init__(self):
        self.batches = []

    def __call__(self, images):
        self.batches.append([int(i[0, 0]) for i in images])
        return [2 * value for value in self.batches[-1]]


def look(cache, *values):
    """The batches that are computed for images of these values."""
    compute = Double()
    assert cache.lookup([image(v) for v in values], compute) == [2 * v for v in values]
    return compute.batches


def test_only_the_distinct_and_unknown_are_computed_in_one_batch():
    cache = FeatureCache(4)
    assert look(cache, 5, 3, 5) == [[5, 3]]
    assert look(cache, 3, 7, 5, 8, 7) == [[7, 8]]
    assert look(cache, 8, 3) == [] and look(cache) == []


def test_equal_contents_have_the_same_object():
    for size in (0, 3):
        features = FeatureCache(size).lookup([image(1), image(2), image(1)],
                                             lambda images: [object() for _ in images])
        assert features[0] is features[2] is not features[1]


def test_the_one_unused_longest_goes_first():
    cache = FeatureCache(3)
    look(cache, 1, 2, 3)
    look(cache, 1)  # now 2 is the oldest, then 3
    look(cache, 4)
    assert look(cache, 3, 1, 4) == [] and len(cache) == 3
    assert look(cache, 2) == [[2]]  # in the place of 3
    assert look(cache, 1, 4) == [] and look(cache, 3) == [[3]]


@pytest.mark.promise('Long runs', 'Caches of images that are always new',
                     'hold no more than `cache_size`')
@pytest.mark.parametrize('capacity', [0, 1, 2])
def test_more_contents_than_capacity(capacity):
    cache = FeatureCache(capacity)
    look(cache, 1)
    # What is known is kept for this call although the new ones push it out.
    assert look(cache, 1, 2, 3, 4, 1, 2) == [[2, 3, 4] if capacity else [1, 2, 3, 4]]
    assert len(cache) == capacity
    assert look(cache, 2) == ([] if capacity else [[2]])


def test_cleared():
    cache = FeatureCache(2)
    look(cache, 1)
    cache.clear()
    assert len(cache) == 0 and look(cache, 1) == [[1]]


def test_a_failure_keeps_nothing():
    cache = FeatureCache(2)
    for wrong in (lambda images: [1], lambda images: 1 / 0):
        with pytest.raises((ValueError, ZeroDivisionError)):
            cache.lookup([image(1), image(2)], wrong)
    assert len(cache) == 0


def test_no_negative_capacity():
    with pytest.raises(ValueError, match=r'0 \(nothing is kept\) or more, but got -1'):
        FeatureCache(-1)


def test_key_of_a_part_is_that_of_its_copy():
    whole = np.arange(24, dtype=np.uint8).reshape(4, 6)
    for part in (whole[1:3, 2:5], whole[::-1], whole.T):
        assert content_key(part) == content_key(part.copy(order='C'))


@pytest.mark.parametrize('other', [
    np.zeros((3, 2), np.uint8), np.zeros((6, ), np.uint8), np.zeros((2, 3), np.int8),
    np.zeros((1, 2, 3), np.uint8), np.eye(2, 3, dtype=np.uint8)])
def test_key_tells_apart_shape_type_and_values(other):
    assert content_key(other) != content_key(np.zeros((2, 3), np.uint8))
