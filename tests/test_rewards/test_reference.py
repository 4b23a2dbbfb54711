# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
from pathlib import Path

import pytest

from mmdpad.rewards import score_response

GOLDEN = Path(__file__).parents[1] / 'data' / 'golden' / 'rewards.jsonl'
CASES = [json.loads(line) for line in GOLDEN.read_text(encoding='utf-8').splitlines()]
SOLUTION = '<box>(10,10),(29,29)</box><points>(12,12),(20,20)</points>'


def test_every_golden_response_scores_as_the_reference_does():
    assert len(CASES) == 400
    wrong = [(case['response'], name, value) for case in CASES
             for name, value in case['expected'].items()
             if score_response(case['response'], case['solution'])[name] != value]
    assert not wrong


def test_by_hand():
    text = 'x {"bbox": [10, 10, 19, 29], "points_1": ["12", 12.9], "points_2": [19, 20, 7]}'
    assert score_response(text, SOLUTION) == {
        'thinking_format': 0.0,
        'segmentation_format': 0.0,  # the second point has three entries
        'box_iou': 0.5,  # 10 * 20 of 20 * 20 inclusive pixels
        'box_iou_reward': 0.0,
        'box_l1_reward': 1.0,  # 10 / 4
        'point_l1_reward': 1.0,
    }


@pytest.mark.parametrize('box', ['[NaN, 0, 1, 1]', '[-Infinity, 0, Infinity, 9]',
                                 f'[0, 0, {"9" * 400}, 1]', f'[1.5, 0, {"9" * 400}, 1]',
                                 '"abcd"', '{"a": 1}', 'null',
                                 '[[1], 2, 3, 4]', '[29, 29, 10, 10]', '[0, 0, -1, -1]'])
def test_no_answer_raises_and_every_value_is_in_its_range(box):
    text = f'{{"bbox": {box}, "points_1": [{"9" * 400}, 1e999], "points_2": [true, NaN]}}'
    assert all(0 <= value <= 1 for value in score_response(text, SOLUTION).values())


def test_a_box_of_endless_size_still_holds_points():
    """Integers of any length are numbers in JSON; a first version dropped those above 1e150."""
    text = f'{{"bbox": [0, 0, 50, {"9" * 200}], "points_1": [12, 12], "points_2": [19, 20]}}'
    scores = score_response(text, SOLUTION)
    assert scores['point_l1_reward'] == 1.0 and scores['box_l1_reward'] == 0.0
    assert 0 <= scores['box_iou'] < 1e-100


@pytest.mark.parametrize('solution', ['', '<box>(1,2),(3,4)</box>', SOLUTION.replace('10', '1.5')])
def test_a_wrong_solution_is_an_error(solution):
    with pytest.raises(ValueError, match='solution'):
        score_response('', solution)
