# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import math
from pathlib import Path

import pytest

from mmdpad.datasets import DatasetError
from mmdpad.datasets.difficulty import (
    check_difficulty,
    check_told_apart,
    keep_by_difficulty,
    pass_rates,
)
from mmdpad.utils import write_jsonl

ITEMS = [dict(img_id=image, img_path=f'{image}.jpg', question=question)
         for image, question in ((1, 'The dog.'), (1, 'the cat'), ('b', 'the cat'))]


def response(item, value, total=1.0):
    return dict(id=item['img_id'], image=item['img_path'], question=item['question'].lower(),
                task=None, rewards=dict(box_iou=value, other=0.0), total=total)


def test_pass_rates_by_hand():
    rows = [response(ITEMS[0], value, total) for value, total in ((1.0, 4.0), (0.0, 1.0))]
    rows += [response(ITEMS[1], None), response(ITEMS[2], 0.5), response(ITEMS[0], 0.4)]
    assert pass_rates(rows, 'box_iou', 0.5) == [
        dict(id=1, image='1.jpg', question='the dog.', task=None, responses=3, passes=1,
             pass_rate=1 / 3, reward=2.0),
        dict(id='b', image='b.jpg', question='the cat', task=None, responses=1, passes=1,
             pass_rate=1.0, reward=1.0)]
    with pytest.raises(ValueError, match=r'`--term` should be .* \(box_iou, other\), but got'):
        pass_rates(rows, 'iou', 0.5)


@pytest.fixture
def rates(tmp_path):
    rows = [response(item, value) for item, values in zip(ITEMS, ((0., 0.), (0., 1.), (1., 1.)),
                                                          strict=True) for value in values]
    return write_jsonl(str(tmp_path / 'rates.jsonl'), pass_rates(rows, 'box_iou', 0.5))


@pytest.mark.parametrize('bounds, kept', [
    ({}, [0, 1, 2]), (dict(min=0.1, max=0.9), [1]), (dict(min=0.5), [1, 2]), (dict(max=0.0), [0])])
def test_items_within_the_bounds_are_kept(rates, bounds, kept):
    found = keep_by_difficulty(ITEMS, dict(file=rates, **bounds), 'data')
    assert found == [ITEMS[number] for number in kept]


def test_what_cannot_be_filtered(rates, tmp_path):
    with pytest.raises(DatasetError, match=r'no question with a pass rate in \[0.2, 0.3\]; widen'):
        keep_by_difficulty(ITEMS, dict(file=rates, min=0.2, max=0.3), 'data')
    with pytest.raises(DatasetError, match="has none of 1, such as 'a new one' about 1.jpg"):
        keep_by_difficulty([*ITEMS, dict(ITEMS[0], question='a new one')], dict(file=rates), 'data')
    (tmp_path / 'other.jsonl').write_text('{"id": 1}\n')
    for name in ('other.jsonl', 'missing.jsonl'):
        with pytest.raises(DatasetError, match='should be a file of `mmdpad run'):
            keep_by_difficulty(ITEMS, dict(file=str(tmp_path / name)), 'data')


@pytest.mark.parametrize('value, told', [
    (0.25, r"'The cat' about image 'b' should have one pass rate, .* but has \[0.25, 1.0\]"),
    (1.5, r'but has \['), (math.nan, r'nan\]'), (1.0, None)])
def test_two_rates_of_a_question_or_one_that_is_no_share(rates, value, told):
    line = json.dumps(dict(id='b', question='The cat', pass_rate=value))
    Path(rates).write_text(f'{Path(rates).read_text()}{line}\n')
    if told is None:  # the same once more
        assert len(keep_by_difficulty(ITEMS, dict(file=rates), 'data')) == 3
        return
    with pytest.raises(DatasetError, match=told):
        keep_by_difficulty(ITEMS, dict(file=rates), 'data')


def test_questions_that_would_share_a_rate():
    twins = [dict(item, task='a') for item in (*ITEMS, ITEMS[0])]
    check_told_apart(twins)
    for change in (dict(img_path='other/1.jpg'), dict(task='b')):
        with pytest.raises(DatasetError, match="'The dog.' is asked about 1.jpg .* and .* under"):
            check_told_apart([*twins, dict(twins[0], **change)])


@pytest.mark.parametrize('difficulty', [
    dict(min=0.1), dict(file='x', low=0.1), dict(file='x', min=0.9, max=0.1),
    dict(file='x', max=2.0), dict(file='x', min=math.nan), dict(file='x', min='0.1')])
def test_wrong_settings(difficulty):
    with pytest.raises(ValueError, match=r'`difficulty(` should|\.\w+` should be in \[0, 1\])'):
        check_difficulty(difficulty)
