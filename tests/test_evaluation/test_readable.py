# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import mmdet.evaluation
import pytest
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner

import mmdpad.evaluation
from mmdpad.engine.config_nodes import find_nodes
from mmdpad.evaluation.readable import UNREADABLE, find_unreadable, why_unreadable

READABLE = {'CocoMetric', 'DumpDetResults', 'DumpProposals'}


def problems(*metrics, model='ReasoningSegmentor', **evaluator):
    given = dict(evaluator, metrics=list(metrics)) if evaluator else list(metrics)
    return list(find_unreadable(find_nodes(Config(dict(
        model=dict(type=model), test_evaluator=given)))))


def test_every_metric_of_mmdet_is_readable_or_refused():
    """A new one in mmdet has to be tried, and put in one of the two."""
    metrics = {name for name, kind in vars(mmdet.evaluation).items()
               if isinstance(kind, type) and issubclass(kind, BaseMetric)}
    refused = {name for name in metrics if why_unreadable(getattr(mmdet.evaluation, name))}
    assert metrics - refused == READABLE and UNREADABLE.keys() <= refused


@pytest.mark.parametrize('metric, told', [
    (dict(type='CocoPanopticMetric'), "`test_evaluator.0.type`: CocoPanopticMetric of mmdet needs a"
     " panoptic map, and an answer is one object; use CocoMetric (metric=['bbox', 'segm'])"),
    (dict(type='mmdet.RefSegMetric'), 'fails on an answer without a mask'),
    (dict(type='mmdet.CocoMetric', ann_file='x.json'), "needs a category 'object'"),
    (dict(type='CocoMetric', metric=['proposal_fast']), "set 'proposal'"),
    (dict(type='SelectionMetric'), 'test_cfg.num_samples` is not set; set it to 2 or more'),
    (dict(type=mmdet.evaluation.VOCMetric), 'VOCMetric of mmdet needs')])
def test_what_is_refused_names_what_to_use(metric, told):
    (problem, ) = problems(dict(type='ReasonSegMetric'), metric) if 'Panoptic' not in str(
        metric) else problems(metric)
    assert told in problem
    assert not problems(metric, model='MaskRCNN'), 'a detector is asked nothing'


def test_what_can_be_read_is_no_problem():
    assert not problems(
        dict(type='CocoMetric', ann_file='x.json', metric='segm'), dict(type='RefSegMetric'),
        dict(type='DumpDetResults', out_file_path='x.pkl'), dict(type='RewardMetric', rewards={}))


def test_several_data_sets_have_a_metric_each():
    one = dict(type='ReasonSegMetric')
    parts = dict(type='MultiDatasetsEvaluator', dataset_prefixes=['a', 'b'])
    assert not problems(one, one, **parts)
    dump = dict(type='DumpDetResults', out_file_path='x.pkl')
    assert not problems(one, one, dump, **parts), 'it is evaluated over both'
    (problem, ) = problems(one, **parts)
    assert 'one metric for each of the 2 `dataset_prefixes`, but got 1' in problem
    assert 'needs a semantic map' in problems(one, dict(type='SemSegMetric'), **parts)[0]
    for names in (['a', 'a'], 'ab', None):
        (problem, ) = problems(one, one, **dict(parts, dataset_prefixes=names))
        assert f'a different name for each data set, but got {names!r}' in problem


@pytest.mark.parametrize('dataset, number', [
    (dict(type='ReasonSegDataset'), 1),
    (dict(type='ConcatDataset', datasets=3 * [dict(type='ReasonSegDataset')]), 3)])
def test_several_data_sets_are_those_that_are_read(dataset, number):
    parts = dict(type='MultiDatasetsEvaluator', dataset_prefixes=['a', 'b'],
                 metrics=2 * [dict(type='ReasonSegMetric')])
    (problem, ) = find_unreadable(find_nodes(Config(dict(
        test_dataloader=dict(dataset=dataset), test_evaluator=parts))))
    assert problem == (
        '`test_evaluator.dataset_prefixes` should have one prefix for each part of a '
        f'ConcatDataset, but got 2 for {number} data set(s); set equal numbers of both')


def test_metrics_with_the_names_of_others():
    one = dict(type='ReasonSegMetric')
    (problem, ) = problems(one, dict(one, save_masks=True))
    assert problem.startswith('`test_evaluator.1` has the same names as `test_evaluator.0`')
    assert not problems(one, dict(one, prefix='again'), dict(type='CocoMetric', metric='bbox'),
                        dict(type='CocoMetric', metric='segm'))


def test_a_run_by_other_tools_is_refused_before_the_first_batch(tiny_config):
    tiny_config.test_evaluator = dict(type='VOCMetric')
    with pytest.raises(ValueError, match='VOCMetric of mmdet needs .*; use CocoMetric'):
        Runner.from_cfg(tiny_config).test_loop  # noqa: B018


def test_metrics_are_exported_as_mmdets_are():
    for name in mmdpad.evaluation.metrics.__all__:
        assert name in mmdpad.evaluation.__all__
        assert getattr(mmdpad.evaluation, name).__module__.startswith('mmdpad.')
