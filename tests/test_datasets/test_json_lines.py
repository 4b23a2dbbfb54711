# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdpad.datasets import DatasetError, JsonLinesDataset
from mmdpad.geometry.masks import encode_mask
from mmdpad.registry import DATASETS

SQUARE = [[2, 3, 6, 3, 6, 7, 2, 7]]
# Without it each data set collects garbage, for longer than all else takes.
build = functools.partial(JsonLinesDataset, serialize_data=False)
PIPELINE = [dict(type='LoadReasoningImage'), dict(type='LoadInstanceMasks')]


def line(name: str = 'a', **fields) -> dict:
    """A line about the image ``a.png`` of 20 x 10 pixels (width x height)."""
    return dict(id=name, image='images/a.png', texts=['the thing'], objects=[SQUARE]) | fields


@pytest.fixture
def write(tmp_path):
    """Write lines, and the image they are about, and return the file."""

    def write_lines(*lines: dict | str):
        (tmp_path / 'images').mkdir(exist_ok=True)
        Image.new('RGB', (20, 10)).save(tmp_path / 'images/a.png')
        path = tmp_path / 'train.jsonl'
        path.write_text('\n'.join(
            text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
            for text in lines), encoding='utf-8')
        return path

    return write_lines


def problems_of(path, **kwargs) -> dict[str, list[str]]:
    """The messages by kind."""
    with pytest.raises(DatasetError) as caught:
        build(path, **kwargs)
    found: dict[str, list[str]] = {}
    for problem in caught.value.problems:
        found.setdefault(problem.kind, []).append(str(problem))
    return found


def test_an_item(write):
    path = write(line(7, texts=['One\u2028', 'Two'], is_sentence=True, ignore=[SQUARE],
                      other_boxes=[[0, 0, 4, 4]], think='so', note='left alone'))
    assert list(build(path)) == [dict(
        img_id=7, img_path=str(path.parent / 'images/a.png'), ann_path=f'{path}, line 1',
        texts=['One\u2028', 'Two'], text_index=0, question='One\u2028', is_sentence=True,
        instances=[dict(mask=SQUARE, ignore_flag=0), dict(mask=SQUARE, ignore_flag=1)],
        num_targets=1, other_boxes=((0, 0, 4, 4), ), think='so', sample_idx=0)]


def test_lines_come_in_order_and_all_texts_give_one_item_each(write):
    path = write(line('b', texts=['one', 'two']), '', line('a'))
    items = [(item['img_id'], item['question']) for item in build(path, texts='all')]
    assert items == [('b#0', 'one'), ('b#1', 'two'), ('a', 'the thing')]
    assert [item['img_id'] for item in build(path)] == ['b', 'a']


def test_polygons_and_both_forms_of_rle_are_one_mask(write):
    square = np.zeros((10, 20), bool)
    square[3:7, 2:6] = True
    # Column by column: 2 * 10 + 3 off, then 4 on and 6 off, four times, and the rest off.
    runs = [23, 4, 6, 4, 6, 4, 6, 4, 143]
    path = write(line('a'), line('b', objects=[encode_mask(square)]),
                 line('c', objects=[dict(size=[10, 20], counts=runs)]))
    for item in build(path, pipeline=PIPELINE):
        assert np.array_equal(item['gt_masks'], square[None])


def test_images_may_lie_elsewhere(write):
    path = write(line(image='a.png'))
    (path.parent / 'lists').mkdir()
    path = path.rename(path.parent / 'lists/mine.jsonl')
    config = dict(type='JsonLinesDataset', serialize_data=False,
                  data_root=str(path.parents[1]), ann_file='lists/mine.jsonl',
                  data_prefix=dict(img_path='images'))
    item = DATASETS.build(config)[0]
    assert item['img_path'] == str(path.parents[1] / 'images/a.png')


@pytest.mark.parametrize('count', [0, 2])
def test_several_objects_or_none(write, count):
    path = write(line(objects=[SQUARE] * count))
    if count:
        (message, ) = problems_of(path)['not one target']
        assert 'should have one target, but has 2; set `several_objects=True`' in message
    (item, ) = build(path, several_objects=True, pipeline=PIPELINE)
    assert item['gt_masks'].shape == (count, 10, 20)


def test_a_missing_file_names_those_that_are_there(write):
    path = write(line())
    (message, ) = problems_of(path.with_name('val.jsonl'))['missing split']
    assert message.endswith('*.jsonl in its folder: train.jsonl')


def test_an_empty_file_is_refused(write):
    assert 'has no items' in problems_of(write())['empty split'][0]


@pytest.mark.parametrize('text', ['{"id": 1', '[1]', '3', '[' * 100_000])
def test_an_unreadable_line_is_named(write, text):
    (message, ) = problems_of(write(line(), text))['unreadable line']
    assert 'train.jsonl, line 2 should be a JSON object on one line' in message


@pytest.mark.parametrize('field, value', [
    ('id', ''), ('id', 1.5), ('id', True), ('image', None), ('texts', []), ('texts', 'one'),
    ('texts', [3]), ('objects', SQUARE[0][0]), ('ignore', {}), ('is_sentence', 1), ('height', 0),
    ('width', '20'), ('think', ' '), ('other_boxes', [[3, 0, 1, 1]])])
def test_a_malformed_field_is_named(write, field, value):
    (message, ) = problems_of(write(line(**{field: value})))['wrong annotation']
    assert message.startswith(f'`{field}') and 'train.jsonl, line 1 should be ' in message


def test_everything_is_listed_at_once(write):
    """Each line has its own fault, but the last has three."""
    path = write(
        line('good'), 'no JSON', dict(image='images/a.png', texts=['x']), line('twice'),
        line('twice'), line('lost', image='images/b.png'), line('lost too', image='images/b.png'),
        line('broken', image='images/c.png'), line('outside', objects=[[[30, 3, 36, 3, 36, 7]]]),
        line('size', objects=[dict(size=[20, 10], counts=[200])]),
        line('rle', objects=[dict(size=[10, 20], counts=None)]),
        line('stated', height=20, width=10),
        line('three', texts=['fine', ' ... '], objects=['?'], other_boxes=[[21, 0, 22, 3]]))
    (path.parent / 'images/c.png').write_bytes(b'no image')
    found = problems_of(path)
    assert {kind: len(messages) for kind, messages in found.items()} == {
        'unreadable line': 1, 'missing key': 1, 'duplicate id': 1, 'missing image': 1,
        'unreadable image': 1, 'empty mask': 1, 'wrong mask': 3, 'wrong size': 1,
        'empty question': 1, 'box outside': 1}
    assert 'lacks `id`, `objects`; add it' in found['missing key'][0]
    assert "has the id 'twice' 2 times" in found['duplicate id'][0]
    assert 'line 9, `objects[0]` marks no pixel' in found['empty mask'][0]
    assert 'its RLE should have the size of the image, ' in found['wrong mask'][0]
    assert 'its RLE is broken' in found['wrong mask'][1]
    assert '(20, 10), but its image images/a.png has (10, 20)' in found['wrong size'][0]
    assert '`texts[1]` of' in found['empty question'][0]


@pytest.mark.parametrize('stated', [{}, dict(height=10, width=20)], ids=['', 'size stated'])
def test_a_missing_image_is_all_that_is_said_about_it(write, stated):
    """What depends on its size is not judged by the size that the line states."""
    path = write(line(image='images/b.png', objects=['?'], other_boxes=[[0, 0, 99, 99]],
                      texts=['a cat', ''], **stated))
    assert {kind: len(found) for kind, found in problems_of(path).items()} == {
        'missing image': 1, 'empty question': 1}


def test_the_example_of_the_documentation(write):
    page = Path(__file__).parents[2] / 'docs/data.md'
    (example, ) = re.findall(r'## JSON lines.*?```json\n(.*?)```', page.read_text(), re.S)
    path = write(example.replace('\n', ' '))
    Image.new('RGB', (90, 80)).save(path.parent / 'images/cat.jpg')
    (item, ) = build(path, pipeline=PIPELINE)
    assert item['gt_masks'].sum() == 40 * 40 and item['question'] == 'the animal that sleeps'


def test_a_response_is_enough_for_supervised_training(write):
    given = line(response='a complete text')
    del given['objects']
    item, = build(write(given))
    assert item['response'] == 'a complete text' and not item['instances']
    assert 'num_targets' not in item
    assert 'lacks `objects`' in problems_of(write(given), test_mode=True)['missing key'][0]
    del given['response']
    assert 'lacks `objects`' in problems_of(write(given, line('b')))['missing key'][0]
