# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The converter as users call it, from format to format."""
from __future__ import annotations

import io
import json
import runpy
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from mmengine.config import Config
from PIL import Image
from pycocotools.coco import COCO

from mmdpad.datasets import JsonLinesDataset, ReasonSegDataset
from mmdpad.datasets.conversion import loading_steps, source_config
from mmdpad.datasets.conversion import parquet as parquet_module
from mmdpad.datasets.conversion import reason_seg as reason_seg_module
from mmdpad.geometry.masks import decode_mask, encode_mask
from mmdpad.registry import DATASETS
from mmdpad.utils import read_jsonl

CONVERT = runpy.run_path(
    str(Path(__file__).parents[3] / 'tools/dataset_converters/convert.py'))['main']
LINES = [dict(type='LoadReasoningImage'), dict(type='LoadInstanceMasks')]
SHAPES = [dict(type='LoadReasoningImage'), dict(type='LoadReasonSegMask')]
# A ring, with a pixel in its hole.
RING = np.zeros((10, 20), bool)
RING[1:8, 3:12] = True
RING[2:7, 4:11] = False
RING[4, 7] = True
DOT = np.zeros((10, 20), bool)
DOT[9, 19] = True


def convert(*arguments) -> None:
    CONVERT([str(argument) for argument in arguments])


def error_of(*arguments) -> str:
    with pytest.raises(SystemExit) as caught:
        convert(*arguments)
    return str(caught.value)


@pytest.fixture
def lines(tmp_path):
    """Write lines about ``b.png`` into ``source/train.jsonl``, and return that folder."""

    def write(*fields: dict) -> Path:
        folder = tmp_path / 'source'
        folder.mkdir(exist_ok=True)
        Image.new('RGB', (20, 10), 'red').save(folder / 'b.png')
        rows = [dict(id=f'x{i}', image='b.png', texts=['One.', 'two']) | f
                for i, f in enumerate(fields)]
        (folder / 'train.jsonl').write_text('\n'.join(map(json.dumps, rows)))
        return folder

    return write


def objects(*masks) -> dict:
    return dict(objects=[encode_mask(mask) for mask in masks])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# There and back

def test_reasonseg_to_lines_and_back(photos, tmp_path, capsys):
    convert('reasonseg', photos, 'jsonl', tmp_path / 'lines', '--split', 'val')
    assert capsys.readouterr().out.startswith(
        f'{tmp_path / "lines"}: 10 items, 12 questions, 10 objects, 10 images\n')
    convert('jsonl', tmp_path / 'lines', 'reasonseg', tmp_path / 'back', '--split', 'val')
    built = [ReasonSegDataset(photos, 'val', pipeline=SHAPES),
             JsonLinesDataset(tmp_path / 'lines/val.jsonl', pipeline=LINES),
             ReasonSegDataset(tmp_path / 'back', 'val', pipeline=SHAPES)]
    ignored = 0
    for first, second, third in zip(*built, strict=True):
        nothing = np.zeros_like(first['ignore_mask'])
        for other in (second, third):
            assert np.array_equal(other['gt_masks'], first['gt_masks'])
            assert np.array_equal(other.get('ignore_mask', nothing), first['ignore_mask'])
            for key in ('img_id', 'texts', 'is_sentence', 'other_boxes'):
                assert other.get(key) == first.get(key)
            assert Path(other['img_path']).samefile(first['img_path']) == (other is second)
            assert Path(other['img_path']).read_bytes() == Path(first['img_path']).read_bytes()
        ignored += first['ignore_mask'].any()
    assert ignored


def test_an_answer_and_boxes_go_along(lines, tmp_path):
    extras = dict(other_boxes=[[1.0, 2.0, 3.5, 4.0]], think='a "thought"', caption='ü')
    source = lines(dict(id='.a/b', **objects(RING), **extras))
    convert('jsonl', source, 'reasonseg', tmp_path / 'r')
    convert('reasonseg', tmp_path / 'r', 'jsonl', tmp_path / 'j')
    (line, ) = read_jsonl(tmp_path / 'j/train.jsonl')
    assert line.items() >= extras.items() and line['id'] == '_a_b'
    assert np.array_equal(decode_mask(line['objects'][0]), RING)


def test_lines_to_coco(lines, tmp_path):
    source = lines(objects(RING, DOT), objects(), objects(DOT))
    convert('jsonl', source, 'coco', tmp_path / 'coco', '--copy-images')
    coco = COCO(tmp_path / 'coco/instances.json')
    assert [np.array_equal(coco.annToMask(coco.anns[i]), mask)
            for i, mask in ((1, RING), (2, DOT))] == [True, True]
    assert len(coco.anns) == 2 and len(coco.imgs) == 1  # the dot and the image are there once
    assert coco.anns[1]['bbox'] == [3, 1, 9, 7] and coco.anns[1]['area'] == RING.sum()
    assert coco.imgs[1] == dict(id=1, file_name='images/b.png', height=10, width=20)
    assert (tmp_path / 'coco/images/b.png').read_bytes() == (source / 'b.png').read_bytes()
    refs = json.loads((tmp_path / 'coco/refs.json').read_text())
    assert [(ref['ann_id'], ref['category_id'], ref['no_target']) for ref in refs] == [
        ([1, 2], [1, 1], False), ([-1], [-1], True), ([2], [1], False)]
    assert refs[1]['sentences'][0] == dict(raw='One.', sent='One.', sent_id=2, tokens=['One.'])


def test_references_of_one_object_each_are_refcocos(lines, tmp_path):
    convert('jsonl', lines(objects(RING)), 'coco', tmp_path / 'coco')
    (ref, ) = json.loads((tmp_path / 'coco/refs.json').read_text())
    assert ref.items() >= dict(ref_id=1, ann_id=1, image_id=1, category_id=1,
                               split='train', file_name='../source/b.png').items()
    assert 'no_target' not in ref and names(tmp_path / 'coco') == {'instances.json', 'refs.json'}


def test_lines_to_coco_and_back(lines, tmp_path):
    convert('jsonl', lines(objects(RING, DOT), objects(), objects(DOT)), 'coco', tmp_path / 'c')
    convert('coco', tmp_path / 'c', 'jsonl', tmp_path / 'j')
    found = [[decode_mask(mask) for mask in line['objects']]
             for line in read_jsonl(tmp_path / 'j/train.jsonl')]
    assert [len(masks) for masks in found] == [2, 0, 1]
    assert all(np.array_equal(*pair) for pair in zip(sum(found, []), (RING, DOT, DOT),
                                                     strict=True))


def test_lines_to_parquet_in_groups_and_files(lines, tmp_path, monkeypatch):
    # Each row of some 100 bytes fills a group, each two groups a file.
    monkeypatch.setattr(parquet_module, 'GROUP_BYTES', 10)
    monkeypatch.setattr(parquet_module, 'SHARD_BYTES', 150)
    source = lines(objects(RING), dict(objects(DOT), texts=['three']))
    convert('jsonl', source, 'parquet', tmp_path / 'p')
    files = sorted((tmp_path / 'p').iterdir())
    assert [file.name for file in files] == [f'train-0000{i}-of-00002.parquet' for i in (0, 1)]
    assert [pq.ParquetFile(file).num_row_groups for file in files] == [2, 1]
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert [(row['text'], row['image_id'], row['ann_id']) for row in rows] == [
        ('One.', 'x0', 'x0#0'), ('two', 'x0', 'x0#1'), ('three', 'x1', 'x1')]
    for row, mask in zip(rows, (RING, RING, DOT), strict=True):
        assert np.array_equal(np.array(row['mask']), mask)
        assert (row['img_height'], row['img_width']) == (10, 20)
        assert row['image'] == dict(bytes=(source / 'b.png').read_bytes(), path='b.png')
    assert Image.open(io.BytesIO(rows[0]['image']['bytes'])).size == (20, 10)
    convert('parquet', tmp_path / 'p', 'jsonl', tmp_path / 'j')
    back = list(read_jsonl(tmp_path / 'j/train.jsonl'))
    assert [(line['id'], line['texts'], line['image']) for line in back] == [
        ('x0', ['One.'], 'images/x0.png'), ('x0_2', ['two'], 'images/x0.png'),
        ('x1', ['three'], 'images/x0.png')]
    assert all('is_sentence' not in line for line in back)
    for line, mask in zip(back, (RING, RING, DOT), strict=True):
        assert np.array_equal(decode_mask(line['objects'][0]), mask)
    assert (tmp_path / 'j/images/x0.png').read_bytes() == (source / 'b.png').read_bytes()


def test_custom_images_masks_and_questions_become_inputs_of_the_model(tmp_path, capsys):
    source = tmp_path / 'mine'
    for folder in ('photos', 'masks'):
        (source / folder).mkdir(parents=True)
    Image.new('RGB', (20, 10)).save(source / 'photos/a.jpg')
    for i, mask in enumerate((RING, DOT), start=1):
        Image.fromarray(mask).save(source / f'masks/a_{i}.png')
    (source / 'q.csv').write_text('image,question,is_sentence\na.jpg,What is round?,true\n')
    convert('masks', source, 'jsonl', tmp_path / 'out', '--copy-images', '--split', 'mine',
            '--images', 'photos', '--questions', 'q.csv')
    config = Config.fromstring(capsys.readouterr().out.split('too):\n')[1], '.py')
    dataset = config.train_dataloader.dataset
    assert dataset.pop('_delete_')
    item = DATASETS.build(dataset)[0]
    sample = item['data_samples']
    assert (sample.question, sample.is_sentence) == ('what is round?', True)
    assert np.array_equal(sample.gt_instances.masks, np.stack([RING, DOT]))
    assert item['inputs']['model_image'].shape == (3, 840, 840)
    assert len(sample.model_targets.bboxes) == 2


# What cannot be said, or is there already

@pytest.mark.parametrize('target', ['reasonseg', 'parquet'])
def test_several_objects_are_refused_where_there_is_one_mask(lines, tmp_path, target):
    source = lines(objects(RING), objects(RING, DOT), objects())
    for lossy in ([], ['--lossy']):
        message = error_of('jsonl', source, target, tmp_path / 'out', *lossy)
        assert 'not one target (1):' in message
        assert 'line 2 should have one object' in message and 'but has 2' in message
        assert names(tmp_path) == {'source'}


@pytest.mark.parametrize('target', ['reasonseg', 'parquet', 'jsonl', 'coco'])
@pytest.mark.parametrize('kind', ['jsonl', 'reasonseg', 'parquet'])
def test_an_item_without_an_object_stays_one(lines, tmp_path, capsys, kind, target):
    source = lines(*(dict(objects(*masks), texts=['One.']) for masks in ([RING], [])))
    if kind != 'jsonl':
        convert('jsonl', source, kind, tmp_path / kind)
        source = tmp_path / kind
        capsys.readouterr()
    convert(kind, source, target, tmp_path / 'out', '--lossy')
    out = capsys.readouterr().out
    assert '2 items, 2 questions, 1 objects, 1 items without object' in out
    # A question that may mean none is asked for as such; elsewhere no mask was drawn.
    assert ('several_objects=True' in out) == (kind == 'jsonl')
    config = source_config(target, str(tmp_path / 'out'), 'train')
    dataset = DATASETS.build(dict(config, pipeline=loading_steps(target), test_mode=True,
                                  serialize_data=False))
    assert [(item['num_targets'], item.get('empty_target')) for item in dataset] == [
        (1, None), (0, True)]
    assert [item['gt_masks'].sum() for item in dataset] == [RING.sum(), 0]


@pytest.mark.parametrize('target', ['coco', 'parquet'])
def test_what_has_no_place_is_left_out_only_when_asked(lines, tmp_path, capsys, target):
    source = lines(dict(objects(RING), ignore=[encode_mask(DOT)], caption='x'), objects(DOT))
    message = error_of('jsonl', source, target, tmp_path / 'out')
    assert f'line 1 has `ignore`, `caption`, which {target} cannot store' in message
    assert names(tmp_path) == {'source'}
    convert('jsonl', source, target, tmp_path / 'out', '--lossy')
    assert '1 left out: ignore, 1 left out: caption' in capsys.readouterr().out


def test_a_mask_that_polygons_do_not_draw_is_refused(lines, tmp_path, monkeypatch):
    box = np.array([[3, 1], [11, 1], [11, 7], [3, 7]], np.int32)  # without its hole: 63 pixels
    monkeypatch.setattr(reason_seg_module, 'polygons_from_mask',
                        lambda mask: [box] if mask.any() else [])
    message = error_of('jsonl', lines(objects(RING)), 'reasonseg', tmp_path / 'out')
    assert f'IoU {RING.sum() / 63:.4f}' in message and names(tmp_path) == {'source'}


def test_images_of_other_formats_are_not_encoded_again(lines, tmp_path):
    source = lines(dict(objects(RING), image='b.webp'))
    Image.open(source / 'b.png').save(source / 'b.webp')
    message = error_of('jsonl', source, 'reasonseg', tmp_path / 'out')
    assert 'should be one of .jpg, .jpeg, .png in ReasonSeg\'s layout, but is .webp' in message
    convert('jsonl', source, 'jsonl', tmp_path / 'out', '--copy-images')
    assert names(tmp_path / 'out/images') == {'b.webp'}


def test_what_is_there_is_never_replaced(lines, tmp_path):
    (tmp_path / 'out').mkdir()
    source = lines(objects(RING))
    assert 'already exists; remove it or' in error_of('jsonl', source, 'coco', tmp_path / 'out')
    assert names(tmp_path) == {'out', 'source'} and not names(tmp_path / 'out')


def test_broken_pixels_are_found_before_anything_is_written(lines, tmp_path):
    source = lines(objects(RING), dict(objects(RING), image='c.png'))
    raw = bytearray((source / 'b.png').read_bytes())
    raw[raw.index(b'IDAT') + 8] ^= 255
    (source / 'c.png').write_bytes(raw)
    assert 'unreadable image (1):' in error_of('jsonl', source, 'coco', tmp_path / 'out')
    assert names(tmp_path) == {'source'}


def test_images_of_one_name_stay_apart(lines, tmp_path):
    source = lines(objects(RING), dict(objects(RING), image='more/b.png'), objects(DOT))
    (source / 'more').mkdir()
    Image.new('RGB', (20, 10), 'blue').save(source / 'more/b.png')
    convert('jsonl', source, 'jsonl', tmp_path / 'out', '--copy-images')
    rows = list(read_jsonl(tmp_path / 'out/train.jsonl'))
    assert [row['image'] for row in rows] == ['images/b.png', 'images/b_2.png', 'images/b.png']
    assert (tmp_path / 'out/images/b_2.png').read_bytes() == (source / 'more/b.png').read_bytes()
    convert('jsonl', source, 'coco', tmp_path / 'coco')
    coco = COCO(tmp_path / 'coco/instances.json')
    assert [coco.anns[i]['image_id'] for i in (1, 2, 3)] == [1, 2, 1]  # one mask in two images


def test_paths_to_images_hold_where_folders_are_links(lines, tmp_path):
    source = lines(objects(RING))
    (tmp_path / 'a/b').mkdir(parents=True)
    (tmp_path / 'a/source').symlink_to(source)
    (tmp_path / 'out').symlink_to('a/b')
    convert('jsonl', tmp_path / 'a/source', 'jsonl', tmp_path / 'out/new')
    (line, ) = read_jsonl(tmp_path / 'out/new/train.jsonl')
    assert line['image'] == '../../../source/b.png'
    assert (tmp_path / 'out/new' / line['image']).samefile(source / 'b.png')


def test_all_splits_are_checked_before_one_is_converted(lines, tmp_path):
    message = error_of('jsonl', lines(dict(objects='?')), 'coco', tmp_path / 'out',
                       '--split', 'train', 'val', 'test')
    assert 'wrong annotation (1):' in message and 'missing split (2):' in message


@pytest.mark.parametrize('arguments', [['--index-masks'], ['--images', 'x']])
def test_flags_of_masks_are_refused_elsewhere(lines, tmp_path, arguments, capsys):
    with pytest.raises(SystemExit):
        convert('jsonl', lines(objects(RING)), 'coco', tmp_path / 'out', *arguments)
    assert f'{arguments[0]} is for masks, but SRC is jsonl' in capsys.readouterr().err


@pytest.mark.parametrize('split', ['../x', 'a/b', '.', ''])
def test_splits_that_are_no_names_are_refused(lines, tmp_path, split, capsys):
    with pytest.raises(SystemExit):
        convert('jsonl', lines(objects(RING)) / 'train.jsonl', 'jsonl', tmp_path / 'out',
                '--split', split)
    assert f'but got {split!r}; give other folders' in capsys.readouterr().err


@pytest.mark.parametrize('option, message', [
    ('ann_file.x=1', '--source-options: `ann_file` is '),
    ('data_root=a,b', "--source-options: `data_root` should be str, but got ['a', 'b']"),
    ('data_prefix=x', "--source-options: `data_prefix` should be dict or None, but got 'x'")])
def test_source_options_that_do_not_fit(lines, tmp_path, option, message):
    source = lines(objects(RING))
    assert message in error_of('jsonl', source, 'coco', tmp_path / 'out', '--source-options',
                               option)
