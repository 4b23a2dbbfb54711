# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmdpad.analysis.stored_masks import match_predictions, score_predictions
from mmdpad.datasets.transforms import without_pixels
from mmdpad.evaluation.metrics import ReasonSegMetric
from mmdpad.geometry.masks import encode_mask
from mmdpad.registry import DATASETS
from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput
from mmdpad.utils import read_jsonl, write_jsonl

ROOT = Path(__file__).parents[2]
DATA = ROOT / 'tests/data'
CONFIG = ROOT / 'configs/dpad/tiny_shapes.py'
ITEMS = [dict(img_id=1, question='A.'), dict(img_id='b', question='same'),
         dict(img_id='b', question='same')]


def line(identifier, question, mask=None, **more):
    return dict(id=identifier, question=question, mask=mask, **more)


def test_each_item_gets_its_line():
    lines = [line('b', 'Same', text='first'), line('1', 'a'), line('b', 'same.', text='second')]
    assert match_predictions(lines, ITEMS) == [lines[1], lines[0], lines[2]]


@pytest.mark.parametrize('lines, message', [
    ([line(1, 'a'), line('b', 'same')], r"none is for 1 \('b' 'same'\) of 3; add them"),
    ([line(1, 'a'), *[line('b', 'same')] * 2, line(1, 'A')], r"also 1 \('1' 'a'\); remove du"),
    ([line(1, 'a'), *[line('b', 'same')] * 2, line('c', 'new')], r"also 1 \('c' 'new'\)"),
    ([dict(id=1, question='a'), line(None, 'a'), line(1, 2), line(1, 'a', 'rle')],
     r'lines \[1, 2, 3, 4\] do not \(4 in all\)'),
])
def test_what_does_not_match_is_named(lines, message):
    with pytest.raises(ValueError, match=message):
        match_predictions(lines, ITEMS)


@pytest.mark.parametrize('item, message', [
    (dict(question='a'), "has no 'gt_masks'; use"),
    (dict(img_id=1), "has no 'question' and no 'gt_masks'; use")])
def test_data_without_questions_or_masks_are_refused(item, message):
    with pytest.raises(ValueError, match=message):
        score_predictions([item], [line(1, 'a')], ReasonSegMetric())


@pytest.fixture
def dataset_config(shapes_data):
    config = Config.fromfile(CONFIG).test_dataloader.dataset
    return dict(config, data_root=str(shapes_data), serialize_data=False)  # which takes long


def make_answers(dataset):
    """Samples as a segmentor returns them: good, shifted and failed ones, in turn."""
    for i in range(len(dataset)):
        sample = dataset[i]['data_samples'].to_dict()
        mask = sample['gt_instances']['masks']
        mask = mask if i % 3 == 0 else torch.roll(mask, 9, dims=2)
        failed = i % 3 == 2
        box = sample['gt_instances']['bboxes'][:0 if failed else 1]
        parsed = (ParseFailure('no_json', 'nothing', think='so') if failed else
                  ReasoningOutput('a b ' * i, 'c', (AnsweredObject((0, 0, 1, 1), ((0, 0), )), )))
        yield dict(sample, pred_instances=dict(
            masks=mask[:len(box)], bboxes=box, points=box.reshape(-1, 2, 2) + 0.5,
            scores=torch.ones(len(box))), reasoning=dict(
                parsed=parsed, response='r', truncated=failed, reasoning_tokens=i,
                caption_tokens=1))


@pytest.fixture
def own_result(dataset_config, tmp_path):
    """Where ReasonSegMetric wrote lines with masks, and its metrics."""
    dataset = DATASETS.build(dataset_config)
    metric = ReasonSegMetric(out_file=str(tmp_path / 'own.jsonl'), save_masks=True)
    metric.process(None, list(make_answers(dataset)))
    return tmp_path / 'own.jsonl', metric.evaluate(len(dataset))


def test_our_own_lines_give_the_same_rows_without_decoding_an_image(
        dataset_config, own_result, tmp_path, monkeypatch):
    path, metrics = own_result
    monkeypatch.setattr(Image.Image, 'load', lambda *_: pytest.fail('an image was decoded'))
    metric = ReasonSegMetric(out_file=str(tmp_path / 'again.jsonl'), save_masks=True)
    lines = list(read_jsonl(str(path)))
    again = score_predictions(DATASETS.build(without_pixels(dataset_config)), lines[::-1], metric)
    assert again == metrics and 0 < metrics['reasonseg/giou'] < 100
    assert list(read_jsonl(str(tmp_path / 'again.jsonl'))) == lines
    assert metrics['reasonseg/pointing_accuracy'] > 0 and metrics['reasonseg/failed_no_json'] == 2


def test_bare_lines_and_null_masks(dataset_config, own_result):
    lines = [dict(id=row['id'], question=row['question'],
                  mask=row['mask'] if row['failure'] is None else None)
             for row in read_jsonl(str(own_result[0]))]
    metric = ReasonSegMetric()
    metrics = score_predictions(DATASETS.build(without_pixels(dataset_config)), lines, metric)
    assert metrics['reasonseg/giou'] == own_result[1]['reasonseg/giou']
    assert metrics['reasonseg/failed_no_mask'] == 2
    assert not {'reasonseg/pointing_accuracy', 'reasonseg/box_accuracy'} & metrics.keys()


@pytest.mark.parametrize('change, message', [
    (dict(mask=encode_mask(np.ones((3, 5), bool))), 'its mask is 3 x 5 in place of the image'),
    (dict(mask=dict(size=[3, 5], counts=None)), 'its RLE is broken'),
    (dict(boxes=[[0, 'x', 1, 1]]), r'its `boxes` should be finite numbers, \(n, 4\), but'),
    (dict(boxes=[1, 2, 3, 4]), r'`boxes` should be finite numbers, \(n, 4\)'),
    (dict(points=[[1, 2]]), r'`points` should be finite numbers, \(n, P, 2\)'),
    (dict(points=[[[1, None]]]), r'`points` should be finite'),
    (dict(boxes=[[1, 2, 3, 4], [1]]), '`boxes` should be finite'),
    (dict(scores=[[1]]), r'`scores` should be finite numbers, \(n\)'),
    (dict(reasoning_tokens='many'),
     "`reasoning_tokens` should be null or of type int, but is 'many'"),
    (dict(think=5), '`think` should be null or of type str'),
])
def test_an_unusable_prediction_is_named(change, message, dataset_config, own_result):
    lines = list(read_jsonl(str(own_result[0])))
    lines[3].update(change)
    with pytest.raises(ValueError, match=f'The prediction for {lines[3]["id"]!r}.* cannot be used: '
                       f'.*{message}'):
        score_predictions(DATASETS.build(without_pixels(dataset_config)), lines,
                          ReasonSegMetric())


STEPS = [dict(type=name) for name in ('LoadReasoningImage', 'LoadInstanceMasks', 'ModelImageResize',
                                      'TargetsFromMask', 'PackReasoningInputs')]
OTHERS = dict(
    grefcoco=dict(type='ReferringSegDataset', data_root=str(DATA / 'refcoco'), split='val',
                  ann_file='grefcoco/instances.json', split_file='grefcoco/grefs(unc).json',
                  data_prefix=dict(img_path='train2014/'), several_objects=True),
    tables=dict(type='SegZeroEvalDataset', data_root=str(DATA / 'seg_zero/ReasonSeg_test')))


@pytest.mark.parametrize('name', OTHERS)
def test_every_kind_of_data_set_gives_its_targets(name):
    dataset = DATASETS.build(without_pixels(dict(OTHERS[name], pipeline=STEPS,
                                                 serialize_data=False)))
    lines = [dict(id=item['img_id'], question=item['question'],
                  mask=encode_mask(item['gt_masks'].any(axis=0))) for item in dataset]
    metrics = score_predictions(dataset, lines, ReasonSegMetric())
    assert metrics['reasonseg/giou'] == metrics['reasonseg/ciou'] == 100
    if name == 'grefcoco':
        assert metrics['reasonseg/n_no_target'] > 0
        assert metrics['reasonseg/no_target_accuracy'] == 100
        everything = encode_mask(np.ones(dataset[0]['ori_shape'], bool))
        none = [dict(line, mask=everything) if not item['num_targets'] else line
                for line, item in zip(lines, dataset, strict=True)]
        assert score_predictions(dataset, none, ReasonSegMetric())[
            'reasonseg/no_target_accuracy'] == 0
    else:
        with pytest.raises(ValueError, match="should be 'target' for this data set"):
            score_predictions(dataset, lines, ReasonSegMetric('exclude'))


def test_the_tool(run_tool, own_result, shapes_data, tmp_path):
    path, metrics = own_result
    options = ['--cfg-options', f'test_dataloader.dataset.data_root={shapes_data}',
               'test_dataloader.dataset.serialize_data=False']
    output = run_tool('evaluate_masks', CONFIG, path, *options)
    scored = tmp_path / 'own_scored.jsonl'
    assert output.splitlines()[-1] == str(scored)
    assert f'{metrics["reasonseg/giou"]:.4g}' in output
    summary = json.loads(scored.with_suffix('.json').read_text())
    assert summary['metrics']['giou'] == metrics['reasonseg/giou']
    assert summary['protocol'] == dict(
        ignore_regions='target', failed_samples='IoU 0, union = target area',
        dataset='ReasonSegDataset', split='test', texts='first', num_samples=None, sample_seed=9,
        several_objects=False)
    about = summary['provenance']
    assert about['data']['items'] == 6 and len(about['predictions']) == 64
    assert about['command'].startswith('python ')
    run_tool('evaluate_masks', CONFIG, path, '--out', tmp_path / 'lisa.jsonl', *options,
             'test_evaluator.0.ignore_regions=exclude',
             'test_evaluator.0.type=mmdpad.ReasonSegMetric')
    assert json.loads((tmp_path / 'lisa.json').read_text())['protocol'][
        'ignore_regions'] == 'exclude'

    write_jsonl(str(tmp_path / 'few.jsonl'), list(read_jsonl(str(path)))[1:])
    for arguments, message in (
            ([tmp_path / 'few.jsonl', *options], 'Each item should have a prediction, but none is'),
            ([tmp_path / 'no.jsonl', *options], 'does not exist'),
            ([path, '--cfg-options', 'test_dataloader.dataset.data_root=no/such'], 'no/such'),
            ([path, '--cfg-options', 'test_dataloader=None'], 'has no `test_dataloader`; name')):
        with pytest.raises(SystemExit, match=message):
            run_tool('evaluate_masks', CONFIG, *arguments)
