# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Shapes of labelme other than polygons."""
import base64
import io
import json
import os
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mmdpad.datasets import (
    DatasetError,
    ReasonSegDataset,
    labelme_shapes,
    read_reasonseg_annotation,
)
from mmdpad.datasets.images import open_image
from mmdpad.datasets.labelme_shapes import parse_shape
from mmdpad.datasets.transforms import LoadReasonSegMask

FOLDER = Path(__file__).parents[1] / 'data/labelme'
CASES = [json.loads(line) for line in (FOLDER / 'shapes.jsonl').read_text().splitlines()]
VERSION = 'labelme==6.3.1'


def shape(kind, points, label='target', **more):
    return dict(label=label, shape_type=kind, points=points, **more)


def png(values, mode='L', **options):
    file = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).convert(mode).save(file, 'PNG', **options)
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def read(tmp_path, write_pair):
    """Target and ignore mask of an annotation with these shapes, in 10 rows and 20 columns."""
    def write_and_read(*shapes, **fields):
        _, path = write_pair(tmp_path, shapes=list(shapes), **fields)
        return read_reasonseg_annotation(path, 10, 20)[:2]
    return write_and_read


def error_of(read, *shapes, **fields):
    with pytest.raises(DatasetError) as caught:
        read(*shapes, **fields)
    return caught.value


def marked_here(case):
    """What this package marks for a case, bool."""
    canvas = np.zeros((case['height'], case['width']), np.uint8)
    drawn = parse_shape('a.json', 'shapes[0]', case['shape'])
    drawn.check(*canvas.shape)
    drawn.draw(canvas, 1)
    return canvas == 1


@pytest.mark.filterwarnings('ignore:__array__ implementation')  # pycocotools 2.0.11
def test_every_shape_is_drawn_as_labelme_draws_it():
    """Values recorded by labelme's own code, see make_labelme.py beside them."""
    kinds = [case['shape']['shape_type'] for case in CASES]
    assert {kind: kinds.count(kind) for kind in kinds} == dict(
        rectangle=26, circle=26, oriented_rectangle=22, mask=13)
    for case in CASES:
        np.testing.assert_array_equal(marked_here(case), coco_mask.decode(case['marked']),
                                      err_msg=str(case['shape']))


@pytest.mark.slow
def test_labelmes_own_code_draws_the_same(tmp_path):
    environ = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    install = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--retries', '0',
               '--timeout', '10', '--target', str(tmp_path), VERSION]
    if subprocess.run(install, env=environ, stdout=subprocess.DEVNULL,
                      stderr=subprocess.DEVNULL).returncode:
        pytest.skip('no package index can be reached')
    make = runpy.run_path(str(FOLDER / 'make_labelme.py'))
    draw = make['load_labelme'](tmp_path)
    shapes = list(make['make_shapes']())
    assert [(case['height'], case['width'], case['shape']) for case in CASES] == shapes
    for height, width, drawn in shapes:
        np.testing.assert_array_equal(
            marked_here(dict(height=height, width=width, shape=drawn)),
            draw(drawn, height, width), err_msg=str(drawn))


@pytest.mark.parametrize('kind', [None, 'polygon'])
def test_polygons_stay_as_they_are(read, kind):
    """Two points mark the line between them, as for LISA's reader; a type may be null."""
    corners = [[2, 3], [6, 7]]
    target, _ = read(shape(kind, corners))
    np.testing.assert_array_equal(target, read(dict(label='target', points=corners))[0])
    assert target.sum() == 5
    assert read(shape('rectangle', corners))[0].sum() == 25


def test_every_shape_may_be_ignored_and_the_smaller_one_lies_on_top(read):
    large = shape('rectangle', [[0, 0], [9, 9]])
    small = shape('circle', [[4, 4], [4, 6]], 'Ignored')
    cut = shape('mask', [[12, 1], [14, 2]], 'ignore', mask=png([[0, 1, 1], [1, 0, 0]]))
    for order in ([large, small, cut], [cut, small, large]):
        target, ignore = read(*order)
        assert ignore[1:3, 12:15].tolist() == [[False, True, True], [True, False, False]]
        assert ignore[4, 2:7].all() and not ignore[2, 2] and not (target & ignore).any()
        assert (target | ignore)[:10, :10].all()
    _, ignore = read(shape('oriented_rectangle', [[2, 2], [6, 2], [6, 6], [2, 6]], 'ignore'))
    assert ignore.sum() == 25


def test_a_label_of_the_background_counts_as_target(read):
    hole = shape('rectangle', [[3, 3], [5, 5]], '_background_')
    target, _ = read(shape('rectangle', [[0, 0], [9, 9]]), hole)
    assert target.sum() == 100


@pytest.mark.parametrize('kind', ['line', 'linestrip', 'point', 'points'])
def test_what_has_no_area_is_refused_by_name_except_on_flags(read, kind):
    error = error_of(read, shape('rectangle', [[0, 0], [1, 1]]), shape(kind, [[1, 1], [5, 5]]))
    assert error.kind == 'no area'
    assert f'a.json should mark an area, but is a {kind} (`shape_type`)' in str(error)
    assert str(error).startswith('`shapes[1]` of')
    target, ignore = read(shape(kind, [[1, 1], [5, 5]], 'FLAG'), shape('rectangle', [[0, 0]] * 2))
    assert (target.sum(), ignore.sum()) == (1, 0)


@pytest.mark.parametrize('wrong, message', [
    (shape('ellipse', [[1, 1], [5, 5]]), "should be polygon or rectangle or circle or oriented_rec"
     "tangle or mask, but got 'ellipse'"),
    (shape(3, [[1, 1], [5, 5]]), r'shape_type` of .* but got 3'),
    (shape('rectangle', [[1, 1], [5, 1], [5, 5], [1, 5]]), r'`shapes\[0\].points` of .* should be '
     'the 2 points of a rectangle'),
    (shape('circle', [[1, 1]]), '2 points of a circle'),
    (shape('oriented_rectangle', [[1, 1], [2, 2]]), '4 points of a oriented_rectangle'),
    (shape('rectangle', []), 'a list of at least one'),
    (shape('mask', [[1, 1], [2, 2]]), r'`shapes\[0\].mask` of .* a PNG in base64, .* but got None'),
    (shape('mask', [[1, 1], [2, 2]], mask='A'), "a PNG in base64, .* but got 'A'"),
    (shape('mask', [[1, 1], [2, 2]], mask='AAAA'), 'its `mask` cannot be decoded as an image'),
    (shape('mask', [[1, 1], [3, 2]], mask=png(np.ones((2, 2)))),
     'as large as its box of 3 x 2 pixels .* of 20 x 10, but is 2 x 2'),
    (shape('mask', [[3, 2], [1, 1]], mask=png(np.ones((2, 2)))), 'its box of -1 x 0 pixels'),
    (shape('mask', [[0, 0], [20, 9]], mask=png(np.ones((10, 21)))), 'but is 21 x 10'),
    (shape('mask', [[0, 0], [1, 1]], mask=png(np.ones((2, 2)), 'RGB')), 'is PNG with mode RGB'),
    (shape('mask', [[0, 0], [1, 1]], mask=png(np.ones((2, 2)), 'P')), 'is PNG with mode P'),
])
def test_a_shape_that_cannot_be_drawn_is_named(read, wrong, message):
    with pytest.raises(DatasetError, match=message):
        read(wrong)


def test_a_mask_of_another_file_format_is_refused(read):
    file = io.BytesIO()
    Image.new('L', (2, 2), 255).save(file, 'GIF')
    text = base64.b64encode(file.getvalue()).decode()
    assert 'a PNG with one value per pixel' in str(
        error_of(read, shape('mask', [[0, 0], [1, 1]], mask=text)))


def test_a_circle_of_a_huge_radius_is_refused(read, monkeypatch):
    circle = shape('circle', [[5, 5], [5, 9]])
    assert read(circle)[0].any()
    monkeypatch.setattr(labelme_shapes, 'MAX_RADIUS', 3)
    assert 'a radius of at most 3 pixels, but one has 4' in str(error_of(read, circle))


def test_a_mask_that_unpacks_to_too_much_is_not_unpacked(read, monkeypatch):
    """By its header, within bounds that are set low."""
    monkeypatch.setattr('PIL.ImageFile.ImageFile.load', lambda self: pytest.fail('decoded'))
    image = png(np.ones((11, 5)))
    assert 'not larger than the image of 20 x 10, but is 5 x 11' in str(
        error_of(read, shape('mask', [[0, 0], [4, 9]], mask=image)))
    monkeypatch.setattr(labelme_shapes, 'open_image', partial(open_image, max_pixels=50))
    assert 'its `mask` should have at most 5e-05 megapixels, but is 5 x 11' in str(
        error_of(read, shape('mask', [[0, 0], [4, 9]], mask=image)))


def test_masks_partly_outside_of_the_image_and_larger_than_their_box(read):
    values = np.ones((3, 4), np.uint8)
    target, _ = read(shape('mask', [[-2, -1], [1, 1]], mask=png(values)))
    assert target.sum() == 4 and target[:2, :2].all()
    target, _ = read(shape('mask', [[18, 8], [21, 10]], mask=png(values)))
    assert target.sum() == 4 and target[8:, 18:].all()
    target, _ = read(shape('mask', [[5, 5], [6, 6]], mask=png(values)))
    assert target.sum() == 4 and target[5:7, 5:7].all()
    assert not read(shape('mask', [[30, 3], [33, 5]], mask=png(values)))[0].any()


def test_what_is_drawn_outside_is_an_error_and_an_empty_mask_is_none(tmp_path, write_pair):
    for name, drawn, outside in (
            ('a', shape('rectangle', [[30, 3], [40, 5]]), True),
            ('b', shape('mask', [[30, 3], [31, 4]], mask=png(np.ones((2, 2)))), True),
            ('c', shape('mask', [[3, 3], [4, 4]], mask=png(np.zeros((2, 2)))), False)):
        _, path = write_pair(tmp_path, name, shapes=[drawn])
        item = dict(ann_path=str(path), ori_shape=(10, 20))
        if outside:
            with pytest.raises(DatasetError, match='no target pixel .* its shapes lie outside'):
                LoadReasonSegMask()(item)
        else:
            assert LoadReasonSegMask()(item)['gt_masks'].shape == (0, 10, 20)


@pytest.mark.parametrize('fields, stated', [
    (dict(imageHeight=20, imageWidth=10), r'\(20, 10\)'),  # before the EXIF rotation
    (dict(imageWidth=40), r'\(None, 40\)')])
def test_shapes_of_an_image_of_another_size_are_refused(tmp_path, write_pair, fields, stated):
    write_pair(tmp_path / 'train', version='6.3.1', **fields)
    with pytest.raises(DatasetError, match=r'after the EXIF rotation, \(10, 20\), but got '
                       + stated) as caught:
        ReasonSegDataset(tmp_path)
    assert caught.value.problems[0].kind == 'wrong size'


def test_a_size_that_another_program_wrote_is_not_looked_at(tmp_path, write_pair):
    """As in LISA's reader, so that published annotations count whatever they say there."""
    write_pair(tmp_path / 'train', imageHeight=20, imageWidth=10)
    assert len(ReasonSegDataset(tmp_path)) == 1


def test_a_file_of_labelme_is_read_as_it_is(tmp_path, write_pair):
    """With all that labelme 6.3.1 writes into it."""
    drawn = [shape('rectangle', [[2, 3], [6, 7]], group_id=None, description='', flags={},
                   mask=None),
             shape('mask', [[10, 1], [11, 2]], group_id=1, description='x', flags=dict(a=True),
                   mask=png([[1, 0], [0, 1]]))]
    write_pair(tmp_path / 'train', shapes=drawn, version='6.3.1', flags={}, imagePath='a.jpg',
               imageData=None, imageHeight=10, imageWidth=20)
    (item, ) = ReasonSegDataset(tmp_path)
    masks = LoadReasonSegMask()(dict(item, ori_shape=(10, 20)))['gt_masks']
    assert masks.sum() == 27 and masks[0, 1, 10] and masks[0, 2, 11]
