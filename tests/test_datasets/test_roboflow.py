# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Data sets as Roboflow exports them, by themselves and as a folder of many."""
import json

import pytest
from roboflow_files import BOATS, CELLS, write_export

from mmdpad.datasets import DatasetError, QuestionDataset, RoboflowDataset
from mmdpad.datasets.detection_folders import (
    ODINW13,
    detection_folders,
    find_detection_files,
)
from mmdpad.registry import DATASETS


def ask(path, phrases=None, **source):
    return QuestionDataset(
        dict(type='RoboflowDataset', ann_file=str(path), data_prefix=dict(img=str(path.parent)),
             **source),
        dict(type='QuestionFromClasses', negatives='all', phrases=phrases),
        several_objects=True, test_mode=True, serialize_data=False)


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_the_name_of_the_project_is_no_class(tmp_path):
    found = ask(write_export(tmp_path / 'my boats', BOATS))
    assert found.metainfo['classes'] == ('dock', 'boat')
    full, empty = found
    assert full['question'] == empty['question'] == 'dock, boat'
    assert [(item['bbox'], item['bbox_label']) for item in full['instances']] == [
        ([4, 2, 14, 8], 1), ([20, 0, 40, 10], 0)]
    assert (empty['num_targets'], empty['instances']) == (0, [])
    assert full['img_path'].endswith('my boats/valid/IMG 1_jpg.rf.0a1b.jpg')


def test_categories_of_the_same_name_are_one_class(tmp_path):
    found = ask(write_export(tmp_path, CELLS))
    # 'cell' is a class, since annotations have it, and comes first, as in the file.
    assert found.metainfo['classes'] == ('cell', 'CoW')
    assert [[item['bbox_label'] for item in question['instances']] for question in found] == [
        [1, 1], [0]]


def test_a_class_with_its_own_name_as_supercategory_is_one(tmp_path):
    """As 'person' of COCO, and a class of a project of its name; no annotation has either."""
    path = write_export(tmp_path, BOATS)
    change(path, lambda content: content['categories'].extend([
        dict(id=7, name='person', supercategory='person'),
        dict(id=8, name='boats', supercategory='boats')]))
    assert ask(path).metainfo['classes'] == ('boats', 'dock', 'boat', 'person')


def test_phrases_stand_for_classes(tmp_path):
    path = write_export(tmp_path, CELLS)
    first, _ = ask(path, phrases=dict(CoW='flat mushroom'))
    assert first['question'] == 'cell, flat mushroom'
    assert (first['classes'], first['class_labels']) == (('cell', 'flat mushroom'), (0, 1))
    with pytest.raises(DatasetError, match="has 'cow'; its classes are cell, CoW"):
        ask(path, phrases=dict(cow='flat mushroom'))
    with pytest.raises(DatasetError, match="'cell' = 'Cell'; rename them"):
        ask(path, phrases=dict(CoW='Cell'))


@pytest.mark.parametrize('phrase', ['', ' _', 3, dict(name='flat mushroom')])
def test_phrases_that_are_no_texts(tmp_path, phrase):
    with pytest.raises(ValueError, match='`phrases` should be texts that are not empty, but got'):
        ask(write_export(tmp_path, CELLS), phrases=dict(CoW=phrase))


def test_some_of_the_classes(tmp_path):
    path = write_export(tmp_path, BOATS)
    found = ask(path, metainfo=dict(classes=('boat', )))
    assert found.metainfo['classes'] == ('boat', ) and found[0]['num_targets'] == 1
    with pytest.raises(DatasetError, match="has no 'ship'; its classes are 'dock', 'boat'"):
        ask(path, metainfo=dict(classes=('boat', 'ship')))


def test_an_annotation_without_area_has_that_of_its_box(tmp_path):
    path = write_export(tmp_path, BOATS)
    change(path, lambda content: [one.pop('area') for one in content['annotations']])
    assert ask(path)[0]['num_targets'] == 2
    change(path, lambda content: [one.update(area=None) for one in content['annotations']])
    assert ask(path)[0]['num_targets'] == 2


@pytest.mark.parametrize('name, entry, message', [
    ('images', None, r'`images\[0\]` of .* should be a dict, but got None'),
    ('images', dict(id=None), r'`id` of .*images\[0\] should be a number or a text, but got None'),
    ('images', dict(height='20'), '`height` of .* should be a number of pixels'),
    ('images', dict(width=0), '`width` of .* should be a number of pixels'),
    ('images', dict(file_name=None), '`file_name` of .* should be a text'),
    ('images', dict(id=1), 'has the id of images 1 2 times'),
    ('annotations', 'x', r'`annotations\[0\]` of .* should be a dict'),
    ('annotations', dict(id=1), 'has the id of annotations 1 2 times'),
    ('annotations', dict(category_id=[2]), '`category_id` of .* a number or a text'),
    ('annotations', dict(area='7'), '`area` of .* a number, or missing'),
    ('categories', dict(id=[0]), '`id` of .* a number or a text'),
    ('categories', dict(name=' '), '`name` of .* a text')])
def test_malformed_entries_are_named(tmp_path, name, entry, message):
    path = write_export(tmp_path, BOATS)

    def edit(content):
        content[name][0] = content[name][0] | entry if isinstance(entry, dict) else entry

    change(path, edit)
    with pytest.raises(DatasetError, match=message):
        ask(path)


@pytest.mark.parametrize('key, value, message', [
    ('category_id', 7, 'annotation 1.*one of the file.s category ids, but got 7'),
    ('image_id', 9, 'one of the file.s image ids, but got 9'),
    ('bbox', [1, 2, 3], r'\[x, y, width, height\], but got \[1, 2, 3\]')])
def test_annotations_that_mmdet_would_leave_out_or_stumble_over(tmp_path, key, value, message):
    path = write_export(tmp_path, BOATS)
    change(path, lambda content: content['annotations'][1].update({key: value}))
    with pytest.raises(DatasetError, match=message):
        ask(path)


def test_folders_are_found(tmp_path):
    write_export(tmp_path / 'sea/boats v2', BOATS)
    write_export(tmp_path / 'sea/boats v2', BOATS, 'train')
    both = write_export(tmp_path / 'cells', CELLS)
    write_export(tmp_path / 'cells', CELLS, name='annotations_without_background.json')
    assert find_detection_files(str(tmp_path)) == {
        'cells': 'cells/valid/annotations_without_background.json',
        'sea/boats v2': 'sea/boats v2/valid/_annotations.coco.json'}
    assert list(find_detection_files(str(tmp_path), 'train')) == ['sea/boats v2']
    assert find_detection_files(str(both.parents[1])) == {
        'cells': 'valid/annotations_without_background.json'}
    with pytest.raises(FileNotFoundError, match=r"none; other folders.*\['train', 'valid'\]"):
        find_detection_files(str(tmp_path), 'test')
    with pytest.raises(FileNotFoundError, match='has none; correct the path'):
        find_detection_files(str(tmp_path / 'nowhere'))


def test_links_to_data_sets_are_found(tmp_path):
    write_export(tmp_path / 'disk/cells', CELLS, 'val [2]')
    write_export(tmp_path / 'mine/boats', BOATS, 'val [2]')
    (tmp_path / 'mine/linked').symlink_to(tmp_path / 'disk', target_is_directory=True)
    (tmp_path / 'mine/a loop').symlink_to(tmp_path / 'mine', target_is_directory=True)
    assert list(find_detection_files(str(tmp_path / 'mine'), 'val [2]')) == [
        'boats', 'linked/cells']


def test_config_of_folders(tmp_path):
    for name, content in (('boats', BOATS), ('cells', CELLS)):
        write_export(tmp_path / name, content)
    dataset, evaluator = detection_folders(
        str(tmp_path), phrases=dict(cells=dict(CoW='flat mushroom')))
    assert evaluator['dataset_prefixes'] == ['boats', 'cells']
    built = [DATASETS.build(part) for part in dataset['datasets']]
    assert [part.source for part in built] == [RoboflowDataset.__name__] * 2
    assert [part.get_data_info(0)['question'] for part in built] == [
        'dock, boat', 'cell, flat mushroom']
    assert [metrics[1]['ann_file'] for metrics in evaluator['metrics']] == [
        str(tmp_path / name / 'valid/_annotations.coco.json') for name in ('boats', 'cells')]
    with pytest.raises(ValueError, match='data sets boats, cells, but has cell;'):
        detection_folders(str(tmp_path), phrases=dict(cell={}))


def test_odinw13_is_that_of_mmdet():
    from mmengine.config import Config

    from mmdpad.utils.configs import find_config
    theirs = Config.fromfile(find_config(
        'mmdet::grounding_dino/odinw/grounding_dino_swin-t_pretrain_odinw13'))
    assert {name: f'data/odinw/{file}' for name, file in ODINW13.items()} == dict(zip(
        theirs.val_evaluator.dataset_prefixes,
        (metric.ann_file for metric in theirs.val_evaluator.metrics), strict=True))
    assert list(ODINW13) == theirs.val_evaluator.dataset_prefixes
