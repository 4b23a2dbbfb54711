# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from PIL import Image

from mmdpad.datasets import DatasetError, MaskFolderDataset

# Without it each data set collects garbage, for longer than all else takes.
build = functools.partial(MaskFolderDataset, serialize_data=False)
PIPELINE = [dict(type='LoadReasoningImage'), dict(type='LoadInstanceMasks')]
BOX = np.zeros((10, 20), np.uint8)
BOX[3:7, 2:6] = 255


def write(root, table: str = 'image,question\na.jpg,the thing\n', images=('a', ), **masks):
    """Images of 20 x 10 pixels (width x height), masks by name, and the table."""
    for folder in ('images', 'masks'):
        (root / folder).mkdir(exist_ok=True)
    for name in images:
        Image.new('RGB', (20, 10)).save(root / f'images/{name}.jpg')
    for name, mask in masks.items():
        Image.fromarray(mask).save(root / f'masks/{name}.png')
    (root / 'questions.csv').write_text(table, encoding='utf-8-sig')
    return root


def masks_of(root, **kwargs) -> list[np.ndarray]:
    dataset = build(root, pipeline=PIPELINE, several_objects=True, **kwargs)
    return [item['gt_masks'] for item in dataset]


def error_of(root, **kwargs) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        build(root, **kwargs)
    return caught.value


def test_rows_about_one_mask_are_one_item(tmp_path):
    table = ('image,question,is_sentence,mask\na.jpg,"one, and\nmore",,\na.jpg,What?,true,\n'
             'a.jpg,two,FALSE,\na.jpg,three,0, other \n')
    write(tmp_path, table, a=BOX, other=BOX)
    items = [(item['img_id'], item['texts'], item['is_sentence'])
             for item in build(tmp_path)]
    assert items == [('a', ['one, and\nmore'], None), ('a_2', ['What?'], True),
                     ('a_3', ['two'], False), ('other', ['three'], False)]
    table = 'image,question\na.jpg,one\na.jpg,two\n'
    write(tmp_path, table, a=BOX)
    assert [item['img_id'] for item in build(tmp_path, texts='all')] == ['a#0', 'a#1']
    assert [item['texts'] for item in build(tmp_path)] == [['one', 'two']]


@pytest.mark.parametrize('mask', [
    BOX, BOX // 255, BOX > 0, np.stack([BOX * 0, BOX, BOX * 0], axis=2),
    np.stack([BOX, BOX, BOX, BOX * 0 + 255], axis=2), np.stack([BOX, BOX * 0 + 255], axis=2),
    BOX.astype(np.uint16) * 256
], ids=['255', '1', 'bool', 'green', 'RGBA', 'LA', '16 bit'])
def test_all_but_zero_is_the_object(tmp_path, mask):
    (found, ) = masks_of(write(tmp_path, a=mask))
    assert np.array_equal(found, BOX[None] > 0)


def test_numbered_files_and_the_values_of_an_index_mask_are_objects(tmp_path):
    write(tmp_path, a_10=BOX, a_2=BOX.T.reshape(10, 20))
    (found, ) = masks_of(tmp_path)
    assert np.array_equal(found[1], BOX > 0) and len(found) == 2  # 2 before 10
    index = BOX * 0
    index[0, 0], index[1, 1:3] = 7, 3
    (found, ) = masks_of(write(tmp_path, a=index), index_masks=True)
    assert [mask.sum() for mask in found] == [2, 1]
    (found, ) = masks_of(tmp_path)
    assert [mask.sum() for mask in found] == [3]


def test_a_mask_of_background_means_nothing(tmp_path):
    write(tmp_path, a=BOX * 0)
    assert masks_of(tmp_path)[0].shape == (0, 10, 20)
    assert build(tmp_path, test_mode=True)[0]['empty_target']


def test_the_table_may_be_json(tmp_path):
    write(tmp_path, a=BOX)
    rows = [dict(image='a.jpg', question='x', is_sentence=True), 3, dict(image='a.jpg')]
    (tmp_path / 'q.json').write_text(json.dumps(rows[:1]))
    assert build(tmp_path, ann_file='q.json')[0]['is_sentence'] is True
    (tmp_path / 'q.json').write_text(json.dumps([dict(rows[0], is_sentence=False)]))
    assert build(tmp_path, ann_file='q.json')[0]['is_sentence'] is False
    (tmp_path / 'q.json').write_text(json.dumps(rows))
    assert [str(p)[:12] for p in error_of(tmp_path, ann_file='q.json').problems] == [
        '`row` of ' + str(tmp_path)[:3], '`question` o']


def test_everything_is_listed_at_once(tmp_path):
    names = ('a', 'b', 'b_1', 'c', 'd', 'e', 'f')
    rows = [f'{name}.jpg,x,' for name in names] + ['g.jpg,x,', 'a.jpg,..,', 'a.jpg,x,maybe', ',x,']
    write(tmp_path, '\n'.join(['image,question,is_sentence', *rows]), names, a=BOX, b_1=BOX,
          d=BOX.T, f=BOX)
    (tmp_path / 'masks/e.png').write_bytes(b'no image')
    (tmp_path / 'images/f.jpg').write_bytes(b'no image')
    kinds = {problem.kind: str(problem) for problem in error_of(tmp_path).problems}
    assert sorted(kinds) == ['ambiguous mask', 'empty question', 'missing image', 'missing mask',
                             'unreadable image', 'wrong annotation',
                             'wrong mask']
    assert "b_1.png could belong to 'b' or to 'b_1'" in kinds['ambiguous mask']
    assert '20 x 10 pixels' in kinds['wrong mask'] and 'has 10 x 20' in kinds['wrong mask']
    assert 'no mask c.png or c_1.png in ' in kinds['missing mask']


def test_colors_are_no_index_mask(tmp_path):
    write(tmp_path, a=np.stack([BOX, BOX, BOX // 2], axis=2))
    assert 'has colors' in str(error_of(tmp_path, index_masks=True))


@pytest.mark.parametrize('index_masks', [False, True])
@pytest.mark.parametrize('mask', [
    Image.fromarray(BOX).quantize(2),  # white is entry 0
    Image.fromarray(BOX).convert('RGB').convert('P', palette=Image.Palette.ADAPTIVE, colors=2),
    Image.merge('LA', [Image.new('L', (20, 10), 255), Image.fromarray(BOX)]),
], ids=['quantize', 'adaptive', 'alpha'])
def test_background_is_what_is_black_or_transparent(tmp_path, mask, index_masks):
    write(tmp_path)
    mask.save(tmp_path / 'masks/a.png')
    (found, ) = masks_of(tmp_path, index_masks=index_masks)
    assert np.array_equal(found, BOX[None] > 0)


def test_what_a_mask_leaves_open_is_an_ignored_region(tmp_path):
    """VOC's void, entry 255 of its palette."""
    write(tmp_path)
    index = BOX // 255
    index[2, 2:6] = 255
    mask = Image.fromarray(index)
    mask.putpalette([0, 0, 0, 128, 0, 0] + [0] * 759 + [224, 224, 192])
    mask.save(tmp_path / 'masks/a.png')
    dataset = build(tmp_path, pipeline=PIPELINE)
    assert dataset.get_data_info(0)['num_targets'] == 1
    assert dataset[0]['gt_masks'].sum() == 16 and np.flatnonzero(
        dataset[0]['ignore_mask']).tolist() == [42, 43, 44, 45]


def test_a_mask_that_can_be_read_in_two_ways_is_listed(tmp_path):
    write(tmp_path)
    mask = Image.fromarray(BOX // 255)
    mask.putpalette([9, 9, 9, 128, 0, 0])
    mask.save(tmp_path / 'masks/a.png')
    (problem, ) = error_of(tmp_path).problems
    assert problem.kind == 'unclear mask' and '16 by' in str(problem) and '200 by' in str(problem)


@pytest.mark.parametrize('table, message', [
    ('', 'lacks the column(s) image, question'),
    ('image;question\na.jpg;x\n', "but is ['image;question']"),
    ('image,question\na.jpg,the cat, that sleeps\n', "got ['a.jpg', 'the cat', ' that sleeps']"),
    ('image,question\na.jpg,"x\na.jpg,y\n', 'cannot be read as CSV after line 1 (unexpected end'),
    (f'image,question\na.jpg,{"x" * 140_000}\n', 'after line 1 (field larger than field limit'),
])
def test_a_table_that_would_be_misread_is_refused(tmp_path, table, message):
    assert message in str(error_of(write(tmp_path, table)))


def test_a_missing_table_is_named(tmp_path):
    assert 'questions.csv is not a file' in str(error_of(tmp_path))
