# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Our numbers are those of mmdet's metric and of both published scorers, on random masks."""
import numpy as np
import pytest
import torch
from mmdet.evaluation.metrics import RefSegMetric
from mmdet.structures.mask import BitmapMasks

from mmdpad.evaluation.metrics import ReasonSegMetric
from mmdpad.structures import ParseFailure

FAILURE = ParseFailure('no_json', 'none')


def make_samples(seed, ignored=True, failures=True, number=40):
    """Random blobs: some predictions empty or exact, some targets all but ignored."""
    rng = np.random.default_rng(seed)

    def blob():
        mask = np.zeros((9, 7), bool)
        (y, y2), (x, x2) = np.sort(rng.integers(0, 10, 2)), np.sort(rng.integers(0, 8, 2))
        mask[y:y2 + 1, x:x2 + 1] = True
        return mask

    for i in range(number):
        target, ignore = blob(), blob() & ignored
        predicted = (blob(), target.copy(), np.zeros_like(target))[rng.integers(0, 3)]
        target &= ~ignore
        if not target.any():
            target[tuple(rng.integers(0, 7, 2))], ignore[:] = True, False
        failed = failures and rng.random() < 0.2
        yield dict(
            gt_instances=dict(masks=torch.from_numpy(target[None])),
            ignored_instances=dict(masks=torch.from_numpy(ignore[None])),
            pred_instances=dict(masks=torch.from_numpy(predicted[None][:not failed])),
            reasoning=dict(parsed=FAILURE) if failed else {}, is_sentence=bool(i % 2))


def ours(samples, ignore_regions):
    metric = ReasonSegMetric(ignore_regions)
    metric.process(None, samples)
    metrics = metric.evaluate(len(samples))
    return metrics['reasonseg/giou'], metrics['reasonseg/ciou']


def label_map(sample):
    """LISA's annotation: 1 target, 0 background, 255 ignored."""
    target, ignore = (sample[name]['masks'][0].numpy()
                      for name in ('gt_instances', 'ignored_instances'))
    return np.where(ignore, 255, target.astype(int))


def prediction(sample):
    masks = sample['pred_instances']['masks'].numpy()
    return masks[0] if len(masks) else np.zeros(masks.shape[1:], bool)


def lisa(samples):
    """Per image and class, areas by histograms of what is not 255; IoU of the class 'object', 1
    where its union is empty; gIoU its mean, cIoU the ratio of sums."""
    intersections, unions, ious = np.zeros(2), np.zeros(2), []
    for sample in samples:
        label, output = label_map(sample), prediction(sample).astype(int)
        output = np.where(label == 255, 255, output)
        areas = [np.histogram(values, bins=2, range=(0, 1))[0]
                 for values in (output[output == label], output, label)]
        intersection, union = areas[0], areas[1] + areas[2] - areas[0]
        iou = intersection / (union + 1e-5)
        iou[union == 0] += 1
        ious.append(iou)
        intersections, unions = intersections + intersection, unions + union
    return 100 * np.mean(ious, axis=0)[1], 100 * (intersections / (unions + 1e-10))[1]


def seg_zero(samples):
    """Ignored regions are part of the mask; a response that fails adds its area to the union;
    IoU 0 where the union is empty."""
    pairs = []
    for sample in samples:
        mask = label_map(sample) > 0
        if sample['reasoning']:
            pairs.append((0, mask.sum()))
        else:
            predicted = prediction(sample)
            pairs.append((np.logical_and(predicted, mask).sum(),
                          np.logical_or(predicted, mask).sum()))
    ious = [i / u if u > 0 else 0 for i, u in pairs]
    intersection, union = np.sum(pairs, axis=0)
    return 100 * np.mean(ious), 100 * intersection / union


@pytest.mark.parametrize('seed', range(3))
def test_published_scorers(seed):
    samples = list(make_samples(seed))
    assert ours(samples, 'target') == pytest.approx(seg_zero(samples))
    assert ours(samples, 'target') != pytest.approx(lisa(samples), abs=0.5)
    # LISA always draws a mask: what we call failed is an empty one there.
    assert ours(samples, 'exclude') == pytest.approx(lisa(samples), rel=1e-4)


def test_a_union_that_is_all_ignored():
    (sample, ) = make_samples(0, number=1)
    sample['reasoning'] = {}
    for name, value in (('gt_instances', False), ('ignored_instances', True),
                        ('pred_instances', True)):
        sample[name]['masks'] = torch.full((1, 9, 7), value)
    assert ours([sample], 'exclude')[0] == pytest.approx(lisa([sample])[0]) == 100
    assert ours([sample], 'target')[0] == pytest.approx(seg_zero([sample])[0]) == 100


@pytest.mark.parametrize('protocol', ['target', 'exclude'])
def test_mmdets_metric_where_every_sample_has_one_mask(protocol):
    samples = list(make_samples(5, ignored=False, failures=False))
    theirs = RefSegMetric()
    for sample in samples:
        truth = BitmapMasks(sample['gt_instances']['masks'].numpy().astype(np.uint8), 9, 7)
        theirs.process(None, [dict(sample, gt_masks=truth)])
    expected = theirs.compute_metrics(theirs.results)
    assert ours(samples, protocol) == pytest.approx(
        (float(expected['mIoU']), float(expected['cIoU'])), rel=1e-6)


def test_what_failed_counts_where_mmdets_metric_stops():
    samples = list(make_samples(6, ignored=False))
    theirs, failed = RefSegMetric(('mIoU', )), 0
    for sample in samples:
        masks = sample['gt_instances']['masks'].numpy().astype(np.uint8)
        try:
            theirs.process(None, [dict(sample, gt_masks=BitmapMasks(masks, 9, 7))])
        except RuntimeError:  # no instance
            failed += 1
    assert failed == sum(bool(sample['reasoning']) for sample in samples) > 0
    mean = float(theirs.compute_metrics(theirs.results)['mIoU'])
    assert ours(samples, 'target')[0] == pytest.approx(mean * (1 - failed / len(samples)))
