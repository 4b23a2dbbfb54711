# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import logging

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.evaluator import Evaluator
from mmengine.logging import MessageHub, MMLogger
from mmengine.structures import InstanceData

from mmdpad.evaluation.metrics import ReasonSegMetric
from mmdpad.evaluation.provenance import publish
from mmdpad.evaluation.summary import summarize
from mmdpad.geometry.masks import decode_mask
from mmdpad.registry import METRICS
from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput

FAILURE = ParseFailure('no_json', 'the answer contains no readable JSON', think='hm', caption=None)


def mask(text):
    return torch.tensor([[c == '1' for c in line] for line in text.split()])[None]


def sample(target, pred=None, ignore=None, is_sentence=False, think=10, img_id='a', **reasoning):
    """A data sample as the segmentor returns it; ``pred=None`` is a failed response."""
    target = mask(target)
    box, points = [[0.5, 1., 2., 3.]], [[[1., 1.], [2., 2.]]]
    out = ReasoningOutput('because', 'a cup', (AnsweredObject((0, 0, 1, 1), ((0, 0), (1, 1))), ))
    data = DetDataSample(metainfo=dict(img_id=img_id, img_path='x.jpg', question='which?',
                                       is_sentence=is_sentence, ori_shape=target.shape[1:]))
    data.gt_instances = InstanceData(masks=target, labels=torch.zeros(1))
    data.ignored_instances = InstanceData(
        masks=torch.zeros_like(target) if ignore is None else mask(ignore))
    n = 0 if pred is None else 1
    data.pred_instances = InstanceData(
        masks=mask(pred) if n else torch.zeros(0, *target.shape[1:], dtype=torch.bool),
        bboxes=torch.tensor(box)[:n], points=torch.tensor(points)[:n],
        scores=torch.tensor([0.75])[:n], labels=torch.zeros(n))
    data.reasoning = dict(response='<think>', parsed=out if n else FAILURE, reasoning_tokens=think,
                          caption_tokens=4 if n else None, truncated=not n, **reasoning)
    return data


SAMPLES = [
    sample('1100 1100', '0110 0110', img_id='half'),  # I 2, U 6
    sample('1111 0000', '1111 0000', is_sentence=True, think=20, img_id='whole'),  # I 4, U 4
    sample('1110 0000', None, is_sentence=True, think=None, img_id='failed'),  # I 0, U 3
    sample('1000 0000', '1001 0000', ignore='0001 0011', img_id='ignore'),
]
# The last: as target {0, 3, 6, 7} against {0, 3}: I 2, U 4; excluded {0} against {0}: 1 of 1.
EXPECTED = dict(target=dict(giou=100 * (1 / 3 + 1 + 0 + 1 / 2) / 4, ciou=100 * 8 / 17,
                            short_giou=100 * (1 / 3 + 1 / 2) / 2, short_ciou=100 * 4 / 10),
                exclude=dict(giou=100 * (1 / 3 + 1 + 0 + 1) / 4, ciou=100 * 7 / 14,
                             short_giou=100 * (1 / 3 + 1) / 2, short_ciou=100 * 3 / 7))


@pytest.fixture(autouse=True)
def no_log_file():
    """A clean current logger and hub, whatever ran before in this process."""
    MMLogger.get_instance('test_reason_seg_metric')
    MessageHub.get_instance('test_reason_seg_metric')
    yield
    MMLogger._instance_dict.pop('test_reason_seg_metric')
    MessageHub._instance_dict.pop('test_reason_seg_metric')


def evaluate(samples, **kwargs):
    evaluator = Evaluator(ReasonSegMetric(**kwargs))
    for data in samples:
        evaluator.process([data])
    return evaluator.evaluate(len(samples))


@pytest.mark.parametrize('protocol', ['target', 'exclude'])
def test_numbers_by_hand(protocol):
    metrics = evaluate(SAMPLES, ignore_regions=protocol)
    expected = dict(
        EXPECTED[protocol], long_giou=50.0, long_ciou=100 * 4 / 7, n=4, n_short=2, n_long=2,
        # of the points (1, 1) and (2, 2) one hits once, in the first sample
        pointing_accuracy=100 * 0.5 / 4, box_accuracy=0, repetition=0,
        parse_failure_rate=0.25, failed_no_json=1, reasoning_tokens=40 / 3, caption_tokens=4,
        truncated_rate=0.25)
    for name in ('giou', 'ciou'):
        low, high = (metrics.pop(f'reasonseg/{name}_{end}') for end in ('low', 'high'))
        assert 0 <= low < metrics[f'reasonseg/{name}'] < high <= 100
    assert metrics == pytest.approx({f'reasonseg/{k}': v for k, v in expected.items()})


def test_empty_union():
    """Everything of the target is ignored and nothing else was found."""
    samples = [sample('0110', '0100', ignore='1111')]
    metrics = evaluate(samples, ignore_regions='exclude')
    assert metrics['reasonseg/giou'] == 100 and metrics['reasonseg/ciou'] == 0
    failed = evaluate([sample('0110', None, ignore='1111')], ignore_regions='exclude')
    assert failed['reasonseg/giou'] == 0


def test_a_failed_sample_counts_its_target_as_union():
    assert evaluate([SAMPLES[1], SAMPLES[2]])['reasonseg/ciou'] == pytest.approx(400 / 7)
    metrics = evaluate([SAMPLES[2]] * 3)
    assert metrics['reasonseg/giou'] == metrics['reasonseg/ciou'] == 0
    assert metrics['reasonseg/failed_no_json'] == 3 and metrics['reasonseg/n'] == 3
    assert 'reasonseg/reasoning_tokens' not in metrics and 'reasonseg/short_giou' not in metrics
    assert metrics['reasonseg/n_short'] == 0


def test_how_often_a_decoder_of_captions_fell_back():
    """Over objects, not samples; a sample without objects counts for nothing."""
    samples = [sample('1100', '1000') for _ in range(3)]
    for data, fallback in zip(samples, ([True], [False, True, False], []), strict=True):
        data.pred_instances = InstanceData(
            masks=mask('1000').repeat(len(fallback), 1, 1), fallback=torch.tensor(fallback))
    metrics = evaluate(samples)
    assert metrics['reasonseg/fallback_rate'] == 0.5
    assert (metrics['reasonseg/n_fallback'], metrics['reasonseg/n_objects']) == (2, 4)
    assert 'reasonseg/fallback_rate' not in evaluate([sample('1100', '1000')])


def test_a_decoder_without_mask_is_a_failure_too():
    data = sample('1100', None)
    data.reasoning = dict(data.reasoning, parsed=SAMPLES[0].reasoning['parsed'])
    assert evaluate([data])['reasonseg/failed_no_mask'] == 1


def test_several_rows_are_one_region_and_bitmaps_are_masks():
    data = sample('1100', '1000')
    data.pred_instances = InstanceData(masks=torch.cat([mask('1000'), mask('0100')]))
    data.gt_instances.masks = BitmapMasks(data.gt_instances.masks.numpy().astype(np.uint8), 1, 4)
    del data.ignored_instances
    del data.reasoning  # a plain detector
    metrics = evaluate([data])
    assert metrics['reasonseg/giou'] == 100 and metrics['reasonseg/parse_failure_rate'] == 0


def test_padding_of_the_last_batch_is_not_counted():
    evaluator = Evaluator(ReasonSegMetric())
    evaluator.process(SAMPLES + SAMPLES[:1])
    assert evaluator.evaluate(4)['reasonseg/n'] == 4


def numbered(samples, *indices):
    """Copies that tell their place in the data set."""
    samples = [data.clone() for data in samples]
    for data, index in zip(samples, indices, strict=True):
        data.set_metainfo(dict(sample_idx=index))
    return samples


def read(path):
    return [json.loads(line) for line in open(path, encoding='utf-8')]


def test_lines_per_sample(tmp_path):
    out = tmp_path / 'sub' / 'samples.jsonl'
    metrics = evaluate(SAMPLES, out_file=str(out), save_masks=True)
    rows = read(out)
    assert [row['id'] for row in rows] == ['half', 'whole', 'failed', 'ignore']
    assert rows[0] | dict(mask=None, target=None) == dict(
        index=None, id='half', image='x.jpg', question='which?', is_sentence=False,
        num_targets=1, iou=2 / 6, intersection=2, union=6, area=4, pointing=0.5,
        boxes_right=False, failure=None, failure_detail=None,
        boxes=[[0.5, 1, 2, 3]], points=[[[1, 1], [2, 2]]], scores=[0.75],
        think='because', caption='a cup', reasoning_tokens=10, caption_tokens=4,
        repetition=0, truncated=False, response='<think>', mask=None, target=None)
    assert (rows[2]['failure'], rows[2]['failure_detail'], rows[2]['think'], rows[2]['boxes']) == (
        'no_json', FAILURE.detail, 'hm', [])
    np.testing.assert_array_equal(decode_mask(rows[0]['mask']), mask('0110 0110')[0].numpy())
    summary = json.loads((tmp_path / 'sub' / 'samples.json').read_text())
    assert summary['protocol'] == dict(ignore_regions='target',
                                       failed_samples='IoU 0, union = target area')
    assert summary['provenance'].startswith('unknown')
    assert summarize(rows) == summary['metrics'], 'the file alone gives the same numbers'
    assert {f'reasonseg/{k}': v for k, v in summary['metrics'].items()}.items() <= metrics.items()
    assert summary['intervals']['giou'] == [metrics['reasonseg/giou_low'],
                                            metrics['reasonseg/giou_high']]
    assert summary['intervals'].keys() < summary['metrics'].keys()
    assert summary['bootstrap']['level'] == 0.95


def test_what_is_known_of_a_run_is_written_once(tmp_path):
    publish(dict(protocol=dict(split='val'), provenance=dict(seed=3)))
    metric = ReasonSegMetric(out_file=str(tmp_path / 'a.jsonl'))
    evaluator = Evaluator(metric)
    evaluator.process(SAMPLES[:1])
    evaluator.evaluate(1)
    summary = json.loads((tmp_path / 'a.json').read_text())
    assert summary['protocol']['split'] == 'val' and summary['provenance'] == dict(seed=3)
    assert metric.summary | dict(samples='a.jsonl') == summary
    assert metric.summary['samples'] == str(tmp_path / 'a.jsonl')
    publish(None)
    evaluator.process(SAMPLES[:1])
    evaluator.evaluate(1)
    assert metric.summary['provenance'].startswith('unknown')


def test_lines_are_in_the_order_of_the_data_set(tmp_path):
    samples = numbered(SAMPLES[:3], 2, 0, 3)
    evaluate(samples, out_file=str(tmp_path / 'sorted.jsonl'))
    rows = read(tmp_path / 'sorted.jsonl')
    assert [row['index'] for row in rows] == [0, 2, 3]
    assert [row['id'] for row in rows] == ['whole', 'half', 'failed']

    samples[0].set_metainfo(dict(sample_idx=3))  # of one of several data sets: no order
    evaluate(samples, out_file=str(tmp_path / 'kept.jsonl'))
    assert [row['id'] for row in read(tmp_path / 'kept.jsonl')] == ['half', 'whole', 'failed']


def test_earlier_results_are_kept(tmp_path):
    for _ in range(2):
        evaluate(SAMPLES[:1], out_file=str(tmp_path / 'a.jsonl'))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'a.json', 'a.jsonl', 'a_2.json', 'a_2.jsonl']
    assert json.loads((tmp_path / 'a_2.json').read_text())['samples'] == 'a_2.jsonl'


@pytest.mark.parametrize('iteration, name', [(None, 'reasonseg'), (9, 'reasonseg_iter_10')])
def test_results_lie_beside_the_log(tmp_path, iteration, name):
    handler = logging.FileHandler(tmp_path / 'run.log')
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    if iteration is not None:
        MessageHub.get_current_instance().update_info('iter', iteration)
    try:
        evaluate(SAMPLES[:1])
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert len(read(tmp_path / f'{name}.jsonl')) == 1
    assert "'ignore_regions': 'target'" in (tmp_path / 'run.log').read_text()


def test_without_a_log_file_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate(SAMPLES[:1])
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments_and_shapes():
    for metric in (dict(type='ReasonSegMetric'), dict(type='RewardMetric', rewards={})):
        with pytest.raises(ValueError, match="but got 'drop'"):
            METRICS.build(dict(metric, ignore_regions='drop'))
    with pytest.raises(ValueError, match="should end in .jsonl .*, but got 'a.json'"):
        ReasonSegMetric(out_file='a.json')
    data = sample('1100', '1000')
    data.pred_instances = InstanceData(masks=mask('10'))
    with pytest.raises(ValueError, match='the same shape'):
        evaluate([data])
