# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import pytest

from mmdpad.datasets import DatasetError, ReasonSegDataset
from mmdpad.registry import DATASETS


@pytest.fixture
def folder(tmp_path, write_pair):
    """A data set with the split ``train`` of two good pairs."""
    write_pair(tmp_path / 'train', 'b', text=['B one', 'B two...'], is_sentence=True)
    write_pair(tmp_path / 'train', 'a')
    return tmp_path / 'train'


def error_of(folder) -> str:
    with pytest.raises(DatasetError) as caught:
        ReasonSegDataset(folder.parent)
    return str(caught.value)


def test_lists_items_in_the_order_of_file_names(folder):
    dataset = ReasonSegDataset(folder.parent)
    assert dataset.metainfo == dict(classes=('object', ), ignore_regions=None)
    assert [dataset[i]['img_id'] for i in range(len(dataset))] == ['a', 'b']
    assert dataset[1] == dict(
        img_id='b',
        img_path=str(folder / 'b.jpg'),
        ann_path=str(folder / 'b.json'),
        texts=['B one', 'B two...'],
        text_index=0,
        question='B one',
        is_sentence=True,
        num_targets=1,
        sample_idx=1)


def test_all_texts_give_one_item_each(folder):
    dataset = ReasonSegDataset(folder.parent, texts='all')
    items = [(item['img_id'], item['text_index'], item['question']) for item in dataset]
    assert items == [('a', 0, 'the thing'), ('b#0', 0, 'B one'), ('b#1', 1, 'B two...')]


def test_other_boxes_come_with_their_items(folder, write_pair):
    write_pair(folder, 'b', text=['one', 'two'], other_boxes=[[18, 1, 25, 4]])  # cut by the image
    items = list(ReasonSegDataset(folder.parent, texts='all'))
    assert [item.get('other_boxes') for item in items] == [None] + [((18, 1, 25, 4), )] * 2


@pytest.mark.parametrize('box', [[20, 0, 30, 5], [-9, 0, 0, 5], [0, 10, 5, 12], [0, -3, 5, -1]])
def test_another_objects_box_outside_of_the_image_is_named(box, folder, write_pair):
    write_pair(folder, 'b', other_boxes=[[0, 0, 4, 4], box])
    message = error_of(folder)
    assert '`other_boxes[1]` of ' in message
    assert 'b.json should lie in its image of 20 x 10 pixels (width x height)' in message


def test_other_texts_modes_are_refused(folder):
    with pytest.raises(ValueError, match=r"`texts` should be 'first' or 'all', but got 'random'"):
        ReasonSegDataset(folder.parent, texts='random')


def test_is_built_by_name_with_base_dataset_options(folder):
    dataset = DATASETS.build(
        dict(type='ReasonSegDataset', data_root=str(folder.parent), indices=[1],
             serialize_data=False))
    assert len(dataset) == 1 and dataset[0]['img_id'] == 'b'


def test_other_files_and_hidden_ones_are_left_alone(folder):
    for name in ('notes.txt', '._a.jpg', '.c.json'):
        (folder / name).write_bytes(b'x')
    assert len(ReasonSegDataset(folder.parent)) == 2


def test_upper_case_suffixes_count(folder):
    (folder / 'a.jpg').rename(folder / 'a.JPEG')
    assert len(ReasonSegDataset(folder.parent)) == 2


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r'`data_root` should be a folder .*nowhere is not a '
                       'folder; download the data or correct the path'):
        ReasonSegDataset(tmp_path / 'nowhere')


def test_a_missing_split_lists_what_is_there(folder):
    with pytest.raises(DatasetError, match=r"but got 'test'; folders there: train"):
        ReasonSegDataset(folder.parent, split='test')


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / 'train').mkdir()
    assert 'train contains no images (.jpg, .jpeg, .png) with annotations (.json); download' in (
        error_of(tmp_path / 'train'))


def test_an_image_without_annotation_is_named(folder):
    (folder / 'b.json').unlink()
    message = error_of(folder)
    assert message.startswith(f'1 problem(s) in the data set {folder}:')
    assert 'b.jpg has no annotation b.json next to it; add it or remove the image' in message


def test_an_annotation_without_image_is_named(folder):
    (folder / 'b.jpg').unlink()
    assert 'b.json has no image (b.jpg, b.jpeg, b.png) next to it; add it or' in error_of(folder)


def test_two_images_of_one_name_are_named(folder):
    (folder / 'b.png').write_bytes((folder / 'b.jpg').read_bytes())
    assert f'b.png has the same name as {folder / "b.jpg"}; rename or' in error_of(folder)


def test_a_broken_annotation_is_named(folder):
    (folder / 'b.json').write_text('{')
    assert 'b.json should contain JSON, but: ' in error_of(folder)


@pytest.mark.parametrize('text', ['', '  \n', ' ... '])
def test_an_empty_question_is_named(text, folder, write_pair):
    write_pair(folder, 'b', text=['fine', text])
    message = error_of(folder)
    assert 'b.json should be a question' in message and '`text[1]`' in message


def test_given_answers_are_part_of_the_items(folder, write_pair):
    write_pair(folder, 'a', think='it is red.', caption='a star')
    write_pair(folder, 'b', response='<think>so</think>', text=['one', 'two'])
    first, second, third = ReasonSegDataset(folder.parent, texts='all')
    assert (first['think'], first['caption']) == ('it is red.', 'a star')
    assert 'response' not in first and 'think' not in second
    assert second['response'] == third['response'] == '<think>so</think>'


@pytest.mark.parametrize('key, value, wanted', [
    ('think', 3, 'a string that is not empty, but got 3'),
    ('caption', ' ', "a string that is not empty, but got ' '"),
    ('response', ['x'], "a string that is not empty, but got ['x']"),
    ('think', 'a </think> b', 'text without the tags of a response'),
])
def test_an_answer_of_the_wrong_form_is_named(folder, write_pair, key, value, wanted):
    write_pair(folder, 'b', **{key: value})
    assert f'`{key}` of {folder / "b.json"} should be {wanted}' in error_of(folder)


@pytest.mark.parametrize('damage', [
    lambda raw: b'no image',
    lambda raw: b'',
    lambda raw: raw[:len(raw) // 2],
    lambda raw: raw[:-2],
], ids=['text', 'empty', 'half', 'end cut off'])
def test_an_undecodable_image_is_named(damage, folder, photos):
    (folder / 'b.jpg').write_bytes(damage((photos / 'val/cat.jpeg').read_bytes()))
    assert 'b.jpg cannot be decoded as an image (' in error_of(folder)


def test_a_target_outside_of_the_image_is_named(folder, write_pair):
    write_pair(folder, 'b', polygons=[('target', [[50, 50], [60, 50], [60, 60]])])
    assert 'b.json marks no target pixel in its image of 20 x 10 pixels' in error_of(folder)


def test_a_single_pixel_is_enough(folder, write_pair):
    write_pair(folder, 'b', polygons=[('target', [[3, 3]])])
    assert len(ReasonSegDataset(folder.parent)) == 2


def test_all_problems_are_counted_and_the_first_of_each_kind_listed(folder):
    for i in range(12):
        (folder / f'c{i:02}.jpg').write_bytes(b'x')
    (folder / 'b.json').write_text('{')
    lines = error_of(folder).splitlines()
    assert lines[0] == f'13 problem(s) in the data set {folder}:'
    assert lines[1] == 'missing annotation (12):' and lines[7] == '  ... and 7 more'
    assert lines[8] == 'unusable file (1):' and 'b.json should contain JSON' in lines[9]
    assert len(lines) == 10


def test_all_that_is_wrong_with_a_pair_is_named(folder, write_pair):
    outside = ('target', [[30, 3], [40, 3], [40, 5]])
    image, _ = write_pair(folder, 'b', text=[''], polygons=(outside, ),
                          other_boxes=[[30, 0, 40, 5]])
    with pytest.raises(DatasetError) as caught:
        ReasonSegDataset(folder.parent)
    assert [problem.kind for problem in caught.value.problems] == [
        'empty question', 'empty mask', 'box outside']
    image.write_bytes(b'no image')
    (folder / 'b.json').write_text('{')
    assert '2 problem(s)' in error_of(folder)
