# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import json

import pytest

from mmdpad.datasets import DatasetError
from mmdpad.datasets.referring_annotation import (
    Reference,
    parse_reference,
    read_instances,
    read_references,
)

IMAGE = dict(id=9, file_name='a.jpg', height=4, width=6)
ANNOTATION = dict(id=1, image_id=9, segmentation=[])


def ref(**fields) -> dict:
    sentences = [dict(raw='A CAT', sent_id=4, sent='a cat'), dict(raw='left', sent_id=5)]
    return dict(ref_id=2, ann_id=1, image_id=9, split='val', sentences=sentences) | fields


def test_a_reference():
    assert parse_reference(ref(), 'f') == Reference(2, 9, (1, ), ('A CAT', 'left'), (4, 5))


@pytest.mark.parametrize(('ann_id', 'expected'), [
    (0, (0, )), ([3, 1], (3, 1)), ([-1], ()), (-1, ())
])
def test_annotations_of_a_reference(ann_id, expected):
    assert parse_reference(ref(ann_id=ann_id), 'f').ann_ids == expected


def test_a_reference_may_have_no_sentence():
    assert parse_reference(ref(sentences=[]), 'f').texts == ()


@pytest.mark.parametrize('fields', [
    dict(ref_id='2'), dict(ref_id=None), dict(image_id=True), dict(ann_id=None), dict(ann_id=[]),
    dict(ann_id=[1, -1]), dict(ann_id='1'), dict(ann_id=[None]), dict(sentences=None),
    dict(sentences=['a cat']), dict(sentences=[dict(raw='a cat')]),
    dict(sentences=[dict(raw=b'a cat', sent_id=1)]), dict(sentences=[dict(sent_id=1)]),
])
def test_a_reference_of_another_form_is_named(fields):
    with pytest.raises(DatasetError, match='A reference in the_file should have `') as caught:
        parse_reference(ref(**fields), 'the_file')
    assert caught.value.kind == 'wrong reference' and len(str(caught.value)) < 300


@pytest.mark.parametrize('content', ['{}', '[]', '[1]', '[{}]', '[{"split": null}]'])
def test_other_json_is_no_list_of_references(content, tmp_path):
    path = tmp_path / 'refs.json'
    path.write_text(content)
    with pytest.raises(DatasetError, match=r'refs\.json should contain a list of references'):
        read_references(str(path))


@pytest.mark.parametrize('content', [b'', b'{"images": [', b'\xff\xfe{', b'[' * 200_000])
def test_broken_json_is_named(content, tmp_path):
    path = tmp_path / 'instances.json'
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r'instances\.json should contain JSON, .*; restore'):
        read_instances(str(path))


def test_instances(tmp_path):
    path = tmp_path / 'instances.json'
    path.write_text(json.dumps(dict(images=[IMAGE], annotations=[ANNOTATION], categories=[])))
    assert read_instances(str(path))['annotations'] == [ANNOTATION]


@pytest.mark.parametrize(('instances', 'name'), [
    ([], 'images'), (dict(annotations=[]), 'images'), (dict(images={}, annotations=[]), 'images'),
    (dict(images=[dict(IMAGE, width='6')], annotations=[]), 'images'),
    (dict(images=[dict(id=9)], annotations=[]), 'images'),
    (dict(images=[IMAGE], annotations=[dict(id=1)]), 'annotations'),
])
def test_instances_of_another_form_are_named(instances, name, tmp_path):
    path = tmp_path / 'instances.json'
    path.write_text(json.dumps(instances))
    with pytest.raises(DatasetError, match=rf'`{name}` of .*instances\.json should be a list of '
                       'dicts with `id`, '):
        read_instances(str(path))
