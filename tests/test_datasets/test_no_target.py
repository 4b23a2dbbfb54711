# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Annotations that mark no target: kept by an evaluation, left out of training, the same in every
format."""
import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmengine.logging import MMLogger
from PIL import Image

from mmdpad.datasets import DatasetError, ReasonSegDataset
from mmdpad.datasets.reasoning_dataset import for_evaluation
from mmdpad.datasets.transforms import without_pixels
from mmdpad.geometry.masks import encode_mask
from mmdpad.registry import DATASETS

SQUARE = [[2, 3], [6, 3], [6, 7], [2, 7]]
# What stands in place of a target's polygon.
NOTHING = dict(no_shapes=(), flags=(('flag', SQUARE), ), ignored=(('ignore', SQUARE), ),
               covered=(('target', SQUARE), ('ignore', SQUARE)))
STEPS = [dict(type=name) for name in ('LoadReasoningImage', 'LoadReasonSegMask', 'ModelImageResize',
                                      'TargetsFromMask', 'PackReasoningInputs')]


@pytest.fixture
def folder(tmp_path, write_pair):
    """Two annotations with a target, and one without for each of ``NOTHING``."""
    for name in ('a', 'z'):
        write_pair(tmp_path / 'val', name)
    for name, polygons in NOTHING.items():
        if name == 'covered':  # of equals the first is drawn last
            polygons = polygons[::-1]
        write_pair(tmp_path / 'val', name, polygons=polygons)
    return tmp_path


@pytest.fixture
def warnings_of(monkeypatch):
    """The warnings of a call in the log."""
    def collect(call):
        logger, told = MMLogger.get_current_instance(), []
        monkeypatch.setattr(logger, 'callHandlers', lambda record: told.append(record))
        result = call()
        return result, [record.getMessage() for record in told if record.levelno
                        == logging.WARNING]
    return collect


def ids(dataset):
    return [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))]


def test_an_evaluation_keeps_them_and_says_which_they_are(folder, warnings_of):
    dataset, told = warnings_of(lambda: ReasonSegDataset(folder, 'val', test_mode=True))
    assert ids(dataset) == ['a', 'covered', 'flags', 'ignored', 'no_shapes', 'z'] and not told
    assert [item.get('empty_target') for item in dataset] == [None, *[True] * 4, None]
    assert [item['num_targets'] for item in dataset] == [1, 0, 0, 0, 0, 1]
    assert dataset.no_target == tuple(str(folder / f'val/{name}.json') for name in sorted(NOTHING))


def test_training_leaves_them_out_and_says_so_once(folder, warnings_of):
    dataset, told = warnings_of(lambda: ReasonSegDataset(folder, 'val', texts='all'))
    assert ids(dataset) == ['a', 'z'] and len(dataset.no_target) == 4
    (message, ) = told
    assert message.startswith(f'4 item(s) of {folder / "val"} mark no target and are left out of '
                              f'training: {folder / "val/covered.json"}, ')
    assert [item['left_out'] for item in dataset] == [4, 4]


def test_where_a_question_may_mean_none_they_are_items_like_others(folder, warnings_of):
    for test_mode in (False, True):
        dataset, told = warnings_of(lambda mode=test_mode: ReasonSegDataset(
            folder, 'val', several_objects=True, test_mode=mode, pipeline=STEPS))
        assert len(dataset) == 6 and not told and not dataset.no_target
        sample = dataset[1]['data_samples']
        assert sample.gt_instances.masks.shape == (0, 10, 20)
        assert sample.model_targets.bboxes.shape == (0, 4)
        assert 'empty_target' not in sample and 'left_out' not in sample


def test_the_pipeline_takes_them(folder):
    dataset = ReasonSegDataset(folder, 'val', test_mode=True, pipeline=STEPS)
    sample = dataset[3]['data_samples']
    assert sample.empty_target and sample.img_id == 'ignored'
    assert sample.gt_instances.masks.shape == (0, 10, 20)
    assert sample.ignored_instances.masks.sum() == 25
    assert sample.model_targets.points.shape == (0, 2, 2)
    assert 'empty_target' not in dataset[0]['data_samples']


def test_a_draw_of_training_data_is_of_what_has_a_target(folder, write_pair):
    drawn = ReasonSegDataset(folder, 'val', num_samples=1)
    for name in NOTHING:
        write_pair(folder / 'val', name)
    assert ids(drawn) == [['a', 'z'][np.random.default_rng(9).permutation(2)[0]]]
    every = ['a', *sorted(NOTHING), 'z']
    numbers = sorted(np.random.default_rng(9).permutation(6)[:3])
    assert ids(ReasonSegDataset(folder, 'val', num_samples=3)) == [every[i] for i in numbers]


def test_training_data_without_any_target_are_refused(tmp_path, write_pair):
    write_pair(tmp_path / 'train', polygons=())
    assert len(ReasonSegDataset(tmp_path, test_mode=True)) == 1
    with pytest.raises(DatasetError, match='no items with a target, but 1 that mark none') as found:
        ReasonSegDataset(tmp_path)
    assert found.value.problems[0].kind == 'empty split'


@pytest.fixture
def sources(tmp_path):
    """By name: the config of a data set whose second of two items has no target."""
    empty, full = np.zeros((10, 20), bool), np.ones((10, 20), bool)
    for name in ('a', 'b'):
        for part in ('images', 'masks'):
            (tmp_path / part).mkdir(exist_ok=True)
        Image.new('RGB', (20, 10)).save(tmp_path / f'images/{name}.png')
        Image.fromarray(full if name == 'a' else empty).save(tmp_path / f'masks/{name}.png')
    (tmp_path / 'questions.csv').write_text('image,question\na.png,x\nb.png,x\n')
    image = dict(bytes=(tmp_path / 'images/a.png').read_bytes(), path=None)
    rows = [dict(image=image, text='x', mask=mask.tolist(), image_id=name, ann_id=name,
                 img_height=10, img_width=20) for name, mask in (('a', full), ('b', empty))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / 'test.parquet')
    for stem, masks in (('none', []), ('rle', [encode_mask(empty)])):
        lines = [dict(id=name, image=f'images/{name}.png', texts=['x'], objects=objects)
                 for name, objects in (('a', [encode_mask(full)]), ('b', masks))]
        (tmp_path / f'{stem}.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    refs = [dict(ref_id=i, image_id=i, ann_id=i, split='val',
                 sentences=[dict(sent_id=i, raw='x')]) for i in (1, 2)]
    instances = dict(
        images=[dict(id=i, file_name=f'{name}.png', height=10, width=20)
                for i, name in ((1, 'a'), (2, 'b'))],
        annotations=[dict(id=i, image_id=i, segmentation=encode_mask(mask))
                     for i, mask in ((1, full), (2, empty))])
    (tmp_path / 'instances.json').write_text(json.dumps(instances))
    (tmp_path / 'refs.json').write_text(json.dumps(refs))
    refs[1]['ann_id'] = [-1]
    (tmp_path / 'grefs.json').write_text(json.dumps(refs))
    root = str(tmp_path)
    coco = dict(type='ReferringSegDataset', data_root=root, ann_file='instances.json',
                data_prefix=dict(img_path='images'), split='val')
    return dict(
        mask_folder=dict(type='MaskFolderDataset', data_root=root),
        parquet=dict(type='SegZeroEvalDataset', data_root=root),
        json_lines=dict(type='JsonLinesDataset', data_root=root, ann_file='none.jsonl'),
        json_lines_rle=dict(type='JsonLinesDataset', data_root=root, ann_file='rle.jsonl'),
        refcoco=dict(coco, split_file='refs.json'), grefcoco=dict(coco, split_file='grefs.json'))


@pytest.mark.parametrize('name', ['mask_folder', 'parquet', 'json_lines', 'json_lines_rle',
                                  'refcoco', 'grefcoco'])
def test_every_format_is_alike(name, sources):
    steps = [dict(type='LoadReasoningImage'), dict(type='LoadInstanceMasks')]
    config = dict(sources[name], pipeline=steps, serialize_data=False)
    first, second = DATASETS.build(dict(config, test_mode=True))
    assert (first['gt_masks'].shape, second['gt_masks'].shape) == ((1, 10, 20), (0, 10, 20))
    assert 'empty_target' not in first and second['empty_target']
    (only, ) = DATASETS.build(config)
    assert only['gt_masks'].all() and only['left_out'] == 1
    several = list(DATASETS.build(dict(config, several_objects=True)))
    assert [item['num_targets'] for item in several] == [1, 0]
    assert all('empty_target' not in item and 'left_out' not in item for item in several)


def test_configs_to_evaluate_are_in_test_mode_unless_they_say(folder):
    inner = dict(type='ReasonSegDataset', data_root=str(folder), split='val')
    own = dict(inner, test_mode=False)
    other = dict(type='CocoDataset', ann_file='x.json')
    wrapped = dict(type='RepeatDataset', times=2, dataset=dict(
        type='ConcatDataset', datasets=[inner, own, other, dict(type='no.such.Dataset')]))
    changed = for_evaluation(wrapped)
    assert changed['dataset']['datasets'] == [
        dict(inner, test_mode=True), own, other, dict(type='no.such.Dataset')]
    assert 'test_mode' not in inner and changed['times'] == 2
    assert for_evaluation(dict(inner, type=ReasonSegDataset))['test_mode']
    built = DATASETS.build(inner)
    assert for_evaluation(built) is built
    assert for_evaluation(without_pixels(dict(inner, pipeline=STEPS)))['test_mode']
