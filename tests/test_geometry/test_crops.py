# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from mmdpad.datasets.transforms import ModelImageResize
from mmdpad.geometry.coordinates import COORDINATES, to_model_frame
from mmdpad.geometry.crops import Crop, CropLimits
from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput

ORIGINAL = (600, 1120)  # height, width
WHOLE = Crop.whole(ORIGINAL, (112, 140))
LIMITS = CropLimits(min_side=28, min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 16)


@pytest.mark.parametrize('coordinates, box', [
    ('pixels', (10, 28, 20, 56)), ('relative_1000', (1000 / 14, 250, 2000 / 14, 500)),
    ('relative_1', (1 / 14, 0.25, 2 / 14, 0.5))])
def test_a_box_of_the_model_image_asks_for_a_part_of_the_original(coordinates, box):
    """x is 8 times as large in the original, y is 600 / 112 times as large."""
    crop = WHOLE.zoom(box, coordinates, ORIGINAL, LIMITS, 28)
    assert crop.box == (80, 150, 160, 300)
    assert crop.shape == (140, 84)  # 150 x 80 pixels, in multiples of 28


@pytest.mark.parametrize('coordinates, corner, written', [
    ('pixels', (140, 84), (42, 70)), ('relative_1000', (1000, 1000), (500, 500)),
    ('relative_1', (1, 1), (0.5, 0.5))])
def test_what_is_written_of_a_crop_is_of_the_original(coordinates, corner, written):
    crop = Crop((80, 150, 160, 300), (140, 84))
    assert crop.to_original((0, 0), coordinates) == (80, 150)
    height_first = corner[::-1] if coordinates == 'pixels' else corner
    assert crop.to_original(height_first, coordinates) == (160, 300)
    assert crop.to_original((*written, *written), coordinates) == (120, 225, 120, 225)
    assert crop.from_original((120, 225), coordinates) == written
    # what is written beyond the crop's border is beside it in the original
    assert crop.to_original([-value for value in written], coordinates) == (40, 75)


@pytest.mark.parametrize('coordinates', COORDINATES)
@pytest.mark.parametrize('crop', [WHOLE, Crop((80, 150, 160, 300), (140, 84)),
                                  Crop((1, 599, 1120, 600), (28, 2800)),
                                  Crop((333, 7, 340, 14), (56, 84))])
def test_round_trips(crop, coordinates):
    values = (81.25, 151.5, 1119.0, 0.0, 3.0, 599.75)
    there = crop.from_original(values, coordinates)
    assert crop.to_original(there, coordinates) == pytest.approx(values, rel=1e-12)


def test_crops_of_crops():
    first = WHOLE.zoom((10, 28, 20, 56), 'pixels', ORIGINAL, LIMITS, 28)
    second = first.zoom((0, 70, 42, 140), 'pixels', ORIGINAL, LIMITS, 28)
    assert second.box == (80, 225, 120, 300)  # the lower left quarter
    wider = second.zoom((-1000, -1000, 2000, 2000), 'relative_1000', ORIGINAL, LIMITS, 28)
    assert wider.box == (40, 150, 160, 375)  # from there out again


@pytest.mark.parametrize('box, found', [
    ((0.5, 0.5, 1.5, 1.5), (0, 0, 28, 28)),  # of 8 x 5.4 pixels at (4, 2.7)
    ((-50, -50, 10, 10), (0, 0, 80, 54)),
    ((139, 111, 900, 900), (1092, 572, 1120, 600)),
    ((70, 56, 70.0001, 56.0001), (547, 287, 575, 315)),
    ((-1e8, -1e8, 1e8, 1e8), (0, 0, 1120, 600))])
def test_crops_stay_in_the_image_and_are_not_too_small(box, found):
    assert WHOLE.zoom(box, 'pixels', ORIGINAL, LIMITS, 28).box == found


@pytest.mark.parametrize('box', [(140, 0, 150, 10), (-9, 0, 0, 10), (0, 112, 10, 120),
                                 (5e8, 5e8, 6e8, 6e8)])
def test_a_box_outside_shows_nothing(box):
    assert WHOLE.zoom(box, 'pixels', ORIGINAL, LIMITS, 28) is None


def test_a_small_image_is_shown_as_a_whole():
    tiny = Crop.whole((9, 5), (28, 28))
    assert tiny.zoom((0, 0, 3, 3), 'pixels', (9, 5), LIMITS, 28) == Crop((0, 0, 5, 9), (84, 56))


@pytest.mark.parametrize('height, width, shape', [
    (28, 28, None), (500, 41, None), (112, 112, None), (113, 112, None), (999, 1001, None),
    (57, 55, None), (30, 1000, (28, 448)), (1000, 30, (448, 28)), (5, 500, (28, 448))])
def test_crops_are_shown_in_sizes_that_the_processor_of_qwen2_vl_keeps(height, width, shape):
    bounds = LIMITS.min_pixels, LIMITS.max_pixels
    found = LIMITS.shown_shape(height, width, 28)
    assert found == (shape or smart_resize(height, width, 28, *bounds))
    assert smart_resize(*found, 28, *bounds) == found


@pytest.mark.parametrize('shape', [(51, 1916), (57, 1466), (1916, 51), (300, 300)])
def test_long_crops_keep_within_the_limits(shape):
    limits = CropLimits(min_pixels=64 * 1024, max_pixels=100 * 1024)
    found = limits.shown_shape(*shape, 32)
    assert 64 <= found[0] * found[1] / 32**2 <= 100
    assert smart_resize(*found, 32, limits.min_pixels, limits.max_pixels) == found


@pytest.mark.parametrize('size', [(112, ), (1, 2, 3), 112, (112.5, 112)])
def test_a_size_has_a_width_and_a_height(size):
    with pytest.raises(ValueError, match='`size`'):
        CropLimits(size=size)


@pytest.mark.parametrize('height, width', [(28, 9000), (9000, 28), (1, 5000), (57, 60000)])
def test_no_crop_is_too_long_for_a_processor(height, width):
    rows, columns = CropLimits().shown_shape(height, width, 28)
    assert max(rows / columns, columns / rows) < 200


def test_a_fixed_size():
    limits = CropLimits(min_side=28, size=(140, 84))
    crop = WHOLE.zoom((10, 28, 20, 56), 'pixels', ORIGINAL, limits, 28)
    assert crop == Crop((80, 150, 160, 300), (84, 140))
    assert limits.extreme_shapes(28) == {(84, 140)}
    assert CropLimits().extreme_shapes(28) >= {(280, 280), (560, 560)}


def test_a_crop_shows_its_pixels():
    image = torch.arange(6 * 8).reshape(1, 6, 8).expand(3, 6, 8).to(torch.uint8)
    assert torch.equal(Crop((2, 1, 6, 4), (3, 4)).cut(image), image[:, 1:4, 2:6])
    whole = Crop.whole((6, 8), (3, 5))
    resized = ModelImageResize((5, 3))(dict(img=image.permute(1, 2, 0).numpy()))['model_img']
    assert torch.equal(whole.cut(image), torch.from_numpy(resized).permute(2, 0, 1))
    flat = torch.full((3, 6, 8), 7, dtype=torch.uint8)
    assert torch.equal(Crop((2, 1, 6, 4), (56, 28)).cut(flat),
                       torch.full((3, 56, 28), 7, dtype=torch.uint8))


@pytest.mark.parametrize('coordinates', COORDINATES)
def test_an_answer_about_the_model_image_is_converted_as_without_crops(coordinates):
    answer = ReasoningOutput('t', 'c', (AnsweredObject((0.1, 2, 30, 40), ((5, 6), (7, 8))), ))
    assert WHOLE.answer_to_model_frame(answer, coordinates, ORIGINAL, WHOLE.shape) == \
        to_model_frame(answer, coordinates, WHOLE.shape)


def test_an_answer_about_a_crop():
    crop = Crop((80, 150, 160, 300), (140, 84))
    answer = ReasoningOutput('t', 'c', (
        AnsweredObject((0, 0, 42, 70), ((21, 35), (84, 140)), 'a', 'b'),
        AnsweredObject((42, 70, 84, 140), None)))
    found = crop.answer_to_model_frame(answer, 'pixels', ORIGINAL, (112, 140))
    first, second = found.objects
    y = 112 / 600
    assert first.box == pytest.approx((10, 150 * y, 15, 225 * y))
    assert first.points == (pytest.approx((12.5, 187.5 * y)), pytest.approx((20, 300 * y)))
    assert (first.label, first.description) == ('a', 'b')
    assert second.box == pytest.approx((15, 225 * y, 20, 300 * y)) and second.points is None
    failure = ParseFailure('no_answer', 'there is none', 't', None)
    assert crop.answer_to_model_frame(failure, 'pixels', ORIGINAL, (112, 140)) == failure


@pytest.mark.parametrize('arguments, named', [
    (dict(min_side=0), 'min_side'), (dict(max_pixels=float('nan')), 'max_pixels'),
    (dict(min_pixels=True), 'min_pixels'), (dict(min_pixels=2.5), 'min_pixels'),
    (dict(min_pixels=10, max_pixels=9), 'at most `max_pixels` = 9'),
    (dict(size=(28, 0)), 'size')])
def test_limits(arguments, named):
    with pytest.raises(ValueError, match=named):
        CropLimits(**arguments)
    assert CropLimits(min_side=1e2).min_side == 100
