# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch

from mmdpad.geometry.coordinates import (
    COORDINATES,
    scale_boxes,
    scale_points,
    to_model_frame,
    written_shape,
)
from mmdpad.prompts import build_messages, format_response, parse_response
from mmdpad.structures import ParseFailure, ReasoningOutput


def test_scale_points_by_hand():
    # 100 wide, 50 high -> 840 x 840: x * 8.4, y * 16.8
    points = torch.tensor([[10., 10.], [100., 50.]])
    expected = torch.tensor([[84., 168.], [840., 840.]])
    torch.testing.assert_close(scale_points(points, (50, 100), (840, 840)), expected)


def test_boxes_round_trip_between_frames_that_are_not_square():
    boxes = torch.rand(7, 4, dtype=torch.float64) * 100
    there = scale_boxes(boxes, (480, 640), (840, 840))
    torch.testing.assert_close(scale_boxes(there, (840, 840), (480, 640)), boxes)
    assert not torch.allclose(there[:, 0] / boxes[:, 0], there[:, 1] / boxes[:, 1])


def test_no_boxes_and_empty_frames():
    assert scale_boxes(torch.zeros(0, 4), (1, 1), (2, 2)).shape == (0, 4)
    with pytest.raises(ValueError, match='positive'):
        scale_points(torch.zeros(1, 2), (0, 10), (84, 84))


def test_to_model_frame_by_hand():
    """832 wide, 416 high: x * 0.832, y * 0.416."""
    written = parse_response(format_response('so', (0, 250, 1000, 750), ((500, 500), (1, 2)), 'c'))
    read = to_model_frame(written, 'relative_1000', (416, 832))
    assert read.box == pytest.approx((0, 104, 832, 312))
    assert read.points == (pytest.approx((416, 208)), pytest.approx((0.832, 0.832)))
    assert isinstance(read, ReasoningOutput) and (read.think, read.caption) == ('so', 'c')
    assert to_model_frame(written, 'pixels', (416, 832)) is written


@pytest.mark.parametrize('answer, box, points', [
    # Beyond the image, behind the origin and no box at all: data, converted as it is.
    ('{"bbox": [-10, 0, 2000, 500], "points_1": [1, 1], "points_2": [2, 2]}',
     (-8.4, 0, 1680, 420), ((0.84, 0.84), (1.68, 1.68))),
    ('{"bbox": [900, 0, 100, 500], "points_1": [1, 1], "points_2": [2, 2]}',
     (756, 0, 84, 420), ((0.84, 0.84), (1.68, 1.68))),
    ('{"bbox": [0, 0, 500, 500], "points_1": [1, 1]}', (0, 0, 420, 420), None),
    ('{"bbox": "left", "points_1": [1e999, 1], "points_2": [2, 2]}', None, None),
    ('{"bbox": [1e8, 0, 9e8, 500], "points_1": [1, 1], "points_2": [2, 2]}',
     (8.4e7, 0, 7.56e8, 420), ((0.84, 0.84), (1.68, 1.68))),
    ('nothing', None, None)])
def test_whatever_a_model_wrote_is_converted(answer, box, points):
    written = parse_response(f'<think>a</think><answer>{answer}</answer>')
    read = to_model_frame(written, 'relative_1000', (840, 840))
    assert type(read) is type(written)
    assert read.box == (box and pytest.approx(box))
    assert read.points == (points and tuple(map(pytest.approx, points)))
    if isinstance(read, ParseFailure):
        assert (read.reason, read.detail) == (written.reason, written.detail)


@pytest.mark.parametrize('side', [112, 832, 840, 1000])
def test_every_whole_pixel_survives_being_written_and_read(side):
    """1000 steps are at least as fine as the pixels; x and y have sides of their own."""
    pixels = torch.arange(side, dtype=torch.float64)
    shape = (side, 336)
    points = torch.stack([pixels % 336, pixels], dim=-1)
    written = scale_points(points, shape, written_shape('relative_1000', shape)).round()
    assert written.min() == 0 and written.max() < 1000
    for x, y, point in zip(*written.T.int().tolist(), points.tolist(), strict=True):
        text = format_response('', (x, y, x + 1, y + 1), ((x, y), (x, y)), '')
        read = to_model_frame(parse_response(text), 'relative_1000', shape)
        assert [round(value) for value in read.points[0]] == point


@pytest.mark.parametrize('call', [
    lambda name: written_shape(name, (2, 2)), lambda name: build_messages('q', 'default', name)])
def test_unknown_coordinates_are_refused(call):
    for name in COORDINATES:
        call(name)
    with pytest.raises(ValueError, match=r"`coordinates` should be one of .*, but got 'yards'"):
        call('yards')


def test_coordinates_from_0_to_1_by_hand():
    """832 wide, 416 high, to a thousandth of each."""
    text = format_response('so', (0, 0.25, 1, 0.75), ((0.5, 0.5), (0.12345, 1 / 3)), 'c',
                           'relative_1')
    assert '"bbox": [0, 0.25, 1, 0.75]' in text and '"points_2": [0.123, 0.333]' in text
    read = to_model_frame(parse_response(text), 'relative_1', (416, 832))
    assert read.box == pytest.approx((0, 104, 832, 312))
    assert read.points == (pytest.approx((416, 208)), pytest.approx((102.336, 138.528)))
    assert written_shape('relative_1', (416, 832)) == (1, 1)
