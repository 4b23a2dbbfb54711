# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from PIL import Image
from torch.utils.data import DataLoader

from mmdpad.datasets import DatasetError, SegZeroDataset
from mmdpad.registry import DATASETS

pa = pytest.importorskip('pyarrow')
pq = pytest.importorskip('pyarrow.parquet')

COPIES = Path(__file__).parents[1] / 'data/seg_zero'
CONFIG = Path(__file__).parents[2] / 'configs/_base_/datasets/refcocog_9k_840.py'
SOLUTION = '<box>(0,420),(210,840)</box><points>(84,630),(168,714)</points>'
SCHEMA = pa.schema([
    ('id', pa.string()), ('problem', pa.string()), ('solution', pa.string()),
    ('image', pa.struct([('bytes', pa.binary()), ('path', pa.string())])),
    ('img_height', pa.int64()), ('img_width', pa.int64())
])
# What the `datasets` library writes beside the schema.
FEATURES = {
    **{name: dict(dtype='string', _type='Value') for name in ('id', 'problem', 'solution')},
    'image': dict(_type='Image'),
    'img_height': dict(dtype='int64', _type='Value'),
    'img_width': dict(dtype='int64', _type='Value')
}


def png(value: int, size: tuple[int, int] = (24, 24)) -> bytes:
    """A PNG of ``size`` (width, height) that is ``value`` all over."""
    file = io.BytesIO()
    Image.new('RGB', size, (value, ) * 3).save(file, 'png')
    return file.getvalue()


def row(i: int, **fields) -> dict:
    """Row ``i``: its image is gray of value ``i``."""
    return dict(
        id=f'refcocog_{i}', problem=f'Thing {i}.', solution=SOLUTION,
        image=dict(bytes=png(i), path=None), img_height=426, img_width=640) | fields


def write(path: Path, rows: list[dict], schema: pa.Schema = SCHEMA, group_size: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = schema.with_metadata(
        {'huggingface': json.dumps(dict(info=dict(features=FEATURES)))})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group_size)


@pytest.fixture
def root(tmp_path):
    """Ten rows in two files, as a download from the hub has them, in groups of two rows."""
    write(tmp_path / 'data/train-00001-of-00002.parquet', [row(i) for i in range(5, 10)])
    write(tmp_path / 'data/train-00000-of-00002.parquet', [row(i) for i in range(5)])
    return tmp_path


def pipeline(size: int) -> list[dict]:
    names = ('LoadReasoningImage', 'ModelImageResize', 'TargetsFromSolution', 'PackReasoningInputs')
    steps = [dict(type=name) for name in names]
    steps[1]['size'] = (size, size)
    return steps


def build(root, size: int = 28, **kwargs) -> SegZeroDataset:
    with DefaultScope.overwrite_default_scope('mmdpad'):
        return SegZeroDataset(root, pipeline=pipeline(size), serialize_data=False, **kwargs)


def error_of(root, **kwargs) -> str:
    with pytest.raises(DatasetError) as caught:
        SegZeroDataset(root, **kwargs)
    return str(caught.value)


def gray(item: dict) -> int:
    """The value of which the packed image is all over."""
    low, high = item['inputs']['image'].aminmax()
    assert low == high
    return int(low)


# Items

def test_rows_come_in_the_order_of_file_names_with_their_own_images(root):
    dataset = build(root)
    items = [dataset[i] for i in range(10)]
    assert [item['data_samples'].img_id for item in items] == [f'refcocog_{i}' for i in range(10)]
    assert [gray(item) for item in items] == list(range(10))


def test_an_item_before_the_pipeline(root):
    shard = str(root / 'data/train-00001-of-00002.parquet')
    assert SegZeroDataset(root)[8] == dict(
        img_id='refcocog_8', img_path=f'{shard}, row 3', shard=shard, row=3, texts=['Thing 8.'],
        text_index=0, question='Thing 8.', is_sentence=None, solution=SOLUTION,
        solution_shape=(840, 840), num_targets=1, sample_idx=8, img_bytes=png(8))


@pytest.mark.parametrize(('size', 'box', 'points'), [
    (840, [0, 420, 210, 840], [[84, 630], [168, 714]]),
    (112, [0, 56, 28, 112], [[11.2, 84], [22.4, 95.2]]),  # 112 / 840 = 2 / 15
])
def test_a_packed_item(size, box, points, root):
    item = build(root, size)[3]
    assert item['inputs']['image'].shape == (3, 24, 24)
    assert item['inputs']['model_image'].shape == (3, size, size)
    sample = item['data_samples']
    assert (sample.question, sample.texts, sample.is_sentence) == ('thing 3', ['Thing 3.'], None)
    assert (sample.ori_shape, sample.model_shape) == ((24, 24), (size, size))
    assert 'gt_instances' not in sample and 'ignored_instances' not in sample
    torch.testing.assert_close(sample.model_targets.bboxes, torch.tensor([box]).float())
    torch.testing.assert_close(sample.model_targets.points, torch.tensor([points]).float())


def test_an_image_of_the_solutions_size_is_the_model_image_as_it_is(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (840, 840, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, 'png', compress_level=0)
    write(tmp_path / 'a.parquet', [row(0, image=dict(bytes=file.getvalue(), path='a.png'))])
    inputs = build(tmp_path, 840)[0]['inputs']
    assert np.array_equal(inputs['model_image'].permute(1, 2, 0), noise)


def test_files_may_lie_in_the_root_itself(tmp_path):
    write(tmp_path / 'a.parquet', [row(0)])
    assert len(SegZeroDataset(tmp_path)) == 1


def test_columns_that_are_not_needed_may_be_missing(tmp_path):
    write(tmp_path / 'a.parquet', [row(0)], pa.schema([SCHEMA.field(i) for i in range(4)]))
    assert gray(build(tmp_path)[0]) == 0


# Several objects

def test_the_multi_object_copy_as_save_to_disk_wrote_it():
    dataset = build(COPIES / 'VisionReasoner_multi_object_7k_840', 840, several_objects=True)
    samples = [item['data_samples'] for item in dataset]
    assert [len(sample.model_targets.bboxes) for sample in samples] == [2, 1, 3, 2]
    # Rectangles of an image 28 pixels wide, times 30; points are their centers.
    assert samples[0].model_targets.bboxes.tolist() == [[60, 90, 270, 360], [420, 150, 750, 270]]
    assert samples[0].model_targets.points.tolist() == [[[165, 225]], [[585, 210]]]
    assert samples[0].question == 'the red one of 0 and the green one of 0'
    image = dataset[3]['inputs']['image']
    assert image[:, 20, 5].tolist() == [255, 0, 0] and image[:, 20, 17].tolist() == [0, 128, 0]


def test_several_objects_where_one_is_expected_are_listed():
    with pytest.raises(DatasetError) as caught:
        SegZeroDataset(COPIES / 'VisionReasoner_multi_object_7k_840')
    assert [problem.kind for problem in caught.value.problems] == ['not one target'] * 3
    assert 'train/data-00000-of-00002.arrow, row 0, ' in str(caught.value)
    assert 'should have one target, but has 2; set `several_objects=True`' in str(caught.value)


def test_the_single_object_copy_goes_with_several_objects_too():
    dataset = build(COPIES / 'refCOCOg_9k_840', 840, several_objects=True)
    targets = dataset[4]['data_samples'].model_targets
    assert len(dataset) == 5
    assert targets.bboxes.tolist() == [[150, 150, 180, 180]]
    assert targets.points.tolist() == [[[160, 160], [170, 170]]]


@pytest.mark.parametrize('solution, problem', [
    ('[{"bbox_2d": [0, 0, 9, 9]}]', 'should be a JSON list of'),
    ('[{"bbox_2d": [0, 0, 9, 9], "point_2d": [5, 841]}]', 'within `solution_size` 840 x 840'),
    ('[{"bbox_2d": [0, 0, 9, 9], "point_2d": [5, 5]}, {"bbox_2d": [9, 0, 0, 9], "point_2d": [5, 5]}'
     ']', 'should be x1 <= x2'),
], ids=['no point', 'point outside', 'second box'])
def test_every_object_of_a_solution_is_checked(solution, problem, tmp_path):
    write(tmp_path / 'a.parquet', [row(0, solution=solution)])
    assert problem in error_of(tmp_path, several_objects=True)


def test_ids_may_repeat(tmp_path):
    write(tmp_path / 'a.parquet', [row(0), row(0)])
    assert len(SegZeroDataset(tmp_path)) == 2


# The draw

def drawn(root, **kwargs) -> list[int]:
    dataset = SegZeroDataset(root, serialize_data=False, **kwargs)
    return [int(dataset.get_data_info(i)['question'][6:-1]) for i in range(len(dataset))]


def test_the_draw_is_the_published_loaders_and_keeps_the_order_of_the_files(root):
    # numpy.random.default_rng(9).permutation(10) is 7 2 5 9 8 3 6 4 0 1, of 10: 1 3 2 4 7 ...
    assert drawn(root, num_samples=3) == [2, 5, 7]
    assert drawn(root, num_samples=6) == [2, 3, 5, 7, 8, 9]
    assert drawn(root, num_samples=3, sample_seed=10) == [1, 2, 3]


@pytest.mark.parametrize('num_samples', [None, 10, 3000])
def test_all_rows_are_taken_where_there_are_no_more(num_samples, root):
    assert drawn(root, num_samples=num_samples) == list(range(10))


@pytest.mark.parametrize('num_samples', [0, -1])
def test_a_draw_of_nothing_is_refused(num_samples, root):
    with pytest.raises(ValueError, match='`num_samples` should be a positive integer, or None'):
        SegZeroDataset(root, num_samples=num_samples)


@pytest.mark.parametrize('size', [(840, ), (840, 0)])
def test_a_frame_without_pixels_is_refused(size, root):
    with pytest.raises(ValueError, match=r'`solution_size` should be \(width, height\)'):
        SegZeroDataset(root, solution_size=size)


# Memory and processes

def test_images_stay_in_the_files(tmp_path):
    noise = [np.random.default_rng(i).bytes(100_000) for i in range(8)]
    rows = [row(i, image=dict(bytes=data, path=None)) for i, data in enumerate(noise)]
    write(tmp_path / 'a.parquet', rows)
    dataset = SegZeroDataset(tmp_path)
    assert dataset[5]['img_bytes'] == noise[5]
    assert len(pickle.dumps(dataset)) < 10_000
    assert 'img_bytes' not in dataset.get_data_info(5)


def test_a_pickled_copy_reads_the_same(root):
    dataset = build(root)
    dataset[0]  # the file is open now
    copy = pickle.loads(pickle.dumps(dataset))
    assert [gray(copy[i]) for i in range(10)] == list(range(10))


def test_workers_read_through_files_of_their_own(root):
    dataset = build(root)
    assert gray(dataset[0]) == 0  # opened before the workers are forked
    loader = DataLoader(dataset, batch_size=5, num_workers=2, collate_fn=pseudo_collate)
    for _ in range(2):
        batches = list(loader)
        values = [int(image[0, 0, 0]) for batch in batches for image in batch['inputs']['image']]
        assert values == list(range(10))
    assert batches[1]['data_samples'][0].img_id == 'refcocog_5'


# What is wrong with the files

@pytest.mark.parametrize('column', ['id', 'problem', 'solution', 'image'])
def test_a_missing_column_is_named(column, root):
    schema = SCHEMA.remove(SCHEMA.get_field_index(column))
    write(root / 'data/train-00001-of-00002.parquet', [row(5)], schema)
    message = error_of(root)
    assert message.startswith(f'1 problem(s) in the data set {root}:')
    assert f'train-00001-of-00002.parquet lacks the column(s) {column}, but has ' in message


@pytest.mark.parametrize('kind', [
    pa.binary(), pa.struct([('path', pa.string())])
], ids=['binary', 'path alone'])
def test_images_of_another_form_are_named(kind, tmp_path):
    schema = SCHEMA.set(3, pa.field('image', kind))
    write(tmp_path / 'a.parquet', [row(0, image=None)], schema)
    assert '`image` of ' in error_of(tmp_path) and ' with `bytes`, but is ' in error_of(tmp_path)


@pytest.mark.parametrize('content', [b'', b'version https://git-lfs.github.com/spec/v1\n', None],
                         ids=['empty', 'pointer', 'half'])
def test_a_broken_file_is_named(content, root):
    path = root / 'data/train-00000-of-00002.parquet'
    path.write_bytes(path.read_bytes()[:900] if content is None else content)
    message = error_of(root)
    assert 'train-00000-of-00002.parquet cannot be read as parquet (' in message
    assert message.count('  - ') == 1


@pytest.mark.parametrize('problem', ['', '  \n', '...', None])
def test_an_empty_problem_is_named(problem, root):
    write(root / 'data/train-00001-of-00002.parquet', [row(5), row(6, problem=problem)])
    message = error_of(root)
    assert '`problem` of ' in message
    assert f'train-00001-of-00002.parquet, row 1 should be a question, but got {problem!r}; ' in (
        message)


@pytest.mark.parametrize('solution', [
    None, '', '<box>(0,1),(2,3)</box>', SOLUTION.replace('0,420', '-1,420')
])
def test_a_malformed_solution_is_named(solution, root):
    write(root / 'data/train-00001-of-00002.parquet', [row(5), row(6, solution=solution)])
    message = error_of(root)
    assert 'train-00001-of-00002.parquet, row 1: `solution` should be "<box>' in message


@pytest.mark.parametrize('solution', [
    SOLUTION.replace('840', '841'),
    SOLUTION.replace('168,', '841,'),
    SOLUTION.replace('(0,', '(211,'),
    SOLUTION.replace('840', '419'),
], ids=['box outside', 'point outside', 'x2 < x1', 'y2 < y1'])
def test_a_solution_outside_of_its_frame_is_named(solution, tmp_path):
    write(tmp_path / 'a.parquet', [row(0, solution=solution)])
    assert 'a.parquet, row 0 should be x1 <= x2, y1 <= y2 and within `solution_size` 840 x 840' in (
        error_of(tmp_path))


def test_the_frame_is_width_by_height(tmp_path):
    solution = '<box>(0,0),(100,50)</box><points>(1,1),(2,2)</points>'
    write(tmp_path / 'a.parquet', [row(0, solution=solution)])
    item = SegZeroDataset(tmp_path, solution_size=(100, 50))[0]
    assert item['solution_shape'] == (50, 100)
    assert 'within `solution_size` 50 x 100' in error_of(tmp_path, solution_size=(50, 100))


def test_all_problems_are_counted(root):
    write(root / 'data/train-00000-of-00002.parquet',
          [row(i, problem='', solution='') for i in range(6)])
    write(root / 'data/train-00001-of-00002.parquet', [row(0)], SCHEMA.remove(0))
    lines = error_of(root).splitlines()
    assert lines[0] == f'13 problem(s) in the data set {root}:'
    assert [line for line in lines if line.endswith(':')][1:] == [
        'empty question (6):', 'wrong solution (6):', 'missing column (1):']


def test_files_without_rows_are_refused(tmp_path):
    write(tmp_path / 'a.parquet', [])
    assert 'has no items' in error_of(tmp_path)


@pytest.mark.parametrize('damage', [
    lambda raw: b'', lambda raw: b'no image', lambda raw: raw[:-30]
], ids=['empty', 'text', 'cut off'])
def test_an_undecodable_image_is_named_with_its_row(damage, root):
    path = root / 'data/train-00001-of-00002.parquet'
    write(path, [row(i) for i in range(3)]
          + [row(3, image=dict(bytes=damage(png(3, (90, 70))), path=None))])
    dataset = build(root)
    assert gray(dataset[7]) == 2
    with pytest.raises(DatasetError, match=r'train-00001-of-00002\.parquet, row 3 cannot be '
                       'decoded as an image'):
        dataset[8]


@pytest.mark.parametrize('image', [None, dict(bytes=None, path='a.png')])
def test_a_row_without_an_image_is_named(image, tmp_path):
    write(tmp_path / 'a.parquet', [row(0), row(1, image=image)])
    with pytest.raises(DatasetError, match=r'a\.parquet, row 1 has no image bytes; write'):
        build(tmp_path)[1]


# The config

def test_the_config_builds_the_published_draw(root):
    loader = Config.fromfile(CONFIG).train_dataloader
    assert (loader.dataset.num_samples, loader.dataset.sample_seed) == (3000, 9)
    assert (loader.batch_size, loader.sampler) == (16, dict(type='InfiniteSampler', shuffle=True))
    loader.dataset.data_root = str(root)
    with DefaultScope.overwrite_default_scope('mmdpad'):
        dataset = DATASETS.build(loader.dataset)
    assert len(dataset) == 10
    assert dataset[2]['data_samples'].model_targets.bboxes.tolist() == [[0, 420, 210, 840]]
