# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
from mmengine.evaluator import Evaluator

from mmdpad.evaluation.metrics import ReasonSegMetric, RewardMetric


@pytest.mark.parametrize('build', [ReasonSegMetric, lambda **kw: RewardMetric({}, **kw)],
                         ids=['ReasonSegMetric', 'RewardMetric'])
def test_what_the_data_cannot_honour_is_refused_before_the_first_batch(build):
    prepared = dict(classes=('object', ), ignore_regions='target')
    for metric, meta in [(build(ignore_regions='target'), prepared),
                         (build(ignore_regions='exclude'), dict(classes=('object', )))]:
        Evaluator(metric).dataset_meta = meta
        assert metric.dataset_meta == meta
    with pytest.raises(ValueError, match="`ignore_regions` should be 'target' for this data set, "
                       "whose masks hold the regions so, but got 'exclude'; set it"):
        Evaluator(build(ignore_regions='exclude')).dataset_meta = prepared
