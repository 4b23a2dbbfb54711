# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A config's data sets are checked as a whole, by the tool, by training and by testing."""
from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.model import BaseDataPreprocessor
from PIL import Image

from mmdpad.datasets.checking import find_datasets
from mmdpad.visualization.regions import BOX, POINT, TRUTH

ROOT = Path(__file__).parents[2]
SQUARE = [[2, 3, 6, 3, 6, 7, 2, 7]]
CHECK = runpy.run_path(str(ROOT / 'tools/analysis_tools/check_dataset.py'))['main']


def loader(**dataset) -> dict:
    return dict(batch_size=1, num_workers=0, dataset=dataset,
                sampler=dict(type='DefaultSampler', shuffle=False))


def reasonseg(root, split) -> dict:
    steps = [dict(type='LoadReasoningImage'), dict(type='LoadReasonSegMask')]
    return dict(type='ReasonSegDataset', data_root=str(root), split=split, pipeline=steps,
                serialize_data=False)


@pytest.fixture
def broken(tmp_path, write_pair) -> dict:
    """Data loaders: ReasonSeg's layout and JSON lines with faults, and a split that is not
    there."""
    folder = tmp_path / 'train'
    for name in ('good', 'no_image', 'no_annotation', 'no_json'):
        write_pair(folder, name)
    (folder / 'no_image.jpg').unlink()
    (folder / 'no_annotation.json').unlink()
    (folder / 'no_json.json').write_text('{')
    write_pair(folder, 'outside', polygons=[('target', [[50, 50], [60, 50], [60, 60]])])
    write_pair(folder, 'no_text', text=['...'])
    (tmp_path / 'empty').mkdir()
    Image.new('RGB', (20, 10)).save(tmp_path / 'a.png')
    line = dict(image='a.png', texts=['x'])
    lines = [dict(line, id=i, objects=[mask]) for i, mask in (
        ('twice', SQUARE), ('twice', SQUARE), ('size', dict(size=[20, 10], counts=[200])),
        ('rle', dict(size=[10, 20], counts=None)), ('outside', [[50, 50, 60, 50, 60, 60]]))]
    lines += [dict(line, id=f'lost{i}', image=f'lost{i}.png', objects=[SQUARE]) for i in range(8)]
    (tmp_path / 'b.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    both = dict(type='ConcatDataset', datasets=[
        reasonseg(tmp_path, 'train'),
        dict(type='RepeatDataset', times=2,
             dataset=dict(type='JsonLinesDataset', ann_file=str(tmp_path / 'b.jsonl')))])
    return dict(train_dataloader=loader(**both),
                val_dataloader=loader(**reasonseg(tmp_path, 'empty')),
                test_dataloader=loader(**reasonseg(tmp_path, 'none')))


def write_config(path: Path, config: dict) -> str:
    """A config file; mmengine's own writer takes seconds to make it pretty."""
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in config.items()))
    return str(path)


def check(tmp_path, loaders: dict, *arguments) -> int:
    """Exit status of the tool."""
    return CHECK([write_config(tmp_path / 'config.py', loaders), *arguments])


def test_everything_that_is_wrong_is_listed_with_counts_and_examples(broken, tmp_path, capsys):
    assert check(tmp_path, broken) == 1
    out = capsys.readouterr().out
    heads = [re.sub(r' the data set .*', '', line) for line in out.splitlines()
             if line.endswith(':')]
    assert heads == [
        'train_dataloader, ReasonSegDataset: 5 problem(s) in',
        'missing annotation (1):', 'missing image (1):', 'unusable file (1):',
        'empty question (1):', 'empty mask (1):',
        'train_dataloader, JsonLinesDataset: 12 problem(s) in',
        'duplicate id (1):', 'wrong mask (2):', 'empty mask (1):', 'missing image (8):',
        'val_dataloader, ReasonSegDataset: 1 problem(s) in', 'empty split (1):',
        'test_dataloader, ReasonSegDataset: 1 problem(s) in', 'missing split (1):']
    assert '... and 3 more' in out and 'lost7.png' not in out
    assert check(tmp_path, broken, '--all') == 1
    out = capsys.readouterr().out
    assert ' more' not in out and 'lost7.png does not exist' in out


def test_good_data_sets_are_counted(photos, tmp_path, capsys):
    loaders = dict(train_dataloader=loader(**reasonseg(photos, 'val'), texts='all'),
                   val_dataloader=loader(**reasonseg(photos, 'val')),
                   test_dataloader=loader(**reasonseg(photos, 'val')))
    assert check(tmp_path, loaders, '--load', '2') == 0
    assert capsys.readouterr().out.splitlines() == [
        'train_dataloader, ReasonSegDataset: ok: 12 items, 10 images, 2 loaded',
        'val_dataloader, test_dataloader, ReasonSegDataset: ok: 10 items, 10 images, 2 loaded']


def test_loading_finds_broken_pixels(tmp_path, write_pair, capsys):
    for name in 'abdc':  # c is the third of four, the second half's first
        image, _ = write_pair(tmp_path / 'train', name)
    raw = bytearray(image.read_bytes())
    table = raw.index(b'\xff\xc4') + 5  # how many Huffman codes there are of each length
    raw[table:table + 16] = b'\xff' * 16
    image.write_bytes(raw)
    loaders = dict(train_dataloader=loader(**reasonseg(tmp_path, 'train')))
    assert check(tmp_path, loaders) == 0
    assert check(tmp_path, loaders, '--load', '1') == 0
    assert check(tmp_path, loaders, '--load', '2') == 1
    assert check(tmp_path, loaders, '--load', 'all') == 1
    assert 'unreadable image (1):' in capsys.readouterr().out


def test_a_config_without_data_is_named(tmp_path):
    with pytest.raises(SystemExit, match='config.py has no data sets'):
        check(tmp_path, dict(train_dataloader=None))


def test_a_data_set_of_mmdet_without_its_file_is_a_problem(tmp_path, capsys):
    loaders = dict(val_dataloader=loader(type='CocoDataset', ann_file=str(tmp_path / 'no.json')))
    assert check(tmp_path, loaders) == 1
    out = capsys.readouterr().out
    assert 'val_dataloader, CocoDataset: 1 problem(s): ' in out and 'no.json' in out


def test_lists_of_data_sets_are_opened():
    one, two = dict(type='A'), dict(type='B', data_root='dataset')
    config = dict(val_dataloader=dict(dataset=dict(type='W', datasets=[one, dict(
        type='W', dataset=[two])])), test_dataloader=dict(dataset=one))
    assert list(find_datasets(config)) == [('val_dataloader, test_dataloader', one),
                                           ('val_dataloader', two)]


def test_annotations_without_a_target_are_a_note(tmp_path, write_pair, capsys):
    for name in 'abc':
        write_pair(tmp_path / 'train', name, **(dict(polygons=()) if name == 'b' else {}))
    data = reasonseg(tmp_path, 'train')  # to train on and, just so, to evaluate on
    assert check(tmp_path, dict(train_dataloader=loader(**data), val_dataloader=loader(**data),
                                test_dataloader=loader(**data, several_objects=True)),
                 '--load', 'all') == 0
    out = [line for line in capsys.readouterr().out.splitlines() if 'WARNING' not in line]
    path = tmp_path / 'train/b.json'
    assert out == [
        'train_dataloader, ReasonSegDataset: ok: 2 items, 2 images, 2 loaded',
        f'  note: 1 annotation(s) mark no target and are not used in training: {path}',
        'val_dataloader, ReasonSegDataset: ok: 3 items, 3 images, 3 loaded',
        f'  note: 1 annotation(s) mark no target and are scored by the protocol: {path}',
        'test_dataloader, ReasonSegDataset: ok: 3 items, 3 images, 3 loaded']


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_training_and_testing_refuse_with_the_same_words(tool, broken, monkeypatch, tmp_path,
                                                         capsys):
    """The list of problems ends the program in place of a traceback."""
    loaders = {f'{tool}_dataloader': loader(**reasonseg(tmp_path, 'train'))}
    parts = dict(train=dict(train_cfg=dict(by_epoch=False, max_iters=1),
                            optim_wrapper=dict(optimizer=dict(type='SGD', lr=1))),
                 test=dict(test_cfg={}, test_evaluator=[dict(type='ReasonSegMetric')]))[tool]
    # Any module will do: data sets are built before it takes a step.
    monkeypatch.setattr(BaseDataPreprocessor, 'train_step', None, raising=False)
    path = write_config(tmp_path / 'run.py', dict(
        loaders, **parts, model=dict(type='BaseDataPreprocessor'), default_scope='mmdpad',
        log_level='ERROR', experiment_name=tmp_path.name))
    monkeypatch.setattr(sys, 'argv', [f'{tool}.py', path, '--work-dir', str(tmp_path / 'w')])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / f'tools/{tool}.py'), run_name='__main__')
    capsys.readouterr()
    assert check(tmp_path, loaders) == 1
    assert capsys.readouterr().out == (
        f'{tool}_dataloader, ReasonSegDataset: {caught.value}\n')


def test_pictures_of_the_items(shapes_data, tmp_path, run_here):
    """In place of mmdet's browse_dataset.py."""
    roots = [f'{split}_dataloader.dataset.data_root={shapes_data}'
             for split in ('train', 'val', 'test')]
    tool = ['tools/analysis_tools/check_dataset.py', 'configs/dpad/tiny_shapes.py']
    told = run_here(*tool, '--load', 2, '--show-dir', tmp_path / 'seen', '--cfg-options', *roots)
    assert told.returncode == 0, told.stderr
    assert sorted(path.name for path in (tmp_path / 'seen').iterdir()) == [
        f'{split}_{number:04}.png' for split, number in
        (('test', 0), ('test', 3), ('train', 0), ('train', 4), ('val', 0), ('val', 2))]
    picture = np.asarray(Image.open(tmp_path / 'seen/train_0000.png'))
    for color in (TRUTH, BOX, POINT):
        assert (picture == np.array(color, np.uint8)).all(axis=2).any()
    told = run_here(*tool, '--show-dir', tmp_path / 'seen')
    assert told.returncode == 2 and 'add --load N' in told.stderr
