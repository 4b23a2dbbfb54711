# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import shutil
import sys

import numpy as np
import pytest
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset

from mmdpad.datasets import ReasonSegDataset
from mmdpad.evaluation.provenance import (
    dataset_switches,
    describe_data,
    describe_environment,
    fingerprint_dataset,
    hash_config,
    package_versions,
    publish,
    published,
)


@pytest.fixture
def root(shapes_data, tmp_path):
    """The shapes world at a place of its own."""
    return shutil.copytree(shapes_data, tmp_path / 'elsewhere')


def fingerprint(root, split='test', **kwargs):
    return fingerprint_dataset(ReasonSegDataset(root, split, serialize_data=False, **kwargs))


def test_a_fingerprint_is_the_same_at_every_place(shapes_data, root):
    found = fingerprint(root)
    assert found == fingerprint(shapes_data)
    assert (found['items'], found['annotations'], found['files']) == (6, 6, 12)
    assert found['bytes'] == sum(path.stat().st_size for path in (root / 'test').iterdir())


@pytest.mark.parametrize('change', ['annotation', 'image size', 'image name', 'items', 'texts'])
def test_a_fingerprint_changes_with_the_data(change, root):
    before, kwargs = fingerprint(root), {}
    annotation, image = (sorted((root / 'test').glob(f'*.{kind}'))[0] for kind in ('json', 'jpg'))
    if change == 'annotation':  # of the same size
        content = annotation.read_text()
        annotation.write_text(content.replace('"is_sentence": true', '"is_sentence":  true')
                              if 'true' in content else content.replace('false', 'true '))
    elif change == 'image size':
        image.write_bytes(image.read_bytes() + b'\0')
    elif change == 'image name':
        for path in (annotation, image):
            path.rename(path.with_stem('a'))
    elif change == 'items':
        kwargs['num_samples'] = 5
    else:
        kwargs['texts'] = 'all'
        text = annotation.read_text()
        annotation.write_text(text.replace('"text": [', '"text": ["another", '))
    assert fingerprint(root, **kwargs)['sha256'] != before['sha256']


class Instances(BaseDataset):
    """As mmdet's data sets are: one file with all annotations, which items do not name."""

    def __init__(self, **kwargs):
        super().__init__(serialize_data=False, **kwargs)

    def load_data_list(self):
        return [dict(img_path='none.jpg', text='a', instances=[1, 2]), dict(instances=[])]


def test_annotation_files_and_instances_of_other_data_sets(tmp_path):
    file = tmp_path / 'instances.json'
    file.write_text('{}')
    dataset = Instances(ann_file=str(file))
    first = fingerprint_dataset(dataset)
    assert describe_data(dataset) == dict(data_root='instances.json', data=first)
    assert describe_data(Instances(data_root=str(tmp_path)))['data_root'] == tmp_path.name
    assert (first['items'], first['annotations'], first['files'], first['bytes']) == (2, 2, 1, 2)
    file.write_text('[]')
    assert fingerprint_dataset(Instances(ann_file=str(file)))['sha256'] != first['sha256']


def test_masks_in_tables_are_told_apart_though_files_are_as_long():
    class Table(BaseDataset):
        def load_data_list(self):
            return [dict(img_id=0, instances=[dict(mask=dict(size=[2, 2], counts=self.counts))])]

    def fingerprint_of(counts):
        Table.counts = counts
        return fingerprint_dataset(Table(serialize_data=False))

    assert fingerprint_of('04') == fingerprint_of('04') != fingerprint_of('13')
    assert fingerprint_of(np.array([1, 3])) == fingerprint_of([1, 3])  # as numbers of any kind
    assert fingerprint_of(b'13') != fingerprint_of(b'04')  # no plain data, but text


def test_wrapped_data_sets_count_together(root):
    parts = [ReasonSegDataset(root, split, serialize_data=False) for split in ('val', 'test')]
    joined = ConcatDataset(parts)
    assert fingerprint_dataset(joined)['items'] == 10
    assert fingerprint_dataset(RepeatDataset(parts[1], 2)) == fingerprint(root)
    assert dataset_switches(joined) == dict(
        dataset='ReasonSegDataset', split=['val', 'test'], texts='first', num_samples=None,
        sample_seed=9, several_objects=False)
    parts[0].split_file = '/somewhere/refs(unc).p'
    assert dataset_switches(parts[0])['split_file'] == 'refs(unc).p'


def test_a_config_counts_by_what_it_computes():
    config = ConfigDict(a=1, data='data/x', weights='local-dir:/opt/x/clip', work_dir='here',
                        b=dict(c=(1, 2), kind=list))
    first = hash_config(config)
    assert first == hash_config(dict(b=dict(kind=list, c=[1, 2], out_file='there/a.jsonl'), a=1,
                                     data='data/x', weights='local-dir:/srv/clip',
                                     work_dir='there'))
    for change in (dict(a=2), dict(weights='local-dir:/srv/other'), dict(data='data/y'),
                   dict(b=dict(c=(1, 2), kind=dict))):
        assert hash_config({**config, **change}) != first
        assert hash_config(Config({**config, **change})) != first
    assert hash_config(Config(config)) == first


def test_environment(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tools/test.py', 'a config.py', '--out', 'x'])
    about = describe_environment(7)
    assert about['command'] == "python tools/test.py 'a config.py' --out x" and about['seed'] == 7
    assert {'python', 'torch', 'mmdet', 'mmengine'} <= about['versions'].keys()
    assert package_versions(('torch', 'no-such-package')).keys() == {'python', 'torch'}
    assert about['device']


def test_what_was_published_is_known_until_it_is_withdrawn():
    publish(dict(protocol=dict(split='val')))
    assert published() == dict(protocol=dict(split='val'))
    publish(None)
    assert published() == {}
