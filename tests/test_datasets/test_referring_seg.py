# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import json
import os
import pickle
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation import RefSegMetric
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from PIL import Image
from torch.utils.data import DataLoader

from mmdpad.datasets import DatasetError, ReferringSegDataset
from mmdpad.datasets.transforms.loading import check_segmentation
from mmdpad.utils.safe_pickle import load_safe_pickle

ROOT = Path(__file__).parents[1] / 'data/refcoco'
PIPELINE = [dict(type=name) for name in ('LoadReasoningImage', 'LoadInstanceMasks',
                                         'ModelImageResize',
                                         'TargetsFromMask', 'PackReasoningInputs')]


def build(name='refcoco', split='testA', root=ROOT, **kwargs) -> ReferringSegDataset:
    refs = dict(grefcoco='grefs(unc).json', refcocog='refs(umd).p').get(name, 'refs(unc).p')
    settings = dict(ann_file=f'{name}/instances.json', split_file=f'{name}/{refs}', split=split,
                    several_objects=name == 'grefcoco',
                    serialize_data=False)  # mmengine collects garbage there: most of a second
    return ReferringSegDataset(data_root=str(root), data_prefix=dict(img_path='train2014/'),
                               **{**settings, **kwargs})


def infos(dataset) -> list[dict]:
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def questions(*args, **kwargs) -> list[str]:
    return [item['question'] for item in infos(build(*args, **kwargs))]


def test_the_data_are_what_their_script_makes():
    script = runpy.run_path(str(ROOT / 'make_refcoco.py'))
    for entries, name in dict(UNC='refcoco/refs(unc).p', PLUS='refcoco+/refs(unc).p',
                              UMD='refcocog/refs(umd).p', GOOGLE='refcocog/refs(google).p').items():
        refs = script['make_refs'](script[entries])
        assert (ROOT / name).read_bytes() == script['python2_pickle'](refs)
        # Python 3 reads the same without any care, as it does the published files.
        assert pickle.loads((ROOT / name).read_bytes()) == refs
    grefs = json.loads((ROOT / 'grefcoco/grefs(unc).json').read_bytes())
    assert grefs == script['make_grefs']()
    for path in ROOT.glob('*/instances.json'):
        assert json.loads(path.read_bytes()) == script['make_instances'](list(script['IMAGES']))
    assert sum(path.stat().st_size for path in ROOT.rglob('*.*')) < 50_000


# Items

def test_one_item_per_expression_in_the_order_of_the_file():
    items = infos(build())
    assert [(item['ref_id'], item['question']) for item in items] == [
        (3, 'blue triangle'), (3, 'Right, pointing down...'), (3, 'not red'),
        (4, 'red square'), (4, 'left'),
        (5, 'lower right'),  # a second reference to the object of 3
        (6, 'red thing in the corner')]
    assert [item['ann_ids'] for item in items] == [[102]] * 3 + [[101]] * 2 + [[102], [302]]


def test_an_item_before_the_pipeline():
    image = ROOT / 'train2014/COCO_train2014_000000000009.jpg'
    assert build().get_data_info(1) == dict(
        img_id=9, img_path=str(image),
        texts=['blue triangle', 'Right, pointing down...', 'not red'], text_index=1,
        question='Right, pointing down...', is_sentence=False, num_targets=1, ref_id=3,
        ann_ids=[102], text=['right, pointing down...'],
        instances=[dict(mask=[[34.5, 20.25, 58, 20.25, 46, 44]], ignore_flag=0)], sample_idx=1)


def test_the_first_expression_of_each_reference():
    assert questions(text_mode='select_first') == [
        'blue triangle', 'red square', 'lower right', 'red thing in the corner']


@pytest.mark.parametrize(('name', 'split', 'expected'), [
    ('refcoco', 'testB', ['yellow triangle']),
    ('refcoco+', 'testA', ['red', 'largest square']),
    ('refcocog', 'val', ['the green ground that everything stands on']),
    ('refcocog', 'test', ['The red square above and left of the triangle.', 'the red square',
                          'small yellow triangle, the café sign']),
])
def test_every_data_set_is_read(name, split, expected):
    assert questions(name, split) == expected


def test_the_split_of_google():
    assert questions('refcocog', 'val', split_file='refcocog/refs(google).p') == ['red square']


def test_grefcoco_has_several_objects_or_none():
    val, test = infos(build('grefcoco', 'val')), infos(build('grefcoco', 'testA'))
    assert [(item['question'], item['ann_ids']) for item in val] == [
        ('red square and the pair of blue squares', [101, 103]), ('the person with a hat', [])]
    # The reference without a sentence (200003) has no item, and the crowd is left out.
    assert [item['ann_ids'] for item in test] == [[102], [101, 102], [101, 102]]
    for item in val + test:
        assert item['num_targets'] == len(item['instances']) == len(item['ann_ids'])


def test_several_objects_have_to_be_asked_for():
    with pytest.raises(DatasetError) as caught:
        build('grefcoco', 'val', several_objects=False)
    (problem, ) = caught.value.problems
    assert problem.kind == 'not one target' and 'but has 2; set' in str(problem)


def test_a_crowd_alone_is_a_target(tmp_path):
    def only_the_crowd(refs):
        refs[3]['ann_id'] = 900100000009

    items = infos(damaged(tmp_path, refs=only_the_crowd))
    assert items[0]['ann_ids'] == [900100000009]


@pytest.mark.parametrize('mode', ['random', 'concat', 'all'])
def test_other_text_modes_are_refused(mode):
    with pytest.raises(ValueError, match=rf"`text_mode` should be one of .* but got '{mode}'; .*"
                       "'random' would ask different questions in each run, and 'concat' joins"):
        build(text_mode=mode)


# Pipelines

def test_the_pipeline_of_a_reasoning_data_set():
    item = build(pipeline=PIPELINE)[3]
    assert item['inputs']['image'].shape == (3, 48, 64)
    assert item['inputs']['model_image'].shape == (3, 840, 840)
    sample = item['data_samples']
    assert (sample.question, sample.is_sentence, sample.ori_shape) == ('red square', False,
                                                                      (48, 64))
    # COCO's polygon from 4, 6 to 24, 26 covers the pixels 4 .. 23 and 6 .. 25.
    expected = np.zeros((48, 64), bool)
    expected[6:26, 4:24] = True
    assert np.array_equal(sample.gt_instances.masks[0], expected)
    assert sample.gt_instances.bboxes.tolist() == [[4, 6, 23, 25]]
    # 840 / 64 = 13.125 and 840 / 48 = 17.5; halves go up: 52.5 -> 53, 105, 301.875 -> 302, 437.5.
    assert sample.model_targets.bboxes.tolist() == [[53, 105, 302, 438]]


def test_the_pipeline_with_several_objects_and_none():
    both, none = (build('grefcoco', 'val', pipeline=PIPELINE)[i]['data_samples'] for i in (0, 1))
    assert both.gt_instances.masks.shape == (2, 48, 64) and len(both.model_targets) == 2
    # The second object is two squares of 6 x 6 and 8 x 6 pixels.
    assert both.gt_instances.masks.sum(dim=(1, 2)).tolist() == [400, 84]
    assert none.gt_instances.masks.shape == (0, 48, 64) and len(none.model_targets) == 0


def mmdet_loader(name: str, **settings) -> DataLoader:
    """The loader of mmdet's own config, the type of data set replaced."""
    loader = Config.fromstring(f'_base_ = "mmdet::_base_/datasets/{name}.py"',
                               '.py').test_dataloader
    loader.dataset.update(type='mmdpad.ReferringSegDataset', data_root=str(ROOT))
    loader.update(settings)
    return Runner.build_dataloader(loader, seed=0)


@pytest.mark.parametrize(('name', 'count'), [('refcoco', 4), ('refcoco+', 1), ('refcocog', 2)])
def test_mmdets_pipeline_and_metric(name, count):
    """A prediction that is the upper half of each target has half of its area at mmdet's scale."""
    metric, seen, total = RefSegMetric(), 0, [0, 0]
    for batch in mmdet_loader(name, num_workers=0, persistent_workers=False):
        for sample in batch['data_samples']:
            target = sample.gt_masks.to_tensor(torch.bool, 'cpu')
            rows = torch.where(target[0].any(dim=1))[0]
            mask = target.clone()
            mask[:, rows[len(rows) // 2]:] = False
            total[0] += int(mask.sum())
            total[1] += int(target.sum())
            sample.pred_instances = InstanceData(masks=mask)
            metric.process(batch, [sample.to_dict()])
            seen += 1
            assert len(sample.text) == len(target) == 1
    metrics = metric.evaluate(seen)
    assert seen == count
    assert float(metrics['cIoU']) == pytest.approx(100 * total[0] / total[1], abs=1e-3)
    assert 20 < float(metrics['mIoU']) < 80


def test_mmdets_workers_keep_the_order():
    texts = [sample.text for batch in mmdet_loader('refcoco') for sample in batch['data_samples']]
    assert texts == [['blue triangle'], ['red square'], ['lower right'],
                     ['red thing in the corner']]


# What is wrong with the files

def damaged(tmp_path, refs=None, instances=None, **kwargs) -> ReferringSegDataset:
    """RefCOCO's test data after a change of its references or COCO entries, made in place."""
    shutil.copytree(ROOT / 'train2014', tmp_path / 'train2014', dirs_exist_ok=True)
    content = (load_safe_pickle(ROOT / 'refcoco/refs(unc).p'),
               json.loads((ROOT / 'refcoco/instances.json').read_bytes()))
    for change, value, name in zip((refs, instances), content, ('refs', 'instances'), strict=True):
        if change:
            change(value)
        (tmp_path / f'{name}.json').write_text(json.dumps(value))
    return build(root=tmp_path, ann_file='instances.json', split_file='refs.json', **kwargs)


def found(tmp_path, **kwargs) -> list[tuple[str, str]]:
    """Kind and text of each problem."""
    with pytest.raises(DatasetError) as caught:
        damaged(tmp_path, **kwargs)
    return [(problem.kind, str(problem)) for problem in caught.value.problems]


def test_undamaged_files_are_fine(tmp_path):
    assert len(damaged(tmp_path)) == 7


def test_missing_files_are_named_together(tmp_path):
    with pytest.raises(DatasetError) as caught:
        build(root=tmp_path)
    assert [problem.kind for problem in caught.value.problems] == ['missing file'] * 2
    assert 'refs(unc).p' in str(caught.value) and 'instances.json' in str(caught.value)


@pytest.mark.parametrize('split', ['test', 'testa', ''])
def test_a_split_that_is_not_there(split):
    with pytest.raises(DatasetError, match=r"`split` should be one of \['testA', 'testB', 'train', "
                       rf"'val'\], which .*refs\(unc\)\.p has, but got '{split}'"):
        build(split=split)


def test_code_in_a_file_of_references_is_not_run(tmp_path):
    path = tmp_path / 'refs.p'
    path.write_bytes(b'cos\nsystem\n(S"touch %s"\ntR.' % os.fsencode(tmp_path / 'victim'))
    with pytest.raises(DatasetError, match=r'refs\.p should hold plain data only'):
        build(split_file=str(path))
    assert not (tmp_path / 'victim').exists()


def test_duplicate_ids(tmp_path):
    def repeat_refs(refs):
        refs += [refs[3], refs[0]]  # the last is of another split

    def repeat_entries(instances):
        instances['images'] += [instances['images'][0], instances['images'][1]]
        instances['annotations'] += [instances['annotations'][i] for i in (1, 3)]

    problems = found(tmp_path, refs=repeat_refs, instances=repeat_entries)
    assert {kind for kind, _ in problems} == {'duplicate id'}
    assert [text.split(' has ')[1].split(';')[0] for _, text in problems] == [
        'the `ref_id` 3 2 times', 'the image id 9 2 times', 'the annotation id 102 2 times']


def test_references_to_what_is_not_there(tmp_path):
    def change(refs):
        refs[3].update(ann_id=5)
        refs[4].update(image_id=77)
        refs[6].update(image_id=9)

    problems = found(tmp_path, refs=change)
    assert [kind for kind, _ in problems] == [
        'unknown annotation', 'unknown image', 'wrong image', 'wrong image']
    assert 'names the annotation 5, which is not in ' in problems[0][1]
    assert 'names the image 77, which is not in ' in problems[1][1]
    assert 'the annotation 302 in image 9, but it belongs to image 30 in' in problems[3][1]


def test_images_that_are_missing_broken_or_of_another_size(tmp_path):
    damaged(tmp_path)  # writes the files
    names = [f'COCO_train2014_{i:012d}.jpg' for i in (9, 25, 30)]
    folder = tmp_path / 'train2014'
    (folder / names[0]).unlink()
    (folder / names[1]).write_bytes(b'not an image')  # of other splits only
    Image.new('RGB', (48, 64)).save(folder / 'turned.jpg')
    (folder / 'turned.jpg').replace(folder / names[2])
    with pytest.raises(DatasetError) as caught:
        build(root=tmp_path, ann_file='instances.json', split_file='refs.json')
    problems = caught.value.problems
    assert [problem.kind for problem in problems] == ['missing image', 'wrong image size']
    assert f'{names[0]} does not exist' in str(problems[0])
    assert f'{names[2]} should be 64 x 48 pixels' in str(problems[1])
    assert 'but is 48 x 64;' in str(problems[1])


@pytest.mark.parametrize(('segmentation', 'kind'), [
    ([[4, 6, 24, 6]], 'wrong mask'), ([], 'wrong mask'), (None, 'wrong mask'),
    ([[4, 6, 24, 6, 24, None]], 'wrong mask'),
    (dict(size=[64, 48], counts=[0, 64 * 48]), 'wrong mask'),  # width and height swapped
    (dict(size=[48, 64], counts=None), 'wrong mask'),
    ([[100, 100, 120, 100, 120, 120]], 'empty mask'),
])
def test_broken_segmentations(segmentation, kind, tmp_path):
    def change(instances):
        for i in (0, 4):  # 101 in testA, 202 in another split
            instances['annotations'][i]['segmentation'] = segmentation

    (problem, ) = found(tmp_path, instances=change)
    assert problem[0] == kind and 'annotation 101 in ' in problem[1]


def test_expressions_without_text(tmp_path):
    def change(refs):
        refs[3]['sentences'][1]['raw'] = ' \t'
        refs[4]['sentences'][0]['raw'] = ''
        refs[0]['sentences'][0]['raw'] = ''  # of another split

    problems = found(tmp_path, refs=change)
    assert [kind for kind, _ in problems] == ['empty question'] * 2
    assert "The expression 7 of " in problems[0][1] and "but is ' \\t';" in problems[0][1]
    assert len(found(tmp_path, refs=change, text_mode='select_first')) == 1


def test_a_split_without_expressions_is_refused(tmp_path):
    def change(refs):
        for ref in refs:
            ref['sentences'] = []

    assert [kind for kind, _ in found(tmp_path, refs=change)] == ['empty split']


def test_all_kinds_are_listed_at_once(tmp_path):
    def change(refs):
        refs[3]['sentences'][0]['raw'] = ''
        refs[4]['ann_id'] = 'left'
        refs[5]['ann_id'] = 5
        refs.append(refs[6])

    kinds = [kind for kind, _ in found(tmp_path, refs=change)]
    assert set(kinds) == {'wrong reference', 'duplicate id', 'empty question', 'unknown annotation'}


def test_what_is_drawn_and_probed_is_used_and_only_once(monkeypatch):
    probed, drawn = [], []
    module = 'mmdpad.datasets.referring_seg.'
    monkeypatch.setattr(module + 'probe_image',
                        lambda path, limit: probed.append(path) or Image.open(path).size[::-1])
    monkeypatch.setattr(module + 'check_segmentation',
                        lambda *args: drawn.append(args[0]) or check_segmentation(*args))
    assert len(build()) == 7  # of 4 references to 3 objects in 2 images
    assert len(probed) == len(set(probed)) == 2 and len(drawn) == 3
