# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Annotations and images of a stranger, as data sets and the inferencer meet them."""
from __future__ import annotations

import json
import time

import numpy as np
import pytest
from PIL import Image

from mmdpad.apis.inputs import pair_queries
from mmdpad.datasets import (
    DatasetError,
    JsonLinesDataset,
    MaskFolderDataset,
    ReasonSegDataset,
    ReferringSegDataset,
)
from mmdpad.geometry.masks import segmentation_rle
from mmdpad.registry import TRANSFORMS

ANNOTATIONS = pytest.mark.promise(
    'Files', 'Annotations that are deep, huge, of wrong types, or ask for all memory or time',
    'one list of errors before work starts, which names each file or line')
NO_NUMBERS = ('1', None, True, [], {})
BOX = [2, 2, 8, 2, 8, 8, 2, 8]


def problems_of(build) -> list[str]:
    with pytest.raises(DatasetError) as caught:
        build()
    return [str(problem) for problem in caught.value.problems]


@ANNOTATIONS
def test_reason_seg(write_pair, tmp_path, tried):
    texts = ['{"a":' * 10**5, '[' * 10**5, '1' * 10**5, 'null', '[]', '{}', '"a"', '\x00', '',
             '{"text": ["a"], "is_sentence": false, "shapes": ' + '[' * 10**4 + ']' * 10**4 + '}']
    noise = np.random.default_rng(0).integers(0, 20, (2500, 2)).tolist()
    polygons = [[('a', noise)], [('a', [[0, 0], [5, 9]])] * 1001,
                *([('a', [[0, 0], [9, number], [5, 5]])] for number in NO_NUMBERS)]
    for i, shapes in enumerate(polygons):
        write_pair(tmp_path / 'val', f'shape_{i}', polygons=shapes)
    for i, text in enumerate(texts):
        _, path = write_pair(tmp_path / 'val', f'text_{i}')
        path.write_text(text)
    started = time.perf_counter()
    problems = problems_of(lambda: ReasonSegDataset(tmp_path, 'val'))
    seconds = time.perf_counter() - started
    assert len(problems) == len(polygons) + len(texts)
    for name in (*(f'shape_{i}.json' for i in range(len(polygons))),
                 *(f'text_{i}.json' for i in range(len(texts)))):
        assert any(name in problem for problem in problems), name
    tried(f'ReasonSeg: {len(problems)} files in {seconds:.1f} s')


def lines(folder, *changes) -> JsonLinesDataset:
    Image.new('RGB', (20, 10)).save(folder / 'a.png')
    line = dict(id='a', image='a.png', texts=['what?'], objects=[[BOX]])
    (folder / 'a.jsonl').write_text('\n'.join(
        change if isinstance(change, str) else json.dumps(dict(line, id=i, **change))
        for i, change in enumerate(changes)))
    return JsonLinesDataset(str(folder / 'a.jsonl'))


@ANNOTATIONS
def test_json_lines(tmp_path, tried):
    changes = [
        '{"a":' * 10**5, '1' * 10**5, 'null', '\x00', *(
            dict(objects=[[[0, 0, number, 9, 9, 9]]]) for number in NO_NUMBERS),
        dict(objects=[dict(size=[20, 10], counts=[200])]), dict(height=11), dict(height=-10),
        dict(objects=[dict(size=[10, 20], counts=None)]), dict(height='10'),
        dict(objects=[[BOX] * 1001]), dict(other_boxes=[[0, 0, '9', 1]]), dict(texts=[[]] * 9),
        dict(objects=[[(np.arange(2500) % 20).tolist()]])]
    assert len(lines(tmp_path, {})) == 1
    problems = problems_of(lambda: lines(tmp_path, *changes))
    for number in range(1, len(changes) + 1):
        assert any(f'a.jsonl, line {number}' in problem for problem in problems), number
    tried(f'JSON lines: {len(changes)} lines')


@ANNOTATIONS
def test_coco(tmp_path, monkeypatch, tried):
    Image.new('RGB', (20, 10)).save(tmp_path / 'a.png')
    masks = [[[0, 0, 9, number, 5, 5]] for number in NO_NUMBERS]
    masks += [dict(size=[20, 10], counts=[200]), [BOX] * 1001]
    sizes = [(10, 20)] * len(masks) + [(20, 10), (10, 21), (-1, 20), (0, 0)]
    masks += [[BOX]] * 4
    image = [dict(id=i, file_name='a.png', height=height, width=width)
             for i, (height, width) in enumerate(sizes)]
    (tmp_path / 'instances.json').write_text(json.dumps(dict(images=image, annotations=[
        dict(id=i, image_id=i, segmentation=mask) for i, mask in enumerate(masks)])))
    (tmp_path / 'refs.json').write_text(json.dumps([
        dict(ref_id=i, image_id=i, ann_id=i, split='val', sentences=[dict(sent_id=i, raw='a')])
        for i in range(len(masks))]))
    drawn_in = set()

    def spy(segmentation, height, width):
        drawn_in.add((height, width))
        return segmentation_rle(segmentation, height, width)
    monkeypatch.setattr('mmdpad.datasets.transforms.loading.segmentation_rle', spy)
    problems = problems_of(lambda: ReferringSegDataset(
        str(tmp_path), 'instances.json', 'refs.json', dict(img_path=''), split='val'))
    assert len(problems) >= len(masks) and drawn_in == {(10, 20)}  # never in a file's size
    for text in ('{"a":' * 10**5, '[]', '{"images": 3, "annotations": [3]}', 'NaN'):
        (tmp_path / 'instances.json').write_text(text)
        assert 'instances.json' in problems_of(lambda: ReferringSegDataset(
            str(tmp_path), 'instances.json', 'refs.json', dict(img_path=''), split='val'))[0]
    tried(f'COCO: {len(masks)} masks and sizes, 4 broken files')


@ANNOTATIONS
def test_a_table_and_masks(tmp_path, tried):
    for name in ('images', 'masks'):
        (tmp_path / name).mkdir()
    Image.new('RGB', (60, 40)).save(tmp_path / 'images/a.jpg')
    values = np.arange(2400, dtype=np.uint16).reshape(40, 60)
    Image.fromarray(values).save(tmp_path / 'masks/a.png')
    tables = ('image,question\na.jpg,"' + 'x' * 10**6, '\x00' * 99,
              'image,question\n' + ',' * 10**5, 'image,question\n\x00,\x00',
              'image,question\n../../../etc/passwd,what?',
              'image,question\na.jpg,what?')
    for text in tables:
        (tmp_path / 'questions.csv').write_text(text)
        problems = problems_of(lambda: MaskFolderDataset(
            str(tmp_path), index_masks=True, several_objects=True))
        assert str(tmp_path) in problems[0] and len(problems[0]) < 1000
    assert 'a.png should mark at most 1000 objects, but has 2399 values' in problems[0]
    tried(f'masks: {len(tables)} tables')


@pytest.mark.promise('Files', 'An image of more pixels than the limit (a decompression bomb)',
                     'an error by its header that names file, size, limit and config field; '
                     'nothing is decoded')
def test_the_limit_of_a_pipeline_holds_when_a_data_set_is_built(write_pair, tmp_path, tried):
    image, _ = write_pair(tmp_path / 'val')
    lines(tmp_path, {})

    def pipeline(limit):
        return [TRANSFORMS.build(dict(type='LoadReasoningImage', max_pixels=limit))]
    for build in (
            lambda limit: ReasonSegDataset(tmp_path, 'val', pipeline=pipeline(limit)),
            lambda limit: JsonLinesDataset(str(tmp_path / 'a.jsonl'), pipeline=pipeline(limit))):
        assert build(200)[0]['img'].shape == (10, 20, 3)
        message, = problems_of(lambda build=build: build(199))
        assert '0.000199 megapixels, but is 20 x 10; make it smaller, or set' in message
    with pytest.raises(DatasetError, match='a.jpg should have at most 0.000199 megapixels'):
        pair_queries(image, 'what?', 199)
    assert len(pair_queries(image, 'what?', 200)) == 1
    tried('data sets as they are built, the inferencer before it answers')
