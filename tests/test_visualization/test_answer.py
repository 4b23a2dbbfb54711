# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from mmdpad.geometry.masks import encode_mask
from mmdpad.visualization import draw_answer, draw_grid, draw_row
from mmdpad.visualization.answer import label_texts, regions_of, verdict
from mmdpad.visualization.regions import (
    BOX,
    MASK,
    NEGATIVE,
    POINT,
    TRUTH,
    UNJUDGED,
    WRONG,
    Regions,
    draw_regions,
)


def gray(height, width):
    return np.full((height, width, 3), 90, np.uint8)


def has(picture, color):
    return (picture == np.array(color, np.uint8)).all(axis=2).any()


def region(height, width, rows, columns):
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = True
    return mask


def test_everything_is_drawn_where_it_is():
    """64 pixels are drawn as 512: pixel 16 begins at 128."""
    mask = region(64, 64, slice(16, 32), slice(32, 48))
    picture = draw_answer(gray(64, 64), mask)[:512, :512]
    inside = (90 * 0.55 + np.array(MASK) * 0.45).astype(np.uint8)
    filled = (picture == inside).all(axis=2)
    ys, xs = np.nonzero(filled)
    assert 128 <= ys.min() < 136 and 248 < ys.max() < 256
    assert 256 <= xs.min() < 264 and 376 < xs.max() < 384
    picture = draw_answer(gray(64, 64), None, [(8, 16, 24, 32)], [(40, 48)])[:512, :512]
    assert tuple(picture[16 * 8 + 1, 100]) == BOX
    assert tuple(picture[48 * 8, 40 * 8]) == POINT
    assert not has(picture, TRUTH)


@pytest.mark.parametrize('size', [(128, 128), (48, 400), (400, 48), (1, 1), (1500, 2200)])
def test_sizes(size):
    picture = draw_answer(gray(*size), np.ones(size, bool), [(0, 0, size[1], size[0])], [(0, 0)],
                          'which one?', 'word ' * 300, 'a thing', np.ones(size, bool))
    assert picture.dtype == np.uint8 and picture.ndim == 3
    assert 512 <= max(picture.shape) < 3000
    assert has(picture, BOX) and has(picture, POINT)


def test_wide_images_have_their_text_below_others_beside():
    below, beside = draw_answer(gray(100, 200), question='q'), draw_answer(gray(100, 100))
    assert below.shape[1] == 512 and below.shape[0] > 256
    assert beside.shape[0] == 512 and beside.shape[1] > 512


def test_legend_and_texts_name_only_what_there_is():
    mask = region(64, 64, slice(8), slice(8))
    plain, full = draw_answer(gray(64, 64)), draw_answer(gray(64, 64), mask, gt_mask=mask)
    panel = plain[:, 512:]
    assert (panel == 255).all(), 'no text, no legend: an empty panel'
    assert has(full[:, 512:], MASK) and has(full[:, 512:], TRUTH)
    assert not has(full[:, 512:], BOX)


@pytest.mark.parametrize('text', ['', '苹果 🍎 ألف Ünïcödé', 'x' * 5000, 'a\x00b\ud800\r\n\tc',
                                  '\n' * 50])
def test_any_text(text):
    picture = draw_answer(gray(64, 64), question=text, think=text, caption=text)
    assert picture.shape[0] >= 512


@pytest.mark.parametrize('box', [(-50, -60, 1e9, 1e30), (30, 30, 10, 10), (500, 500, 600, 600),
                                 (float('-inf'), 0, float('inf'), 5)])
def test_coordinates_of_a_model_may_lie_anywhere(box):
    assert has(draw_answer(gray(64, 64), boxes=[box], points=[box[:2], box[2:]]), BOX)


def test_inputs_are_not_changed():
    image, mask = gray(64, 64), region(64, 64, slice(8), slice(8))
    before = image.copy(), mask.copy()
    draw_answer(image, mask, [(1, 2, 3, 4)], gt_mask=mask)
    assert (image == before[0]).all() and (mask == before[1]).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r'size of the image \(64, 64\), but got \(32, 64\)'):
        draw_answer(gray(64, 64), np.zeros((32, 64), bool))
    with pytest.raises(ValueError, match='uint8 array'):
        draw_answer(gray(64, 64) / 255)
    with pytest.raises(ValueError, match='0 pictures'):
        draw_grid([])


def test_a_line_of_a_result_file():
    mask, target = region(64, 64, slice(16, 32), slice(16)), region(64, 64, slice(40, 50), slice(9))
    row = dict(mask=encode_mask(mask), target=encode_mask(target), boxes=[[0, 16, 16, 32]],
               points=[[[2, 20], [4, 24]]], question='q', think='t', caption='c', iou=0.256,
               failure=None)
    full = draw_answer(gray(64, 64), mask, row['boxes'], row['points'][0], 'q', 't', 'c', target,
                       'IoU 0.26')
    assert (draw_row(gray(64, 64), row) == full).all()
    assert (draw_row(gray(64, 64), row, with_reasoning=False) != full).any()
    for color in (BOX, POINT, TRUTH):
        assert has(full[:512, :512], color)
    bare = dict(question='q', iou=0.0, failure='no_json', boxes=None, points=None)
    assert not has(draw_row(gray(64, 64), bare), TRUTH)
    assert verdict(bare) == 'unusable answer: no_json' and verdict(row) == 'IoU 0.26'
    with pytest.raises(ValueError, match='size of the image'):
        draw_row(gray(64, 32), row)


CUP, PLATE = [8, 16, 24, 32], [40, 40, 60, 60]


def at(picture, x, y):
    return tuple(picture[y, x])


def test_boxes_have_labels_and_the_color_of_their_judgement():
    """64 pixels are drawn as 512; the label of the cup lies on rows 113 to 128, above its box."""
    options = dict(boxes=[CUP, PLATE], right=[True, False], gt_boxes=[[20, 40, 30, 50]])
    plain = draw_answer(gray(64, 64), panel=False, **options)
    assert at(plain, 64 + 20, 129) == BOX and at(plain, 320 + 20, 321) == WRONG
    assert at(plain, 160 + 40, 321) == TRUTH
    labelled = draw_answer(gray(64, 64), panel=False, labels=['', 'x'], **options)
    changed = np.argwhere((labelled != plain).any(axis=2))
    assert changed[:, 0].min() > 300 and changed[:, 0].max() < 320 <= changed[:, 1].min()
    assert at(labelled, 321, 306) == WRONG and (labelled[300:320] == 255).all(axis=2).any()


def test_labels_without_room_are_left_out_and_counted():
    """Twenty boxes in one place, with four places for a label at each side; then more labels than
    may cover the picture."""
    same = Regions(boxes=[CUP] * 20, labels=['a cup'] * 20)
    _, legend = draw_regions(gray(64, 64), same)
    left_out = int(legend[-1][0].split()[0])
    assert legend[0] == ('box', BOX) and 12 <= left_out < 20
    assert legend[-1][0] == f'{left_out} of 20 labels left out: no room'
    grid = [[x, y, x + 1, y + 1] for x in range(0, 640, 64) for y in range(0, 640, 20)]
    picture, legend = draw_regions(gray(640, 640), Regions(boxes=grid, labels=['x' * 99] * 320))
    assert legend[-1][0].endswith('of 320 labels left out: no room')
    assert 0.1 < 1 - (picture == 90).all(axis=2).mean() < 0.25
    few = Regions(boxes=[CUP, PLATE], labels=['a', ''], gt_boxes=[PLATE], gt_labels=['b\n\x00'])
    assert draw_regions(gray(64, 64), few)[1] == [('box', BOX), ('true box', TRUTH)]


def test_a_line_about_a_detection():
    row = dict(question='cup, plate', boxes=[CUP, PLATE], label_names=['cup', 'plate'],
               scores=[0.5, 1.0], descriptions=['blue', ''], box_right=[True, None],
               target_boxes=[CUP], target_names=['cup'], targets=1, right=1, wrong=2, missed=0,
               invented=2, failure=None, think='t', caption=None)
    assert verdict(row) == '1 right, 2 wrong (2 with other labels), 0 missed'
    full = draw_answer(
        gray(64, 64), None, [CUP, PLATE], question='cup, plate', think='t', note=verdict(row),
        labels=['cup 0.50', 'plate 1.00'], descriptions=['blue', ''], right=[True, None],
        gt_boxes=[CUP], gt_labels=['cup'])
    assert (draw_row(gray(64, 64), row) == full).all()
    for color in (BOX, UNJUDGED, TRUTH):
        assert has(full[:512, :512], color) and has(full[:, 512:], color)
    assert label_texts(['a', 'b'], [1.0, 1.0]) == ['a', 'b'], 'no scorer, no score'
    nothing = dict(row, targets=0, right=0, wrong=0, invented=0)
    assert verdict(nothing) == '0 right, 0 wrong, 0 missed: there is no target'


def test_evidence_is_drawn_beside_that_of_the_data():
    row = dict(question='q', boxes=[CUP], evidence=[PLATE], answer='red', answers=['red', 'red'],
               accuracy=1.0, evidence_iou=0.0, failure=None)
    assert regions_of(row) == Regions(boxes=[CUP], points=[], gt_boxes=[PLATE], labels=[])
    assert verdict(row) == 'accuracy 1.00 (right: red), evidence IoU 0.00'


@pytest.mark.parametrize('name', ['labels', 'right', 'descriptions', 'gt_labels'])
def test_texts_without_their_box_are_refused(name):
    with pytest.raises(ValueError, match=f'`{name}` should have an entry for each of the 1 `'):
        draw_answer(gray(64, 64), boxes=[CUP], gt_boxes=[CUP], **{name: ['a', 'b']})


def test_grid():
    """Three pictures in two columns: cells 30 + 12 + 20 wide, 10 + 12 + 40 high."""
    pictures = [np.full((h, w, 3), v, np.uint8) for h, w, v in
                ((10, 30, 1), (5, 20, 2), (40, 8, 3))]
    grid = draw_grid(pictures)
    assert grid.shape == (62, 62, 3)
    assert (grid[:10, :30] == 1).all() and (grid[:5, 42:] == 2).all()
    assert (grid[22:, :8] == 3).all()
    assert sum((grid == v).sum() for v in (1, 2, 3)) == 3 * (300 + 100 + 320)


def test_negative_points_have_a_color_of_their_own():
    row = dict(question='q', iou=0.5, failure=None, boxes=[[8, 16, 24, 32]] * 2,
               points=[[[20, 20]], []], negative_points=[[[40, 48]], [[8, 8], [60, 8]]])
    picture = draw_row(gray(64, 64), row)[:512, :512]
    assert at(picture, 20 * 8, 20 * 8) == POINT
    for x, y in ((40, 48), (8, 8), (60, 8)):
        assert at(picture, x * 8, y * 8) == NEGATIVE
    regions = regions_of(row)
    assert [name for name, _ in regions.legend] == ['box', 'points', 'negative points']
    assert 'negative points' not in dict(regions_of(dict(row, negative_points=[])).legend)
