# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from mmdpad.datasets import DatasetError, SegZeroEvalDataset
from mmdpad.geometry.masks import decode_mask

pa = pytest.importorskip('pyarrow')
pq = pytest.importorskip('pyarrow.parquet')

COPIES = Path(__file__).parents[1] / 'data/seg_zero'
NAME = 'data/test-00000-of-00001.parquet'
STEPS = [dict(type=name) for name in (
    'LoadReasoningImage', 'LoadInstanceMasks', 'ModelImageResize', 'TargetsFromMask',
    'PackReasoningInputs')]
BOX = [2, 3, 9, 12]  # of the red rectangle in every image


@pytest.fixture
def root(tmp_path) -> Path:
    """A small copy in the form of ReasonSeg_test, to change."""
    return Path(shutil.copytree(COPIES / 'ReasonSeg_test', tmp_path / 'copy'))


def change(root: Path, row: int = 1, **fields) -> None:
    """Write the file again with other fields in a row."""
    table = pq.read_table(root / NAME)
    rows = table.to_pylist()
    rows[row].update(fields)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), root / NAME)


def problem_of(root: Path, **kwargs) -> DatasetError:
    """The only problem of the data set."""
    with pytest.raises(DatasetError) as caught:
        SegZeroEvalDataset(root, **kwargs)
    problem, = caught.value.problems
    return problem


# Items

def test_items_before_the_pipeline():
    dataset = SegZeroEvalDataset(COPIES / 'ReasonSeg_test')
    assert dataset.metainfo == dict(classes=('object', ), ignore_regions='target')
    items = list(dataset)
    assert [item['img_id'] for item in items] == ['wide', 'turned', 'grey']
    item = items[1]
    assert item['img_bytes'][:2] == b'\xff\xd8'
    mask = decode_mask(item['instances'][0]['mask'])
    assert mask.shape == (32, 18) and np.array_equal(np.argwhere(mask)[[0, -1]], [[3, 2], [12, 9]])
    shard = str(COPIES / 'ReasonSeg_test' / NAME)
    assert item | dict(img_bytes=None, instances=None) == dict(
        img_id='turned', ann_id='turned_0', img_path=f'{shard}, row 1', shard=shard, row=1,
        texts=['The red one of turned.'], text_index=0, question='The red one of turned.',
        is_sentence=None, num_targets=1, instances=None, img_bytes=None, sample_idx=1)


@pytest.mark.parametrize('copy, sizes', [
    ('ReasonSeg_test', [(20, 30), (32, 18), (24, 24)]), ('refcoco_testA', [(20, 30)] * 2),
    ('refcoco_testA/test', [(20, 30)] * 2)])
def test_packed_items_of_either_form(copy, sizes):
    dataset = SegZeroEvalDataset(COPIES / copy, pipeline=STEPS, serialize_data=False)
    samples = [item['data_samples'] for item in dataset]
    assert [sample.ori_shape for sample in samples] == sizes
    for item, size in zip(dataset, sizes, strict=True):
        truth = item['data_samples'].gt_instances
        assert truth.bboxes.tolist() == [BOX] and truth.masks.shape == (1, *size)
        assert truth.masks.sum() == 8 * 10 and 'ignored_instances' not in item['data_samples']
        inside = item['inputs']['image'][:, 5:11, 4:8].float().mean((1, 2))
        outside = item['inputs']['image'][:, 15:, 12:].float().mean((1, 2))
        assert (inside - outside).abs().max() > 40, 'the mask lies on what it is a mask of'
    assert samples[0].question == 'the red one of wide'


def test_workers_read_through_files_of_their_own():
    dataset = SegZeroEvalDataset(COPIES / 'refcoco_testA', pipeline=STEPS)
    first = dataset[0]['inputs']['image']  # opened before the workers are forked
    loader = DataLoader(dataset, batch_size=1, num_workers=2, collate_fn=pseudo_collate)
    images = [image for batch in loader for image in batch['inputs']['image']]
    assert len(images) == 2 and all(image.equal(first) for image in images)


def test_the_split_may_have_another_name(root):
    (root / NAME).rename(root / 'data/val-00000-of-00001.parquet')
    assert len(SegZeroEvalDataset(root, split='val')) == 3
    with pytest.raises(DatasetError, match=r"\(val\), but got 'test'"):
        SegZeroEvalDataset(root)


# What is wrong with a row

MASK = np.zeros((32, 18), bool)
MASK[3, 2] = True


@pytest.mark.parametrize('fields, kind, message', [
    (dict(text=' ..'), 'empty question', "`text` of .*, row 1 should be a question, but got ' ..'"),
    (dict(text=None), 'empty question', 'but got None; write one'),
    (dict(image=None), 'missing image', 'row 1 has no image bytes'),
    (dict(image=dict(bytes=None, path='a.jpg')), 'missing image', 'row 1 has no image bytes'),
    (dict(image=dict(bytes=b'no image', path=None)), 'unreadable image', 'row 1 cannot be decoded'),
    (dict(mask=None), 'wrong mask', '`mask` of .*, row 1 should be rows of equal length'),
    (dict(mask=[]), 'wrong mask', 'should be rows of equal length'),
    (dict(mask=[[True, False], [True]]), 'wrong mask', 'should be rows of equal length'),
    (dict(mask=[None, *MASK.tolist()[1:]]), 'wrong mask', 'contains null'),
    (dict(mask=[[None] * 18, *MASK.tolist()[1:]]), 'wrong mask', 'contains null'),
    (dict(mask=MASK.T.tolist()), 'wrong size',
     r'image is \(32, 18\), its mask \(18, 32\), and `img_height` and `img_width` say \(32, 18'),
    (dict(mask=MASK[:-1].tolist()), 'wrong size', r'its mask \(31, 18\)'),
    (dict(img_height=18, img_width=32), 'wrong size', r'say \(18, 32\); correct it'),
    (dict(img_width=None), 'wrong size', r'say \(32, None\)'),
])
def test_a_row_that_cannot_be_used_is_named(fields, kind, message, root):
    change(root, **fields)
    problem = problem_of(root)
    assert problem.kind == kind
    assert NAME in str(problem)
    with pytest.raises(DatasetError, match=message):
        raise problem


@pytest.mark.parametrize('column', ['text', 'image_id'])
def test_text_that_is_not_utf8_is_named(column, root):
    table = pq.read_table(root / NAME)
    texts = pa.array([b'a', b'\xff', b'c'], pa.binary()).view(pa.string())
    at = table.schema.get_field_index(column)
    pq.write_table(table.set_column(at, table.schema.field(at), texts), root / NAME)
    problem = problem_of(root)
    assert problem.kind == 'unreadable text'
    assert 'row 1 should contain text in UTF-8' in str(problem)


def test_a_cut_off_image_is_found_when_the_data_set_is_built(root):
    data = pq.read_table(root / NAME).to_pylist()[0]['image']['bytes']
    change(root, 0, image=dict(bytes=data[:-40], path=None))
    assert problem_of(root).kind == 'unreadable image'


def test_all_problems_are_listed(root):
    change(root, 0, text='', mask=None)
    change(root, 2, img_width=1)
    with pytest.raises(DatasetError) as caught:
        SegZeroEvalDataset(root)
    assert [problem.kind for problem in caught.value.problems] == [
        'empty question', 'wrong mask', 'wrong size']


# What is wrong with a file

@pytest.mark.parametrize('column', SegZeroEvalDataset.columns)
def test_a_missing_column_is_named(column, root):
    table = pq.read_table(root / NAME)
    pq.write_table(table.drop_columns([column]), root / NAME)
    problem = problem_of(root)
    assert problem.kind == 'missing column'
    assert f'lacks the column(s) {column}, but has ' in str(problem)


@pytest.mark.parametrize('column_type', [
    pa.list_(pa.bool_()), pa.list_(pa.list_(pa.uint8())), pa.string()], ids=str)
def test_masks_of_another_form_are_named(column_type, root):
    table = pq.read_table(root / NAME)
    place = table.schema.get_field_index('mask')
    pq.write_table(table.set_column(place, 'mask', pa.nulls(3, column_type)), root / NAME)
    message = str(problem_of(root))
    assert '`mask` of ' in message and 'should be lists of lists of bool, but is ' in message


def test_a_training_copy_is_refused():
    with pytest.raises(DatasetError, match=r'lacks the column\(s\) ann_id, image_id, mask, text'):
        SegZeroEvalDataset(COPIES / 'refCOCOg_9k_840', split='train')
