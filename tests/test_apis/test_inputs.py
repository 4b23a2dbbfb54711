# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdpad.apis.inputs import pair_queries
from mmdpad.datasets import DatasetError

PHOTO = Path(__file__).parents[1] / 'data' / 'photos' / 'val' / 'coffee.jpg'
ARRAY = np.zeros((4, 6, 3), np.uint8)


def pairs(images, questions):
    return [(q.path or q.image.shape, q.question) for q in pair_queries(images, questions)]


def test_pairing():
    photo, shape = str(PHOTO), (4, 6, 3)
    assert pairs(PHOTO, 'a?') == [(photo, 'a?')]
    assert pairs(ARRAY, ['a?', 'b?']) == [(shape, 'a?'), (shape, 'b?')]
    assert pairs([ARRAY, photo], 'a?') == [(shape, 'a?'), (photo, 'a?')]
    assert pairs((ARRAY, photo), ('a?', 'b?')) == [(shape, 'a?'), (photo, 'b?')]


def test_pil_images_are_turned_upright_and_rgb():
    image = Image.new('L', (6, 4), 200)
    image.getexif()[0x0112] = 6  # rotated by a quarter
    query, = pair_queries(image, 'a?')
    assert query.image.shape == (6, 4, 3) and (query.image == 200).all() and query.path is None


@pytest.mark.parametrize('images, questions, error, match', [
    ([], 'a?', ValueError, 'at least one image and one question, but got 0 and 1'),
    (ARRAY, [], ValueError, 'got 1 and 0'),
    ([ARRAY] * 3, ['a?', 'b?'], ValueError, 'got 2 questions and 3 images'),
    (ARRAY, ['a?', ' ...'], ValueError, "number 1 is ' ...'"),
    (ARRAY, [None], TypeError, 'number 0 is NoneType'),
    ([ARRAY, 3], 'a?', TypeError, 'number 1 is int'),
    (ARRAY / 255, 'a?', ValueError, r'number 0 is float64 \(4, 6, 3\)'),
    (ARRAY[..., 0], 'a?', ValueError, r'uint8 \(4, 6\)'),
    (['no/such.jpg'], 'a?', DatasetError, 'no/such.jpg does not exist'),
    ([str(PHOTO), __file__], 'a?', DatasetError, 'cannot be decoded'),
])
def test_what_cannot_be_used_is_named(images, questions, error, match):
    with pytest.raises(error, match=match):
        pair_queries(images, questions)


def test_what_is_no_image_file(tmp_path):
    with pytest.raises(ValueError, match='got the address https://a/b.jpg; download it'):
        pair_queries('https://a/b.jpg', 'a?')
    (tmp_path / 'sub').mkdir()
    with pytest.raises(ValueError, match='has none; its subfolders are not searched'):
        pair_queries(tmp_path, 'a?')
