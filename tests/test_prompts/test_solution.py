# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import pytest

from mmdpad.prompts import parse_objects_solution, parse_solution


def test_by_hand():
    solution = '<box>(0,457),(374,672)</box><points>(50,592),(144,601)</points>'
    assert parse_solution(solution) == ((0, 457, 374, 672), ((50, 592), (144, 601)))


def test_other_tags_around_are_left_alone():
    text = '<x>(9,9)</x> <points>(5,6),(7,8)</points> <box>(1,2),(3,4)</box>'
    assert parse_solution(text) == ((1, 2, 3, 4), ((5, 6), (7, 8)))


@pytest.mark.parametrize('solution', [
    '',
    '<box>(1,2),(3,4)</box>',
    '<points>(5,6),(7,8)</points>',
    '<box>(1,2),(3,4)</box><points>(5,6)</points>',
    '<box>(1,2,3,4)</box><points>(5,6),(7,8)</points>',
    '<box>(-1,2),(3,4)</box><points>(5,6),(7,8)</points>',
    '<box>(1.5,2),(3,4)</box><points>(5,6),(7,8)</points>',
    f'<box>(1,2),(3,{10**9})</box><points>(5,6),(7,8)</points>',
    '<box>(1,2),(3,4)<points>(5,6),(7,8)</points></box>',
])
def test_every_other_form_is_an_error(solution):
    with pytest.raises(ValueError, match='`solution` should be "<box>'):
        parse_solution(solution)


def test_several_objects_by_hand():
    text = ('[{"bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3]}, '
            '{"point_2d": [6, 7], "bbox_2d": [5, 6, 7, 8]}]')
    assert parse_objects_solution(text) == [((1, 2, 3, 4), ((2, 3), )), ((5, 6, 7, 8), ((6, 7), ))]
    assert parse_objects_solution(' []') == []


def test_one_object_is_a_list_of_one():
    solution = '<box>(1,2),(3,4)</box><points>(5,6),(7,8)</points>'
    assert parse_objects_solution(solution) == [parse_solution(solution)]


@pytest.mark.parametrize('solution', [
    '[', '[1]', '[{}]', '[{"bbox_2d": [1, 2, 3, 4]}]', '[' * 10**5,
    '[{"bbox_2d": [1, 2, 3], "point_2d": [2, 3]}]',
    '[{"bbox_2d": [1, 2, 3, 4.5], "point_2d": [2, 3]}]',
    '[{"bbox_2d": [1, 2, 3, -4], "point_2d": [2, 3]}]',
    '[{"bbox_2d": [1, 2, 3, true], "point_2d": [2, 3]}]',
    f'[{{"bbox_2d": [1, 2, 3, {10**9}], "point_2d": [2, 3]}}]',
])
def test_every_other_list_is_an_error(solution):
    with pytest.raises(ValueError, match='`solution` should be a JSON list'):
        parse_objects_solution(solution)
