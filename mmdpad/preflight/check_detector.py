# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks for the models, data sets and metrics of mmdet."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmdet.datasets import BaseDetDataset
from mmdet.evaluation import CocoMetric
from mmdet.models import BaseDetector

from mmdpad.engine.config_nodes import Node
from mmdpad.engine.refusals import REFUSALS, unknown_keys
from mmdpad.models.weights import first_line
from mmdpad.registry import MODELS, type_name

# The metainfo that a detector's `predict` and its metrics read.
_READ = ('img_id', 'img_shape', 'ori_shape', 'scale_factor')
_FILTERS = ('filter_empty_gt', 'min_size', 'bbox_min_size')


def build_model(model: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Build a model of another package with random weights.

    Returns:
        The model and no problems, or None and why it cannot be built.
    """
    try:
        return MODELS.build(copy.deepcopy(model)), []
    except (*REFUSALS, RuntimeError, ArithmeticError, OSError, ImportError) as error:
        return None, [f'`model` ({type_name(model)}) cannot be built: {type(error).__name__}: '
                      f'{first_line(error)}; correct its arguments']


def find_wrong_filters(nodes: Iterable[Node]) -> Iterator[str]:
    """Find keys of ``filter_cfg`` that no data set of mmdet reads."""
    for node in nodes:
        given = node.entry.get('filter_cfg')
        if not node.is_kind(BaseDetDataset) or given is None:
            continue
        if isinstance(given, Mapping):
            yield from unknown_keys(given, _FILTERS, f'{node.path}.filter_cfg', '`filter_cfg`')
        else:
            yield f'`{node.path}.filter_cfg` should be dict or None, but got {given!r}; correct it'


def check_sample(model: Any, item: Any, where: str, nodes: Iterable[Node]) -> Iterator[str]:
    """Find what a detector and its metrics need but an item of the data set lacks.

    Args:
        model: The run's model, built. Only mmdet's detectors are checked.
        item: An item of the data set.
        where: The config key of the data set's loader.
        nodes: The config nodes of the run's evaluators.
    """
    if not isinstance(model, BaseDetector):
        return
    if missing := [name for name in ('inputs', 'data_samples') if name not in item]:
        yield (f'`{where}`: {type(model).__name__} reads {missing} of an item, which has '
               'none; end the pipeline with PackDetInputs, the transform that packs them')
        return
    sample = item['data_samples']
    if where.startswith('train'):
        for field, needed, transform in (('bboxes', model.with_bbox, 'with_bbox'),
                                         ('masks', model.with_mask, 'with_mask')):
            if needed and field not in sample.get('gt_instances', ()):
                yield (f'`{where}`: {type(model).__name__} needs `gt_instances.{field}`, '
                       f'which samples do not have; set `{transform}=True` in LoadAnnotations')
        return
    for name in _READ:
        if name not in sample:
            yield (f'`{where}`: {type(model).__name__} reads {name!r} of a sample, which is '
                   f'missing; add it to `meta_keys` of the transform that packs samples')
    split = where.partition('_')[0]
    for node in nodes:
        if node.path.startswith(f'{split}_evaluator') and node.kind is CocoMetric and (
                node.entry.get('ann_file') is None and 'instances' not in sample):
            yield (f'`{node.path}.ann_file` should be a file where samples have no `instances`, '
                   f'but got None; set it')
