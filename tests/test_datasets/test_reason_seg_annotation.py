# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmdpad.datasets import DatasetError, read_reasonseg_annotation
from mmdpad.datasets.reason_seg_annotation import parse_annotation


def square(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


@pytest.fixture
def read(tmp_path, write_pair):
    """Write an annotation and read it for a canvas of 10 rows and 20 columns."""

    def write_and_read(*polygons, **fields):
        _, path = write_pair(tmp_path, polygons=polygons, **fields)
        return read_reasonseg_annotation(path, 10, 20)

    return write_and_read


@pytest.mark.filterwarnings('ignore:__array__ implementation')  # pycocotools 2.0.11
def test_agrees_with_lisas_reader_on_every_golden_case(golden_masks, tmp_path):
    path = tmp_path / 'a.json'
    assert len(golden_masks) == 40
    assert {case['encoding'] for case in golden_masks} == {'utf-8', 'cp1252'}
    for case in golden_masks:
        path.write_bytes(
            json.dumps(case['annotation'], ensure_ascii=False).encode(case['encoding']))
        expected = case['expected']
        target, ignore, texts, is_sentence = read_reasonseg_annotation(
            path, case['height'], case['width'])
        assert target.dtype == ignore.dtype == bool
        np.testing.assert_array_equal(target, coco_mask.decode(expected['target']))
        np.testing.assert_array_equal(ignore, coco_mask.decode(expected['ignore']))
        assert texts == expected['text']
        assert is_sentence == expected['is_sentence']


def test_a_polygon_marks_its_outline_too(read):
    target, ignore, texts, is_sentence = read(('target', square(2, 3, 6, 7)))
    expected = np.zeros((10, 20), bool)
    expected[3:8, 2:7] = True
    np.testing.assert_array_equal(target, expected)
    assert not ignore.any()
    assert (texts, is_sentence) == (['the thing'], False)


def test_the_smaller_polygon_lies_on_top_whatever_the_order_in_the_file(read):
    large, small = ('target', square(0, 0, 9, 9)), ('Ignored', square(3, 3, 5, 5))
    for polygons in ((large, small), (small, large)):
        target, ignore, _, _ = read(*polygons)
        assert (target.sum(), ignore.sum()) == (100 - 9, 9)
        assert ignore[3:6, 3:6].all()


def test_a_smaller_target_lies_on_an_ignored_region(read):
    target, ignore, _, _ = read(('target', square(3, 3, 5, 5)), ('ignore', square(0, 0, 9, 9)))
    assert (target.sum(), ignore.sum()) == (9, 91)


def test_size_is_what_lies_inside_of_the_image(read):
    # The ignored one is larger on paper, but only 3 x 3 of its pixels are in the image.
    target, ignore, _, _ = read(('target', square(0, 0, 4, 4)), ('ignore', square(-50, -50, 2, 2)))
    assert (target.sum(), ignore.sum()) == (16, 9)


def test_among_equals_the_first_in_the_file_is_on_top(read):
    same = square(1, 1, 4, 4)
    target, ignore, _, _ = read(('ignore', same), ('target', same))
    assert (target.sum(), ignore.sum()) == (0, 16)


def test_flags_do_not_count(read):
    target, ignore, _, _ = read(('FLAG', square(0, 0, 9, 9)), ('flags', square(3, 3, 5, 5)))
    # Only the label "flag" itself marks a deprecated polygon.
    assert (target.sum(), ignore.sum()) == (9, 0)


def test_coordinates_are_truncated_towards_zero(read):
    target, _, _, _ = read(('target', [[2.9, 3.9], [4.9, 3.9]]))
    assert np.argwhere(target).tolist() == [[3, 2], [3, 3], [3, 4]]
    target, _, _, _ = read(('target', [[-0.9, -0.9]]))
    assert np.argwhere(target).tolist() == [[0, 0]]


def test_polygons_outside_of_the_image_mark_nothing(read):
    target, ignore, _, _ = read(('target', square(30, 30, 40, 40)))
    assert not target.any() and not ignore.any()


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'cp1252'])
def test_both_encodings_are_read(encoding, read):
    _, _, texts, is_sentence = read(text=['the café – “Zoë”'], is_sentence=True, encoding=encoding)
    assert texts == ['the café – “Zoë”']
    assert is_sentence is True


@pytest.mark.parametrize(('fields', 'message'), [
    (dict(text='the dog'), r"`text` of .*a\.json should be a list .* got 'the dog'"),
    (dict(text=[]), r'`text` of .*a\.json should be a list of at least one string'),
    (dict(text=[3]), r'`text` of .*a\.json should be a list of at least one string'),
    (dict(is_sentence='no'), r'`is_sentence` of .*a\.json should be true or false'),
    (dict(shapes={}), r'`shapes` of .*a\.json should be a list of polygons'),
    (dict(shapes=['x']), r'`shapes\[0\]` of .*a\.json should be an object'),
    (dict(shapes=[dict(points=[[1, 2]])]), r'`shapes\[0\]` of .*a\.json .* string `label`'),
    (dict(shapes=[dict(label='t')]), r'`shapes\[0\]\.points` of .* but got None'),
    (dict(shapes=[dict(label='t', points=[])]), r'`shapes\[0\]\.points` of .* at least one'),
    (dict(shapes=[dict(label='t', points=[[1, 2, 3]])]), r'should be a list .* \[x, y\]'),
    (dict(shapes=[dict(label='t', points=[['1', '2']])]), r'should be a list .* \[x, y\]'),
    (dict(shapes=[dict(label='t', points=[[None, 1]])]), r'numbers in pixels'),
    (dict(other_boxes={}), r'`other_boxes` of .*a\.json should be a list of boxes, but got {}'),
    (dict(other_boxes=None), r'`other_boxes` of .* but got None'),
    (dict(other_boxes=[[1, 1, 2, 2], [1, 2, 3]]), r'`other_boxes\[1\]` of .* \[x1, y1, x2, y2\]'),
    (dict(other_boxes=[[1, 1, 2, True]]), r'`other_boxes\[0\]` of .*numbers in pixels'),
    (dict(other_boxes=[[1, 1, 2, float('nan')]]), r'numbers in pixels'),
    (dict(other_boxes=[[3, 1, 2, 4]]), r'with x1 < x2 and y1 < y2, but got \[3, 1, 2, 4\]'),
    (dict(other_boxes=[[1, 4, 2, 4]]), r'with x1 < x2 and y1 < y2'),
])
def test_a_wrong_form_is_named_with_its_file(fields, message, read):
    with pytest.raises(DatasetError, match=message):
        read(**fields)


@pytest.mark.parametrize(('fields', 'expected'), [
    ({}, None),
    (dict(other_boxes=[]), ()),
    (dict(other_boxes=[[1, 2, 3.5, 9], [-4, 0, 2, 2]]), ((1, 2, 3.5, 9), (-4, 0, 2, 2))),
])
def test_other_boxes_may_be_named(fields, expected, tmp_path, write_pair):
    _, path = write_pair(tmp_path, **fields)
    assert parse_annotation(path).other_boxes == expected
    assert len(read_reasonseg_annotation(path, 10, 20)) == 4


@pytest.mark.parametrize(('raw', 'message'), [
    (b'{"text": [', r'a\.json should contain JSON, but: .*line 1.*; restore the file'),
    (b'', r'a\.json should contain JSON'),
    (b'[' * 100_000, r'a\.json should contain JSON, but: (maximum recursion|Stack overflow)'),
    (b'9' * 5000, r'a\.json should contain JSON, but: Exceeds the limit'),
    (b'[1]', r'`content` of .*a\.json should be an object .* got \[1\]'),
    (b'{"text": ["x"]}', r'a\.json lacks `is_sentence`, `shapes`; add it'),
    (b'{"text": ["\xff\x81"]}', r'a\.json should be text in UTF-8 or cp1252'),
])
def test_a_broken_file_is_named(raw, message, tmp_path):
    path = tmp_path / 'a.json'
    path.write_bytes(raw)
    with pytest.raises(DatasetError, match=message):
        read_reasonseg_annotation(path, 10, 20)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r'gone\.json cannot be read \(No such file'):
        read_reasonseg_annotation(tmp_path / 'gone.json', 10, 20)
