# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Which of mmdet's metrics cannot read answers to questions, and which to use instead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmdet.evaluation import CocoMetric as CocoMetricOfMMDet
from mmdet.evaluation import MultiDatasetsEvaluator
from mmdet.evaluation import RefSegMetric as RefSegMetricOfMMDet

from mmdpad.evaluation.metrics import ReasonSegMetric, SelectionMetric
from mmdpad.evaluation.metrics.coco_metric import NO_FAST_RECALL
from mmdpad.models.segmentors import ReasoningSegmentor

_BOXES = "CocoMetric (metric='bbox')"
_BOTH = "CocoMetric (metric=['bbox', 'segm'])"
_MASKS = 'ReasonSegMetric or RefSegMetric'
_FIXED_NAMES = (ReasonSegMetric, RefSegMetricOfMMDet)  # names depend on no argument but `prefix`
UNREADABLE = dict(
    BaseVideoMetric=('tracks objects through videos', _BOTH),
    COCOCaptionMetric=('compares captions with given ones, and questions have none', 'RewardMetric '
                       'with a discriminative term, or DiscriminationMetric'),
    CityScapesMetric=("looks for Cityscapes' classes and files", _BOTH),
    CocoOccludedSeparatedMetric=("looks for COCO's classes and images", _BOTH),
    CocoPanopticMetric=('needs a panoptic map, and an answer is one object', _BOTH),
    CocoVideoMetric=('tracks objects through videos', _BOTH),
    CrowdHumanMetric=("reads CrowdHuman's annotations", _BOXES),
    DODCocoMetric=('needs one score for each of many sentences', _BOXES),
    DumpODVGResults=('needs the names of classes as the text', '`mmdpad test --out x.pkl` or '
                     'DumpDetResults'),
    Flickr30kMetric=('needs several phrases of a caption', _BOXES),
    LVISMetric=("needs LVIS's categories", "LVISMetric of mmdpad (`type='LVISMetric'` in our "
                "scope, else 'mmdpad.LVISMetric') with questions about classes"),
    OVCocoMetric=('needs base and novel classes', _BOTH),
    OpenImagesMetric=("needs Open Images' hierarchy of classes", _BOXES),
    ReIDMetrics=('compares features of persons', 'ReasonSegMetric'),
    RefExpMetric=('needs one annotation per image and its `dataset_name`, as MDETR wrote RefCOCO, '
                  'and ten boxes an answer', 'ReasonSegMetric (`box_accuracy` is its precision@1)'),
    SemSegMetric=('needs a semantic map', _MASKS),
    VOCMetric=("needs boxes to ignore and VOC's classes", _BOXES),
    gRefCOCOMetric=('needs one annotation list per image, as MDETR wrote gRefCOCO',
                    'ReasonSegMetric (`no_target_accuracy` and `target_accuracy` are its N-acc '
                    'and T-acc)'))
"""Name of an mmdet metric (subclasses included) -> why it cannot read the predictions of
:class:`ReasoningSegmentor`, and which metric to use instead."""


def why_unreadable(metric: type) -> str | None:
    """Why a metric class cannot read the predictions of :class:`ReasoningSegmentor`, and which to
    use instead; None if it can, or is not one of mmdet's."""
    if metric.__module__.startswith('mmdpad.'):
        return None
    for kind in metric.__mro__:
        if kind.__module__.startswith('mmdet.') and kind.__name__ in UNREADABLE:
            reason, instead = UNREADABLE[kind.__name__]
            return f'{metric.__name__} of mmdet {reason}; use {instead}'
    if metric is RefSegMetricOfMMDet:
        return ('mmdet.RefSegMetric fails on an answer without a mask; use RefSegMetric of mmdpad '
                "(`type='RefSegMetric'` in our scope, else 'mmdpad.RefSegMetric')")
    return None


def find_unreadable(nodes: Iterable[Any]) -> Iterator[str]:
    """Problems with a config's evaluators: metrics that cannot read answers
    (:func:`why_unreadable`) or need several to a question, two metrics with the same names, and a
    ``MultiDatasetsEvaluator`` whose parts do not match the data set.

    Args:
        nodes: Of :func:`mmdpad.engine.config_nodes.find_nodes`.
    """
    nodes = [node for node in nodes if isinstance(node.kind, type)]
    models = [node.entry for node in nodes
              if node.path == 'model' and issubclass(node.kind, ReasoningSegmentor)]
    asked = bool(models)
    datasets = {node.path: node.entry for node in nodes if node.path.endswith('.dataset')}
    named: dict[tuple, str] = {}
    for node in nodes:
        split, _, rest = node.path.partition('_evaluator')
        if split not in ('val', 'test'):
            continue
        if issubclass(node.kind, MultiDatasetsEvaluator):
            yield from _check_parts(node.path, node.entry,
                                    datasets.get(f'{split}_dataloader.dataset'))
        elif asked and (reason := why_unreadable(node.kind)):
            yield f'`{node.path}.type`: {reason}'
        elif asked and issubclass(node.kind, CocoMetricOfMMDet) and (
                'proposal_fast' in _texts(node.entry.get('metric'))):
            yield f'`{node.path}`: {NO_FAST_RECALL}'
        elif asked and node.kind is CocoMetricOfMMDet and node.entry.get('ann_file'):
            yield (f'`{node.path}.type`: mmdet.CocoMetric with `ann_file` counts images that were '
                   "not asked about as missed and needs a category 'object'; use CocoMetric of "
                   "mmdpad (`type='CocoMetric'` in our scope, else 'mmdpad.CocoMetric')")
        elif asked and issubclass(node.kind, SelectionMetric) and not (
                models[0].get('test_cfg') or {}).get('num_samples'):
            yield (f'`{node.path}.type`: SelectionMetric compares several answers, but '
                   '`model.test_cfg.num_samples` is not set; set it to 2 or more')
        if rest[1:].isdigit() and issubclass(node.kind, _FIXED_NAMES):
            first = named.setdefault((split, node.kind, node.entry.get('prefix')), node.path)
            if first != node.path:
                yield (f'`{node.path}` has the same names as `{first}`, another '
                       f'{node.kind.__name__}, which mmengine refuses after the last batch; set '
                       "`prefix='...'` of one")


def _texts(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _check_parts(path: str, entry: Mapping[str, Any],
                 dataset: Mapping[str, Any] | None) -> Iterator[str]:
    metrics, names = entry.get('metrics'), entry.get('dataset_prefixes')
    if not isinstance(names, (list, tuple)) or len({*map(str, names)}) < len(names):
        yield (f'`{path}.dataset_prefixes` should be a list with a different name for each data '
               f'set, but got {names!r}; correct it')
        return
    count = len(metrics) if isinstance(metrics, (list, tuple)) else 1
    if count < len(names):
        yield (f'`{path}.metrics` should have one metric for each of the {len(names)} '
               f'`dataset_prefixes`, but got {count}: a data set without one would not be '
               'evaluated; set equal numbers of both')
    if dataset is not None and 'dataset' not in dataset:
        parts = len(dataset.get('datasets', [dataset]))
        if 'datasets' not in dataset or parts != len(names):
            yield (f'`{path}.dataset_prefixes` should have one prefix for each part of a '
                   f'ConcatDataset, but got {len(names)} for {parts} data set(s); set equal '
                   'numbers of both')
