# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from pathlib import Path

import pytest
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData

from mmdpad.datasets import SegZeroEvalDataset
from mmdpad.evaluation.metrics import ReasonSegMetric, RewardMetric


@pytest.mark.parametrize('build', [ReasonSegMetric, lambda **kw: RewardMetric(
    dict(box=dict(type='BoxIoUReward')), **kw)],
                         ids=['ReasonSegMetric', 'RewardMetric'])
def test_what_the_data_cannot_honour_is_refused_before_the_first_batch(build):
    prepared = dict(classes=('object', ), ignore_regions='target')
    for metric, meta in [(build(ignore_regions='target'), prepared),
                         (build(ignore_regions='exclude'), dict(classes=('object', )))]:
        Evaluator(metric).dataset_meta = meta
        assert metric.dataset_meta == meta
    with pytest.raises(ValueError, match="`ignore_regions` should be 'target' for this data set, "
                       "whose masks include the regions that way, but got 'exclude'; set it"):
        Evaluator(build(ignore_regions='exclude')).dataset_meta = prepared
    # Of several data sets one may be another metric's: looked at with the first batch.
    metric = build(ignore_regions='exclude')
    Evaluator(metric).dataset_meta = [dict(classes=('object', )), prepared]
    with pytest.raises(ValueError, match="should be 'target' for part 2 of 2 of this data set"):
        metric.process(None, [])
    metric.dataset_meta = dict(classes=('object', ))
    metric.check_samples([])


def test_the_prepared_copies_have_neither_short_nor_long_questions():
    pytest.importorskip('pyarrow')
    steps = ('LoadReasoningImage', 'LoadInstanceMasks', 'ModelImageResize', 'TargetsFromMask',
             'PackReasoningInputs')
    dataset = SegZeroEvalDataset(Path(__file__).parents[2] / 'data/seg_zero/ReasonSeg_test',
                                 pipeline=[dict(type=name) for name in steps])
    evaluator = Evaluator(ReasonSegMetric())
    evaluator.dataset_meta = dataset.metainfo
    samples = [item['data_samples'] for item in dataset]
    for sample in samples:  # the right masks but for the last, which is twice as large
        sample.pred_instances = InstanceData(masks=sample.gt_instances.masks.clone())
    samples[2].pred_instances.masks[0, 13:23, 2:10] = True
    evaluator.process(samples)
    metrics = evaluator.evaluate(3)
    assert metrics['reasonseg/giou'] == pytest.approx(100 * 2.5 / 3)
    assert metrics['reasonseg/ciou'] == pytest.approx(100 * 240 / 320)
    assert (metrics['reasonseg/n_short'], metrics['reasonseg/n_long']) == (0, 0)
    assert not any('short_' in name or 'long_' in name for name in metrics)
