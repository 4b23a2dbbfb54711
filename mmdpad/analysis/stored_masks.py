# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Scores stored predicted masks against a data set without any model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmdpad.evaluation.metrics import ReasonSegMetric
from mmdpad.evaluation.pairing import SHOWN, number_samples, show_keys
from mmdpad.geometry.masks import decode_mask
from mmdpad.prompts import normalize_question
from mmdpad.structures import ParseFailure, ReasoningOutput

OPTIONAL = dict(boxes=list, points=list, scores=list, think=str, caption=str, reasoning_tokens=int,
                caption_tokens=int, truncated=bool, response=str, failure=str, failure_detail=str)
"""Optional entries of a line besides ``id``, ``question`` and ``mask``, as in the files of
:class:`ReasonSegMetric`, and their types (or null)."""
# Name in a line -> name in a sample, dimensions, and entries along the last (None: any number).
_ARRAYS = dict(boxes=('bboxes', 2, 4), points=('points', 3, 2), scores=('scores', 1, None))


def score_predictions(dataset: Any, predictions: Sequence[dict],
                      metric: ReasonSegMetric) -> dict[str, float]:
    """Score stored predictions with a metric; it writes the same files as in any evaluation.

    Args:
        dataset: Built from :func:`mmdpad.datasets.transforms.without_pixels`.
        predictions: See :func:`match_predictions`; :data:`OPTIONAL` entries are kept.
        metric: A metric that scores samples one by one.

    Raises:
        ValueError: As in :func:`match_predictions`, or the data have no questions or masks or
            cannot follow the protocol, all before any work; or a mask is no RLE or does not have
            its image's size, or an optional entry has another form.
    """
    if lacks := [name for name in ('question', 'gt_masks') if name not in dataset[0]]:
        raise ValueError(f'Each item should have a question and masks, but the first has no '
                         f'{" and no ".join(map(repr, lacks))}; use a data set of questions with '
                         'a step that loads masks, such as LoadReasonSegMask, in its pipeline')
    metric.dataset_meta = dataset.metainfo
    items = [dataset.get_data_info(i) for i in range(len(dataset))]
    for i, line in enumerate(match_predictions(predictions, items)):
        metric.process(None, [_make_sample(dataset[i], line)])
    return metric.evaluate(len(items))


def match_predictions(predictions: Sequence[dict], items: Sequence[dict]) -> list[dict]:
    """Match a prediction to each item of a data set.

    Args:
        predictions: Lines with ``id``, ``question`` and ``mask`` (COCO RLE; null if the prediction
            failed, which counts as a failure).
        items: With ``img_id`` and ``question``; if several agree in both, lines are assigned in
            order.

    Raises:
        ValueError: A line lacks an entry, an item has no line, or a line has no item (a second
            line for the same item included); all are counted and the first few named.
    """
    unusable = [number for number, line in enumerate(predictions, start=1)
                if not (isinstance(line.get('id'), str | int) and isinstance(
                    line.get('question'), str) and isinstance(line.get('mask', 0), dict | None))]
    if unusable:
        raise ValueError(f'Each line should have `id` (text or number), `question` (text) and '
                         f'`mask` (an RLE, or null for a prediction that failed), but lines '
                         f'{unusable[:SHOWN]} do not ({len(unusable)} in all)')
    asked = number_samples((item['img_id'], item['question']) for item in items)
    given = dict(zip(number_samples((line['id'], line['question']) for line in predictions),
                     predictions, strict=True))
    missing = [key for key in asked if key not in given]
    if missing:
        raise ValueError(f'Each item should have a prediction, but none is for '
                         f'{show_keys(missing)} of {len(asked)}; add them, with a `mask` of null '
                         f'if a prediction failed')
    extra = sorted(given.keys() - set(asked))
    if extra:
        raise ValueError(f'Each prediction should be for an item of the data set, one per item, '
                         f'but there are also {show_keys(extra)}; remove duplicates, or name the '
                         f'data set that the predictions are for')
    return [given[key] for key in asked]


def _make_sample(item: dict, line: dict) -> dict[str, Any]:
    """The input of :meth:`ReasonSegMetric.process`, from an item with masks and its prediction."""
    said = {name: line.get(name) for name in OPTIONAL}
    reason = said['failure'] or (line['mask'] is None and 'no_mask')
    try:
        _check_types(said)
        masks = _read_masks(None if reason else line['mask'], tuple(item['ori_shape']))
        predicted = {name: _read_array(key, said[key], *form) for key, (name, *form) in
                     _ARRAYS.items() if said[key] is not None}
    except ValueError as error:
        raise ValueError(f'The prediction for {item["img_id"]!r}, {item["question"]!r} cannot be '
                         f'used: {error}') from error
    parts = dict(think=said['think'], caption=said['caption'])
    parsed = (ParseFailure(reason, said['failure_detail'] or 'the stored mask is null', **parts)
              if reason else ReasoningOutput(**parts, objects=()))
    sample = dict(
        {key: item[key] for key in ('sample_idx', 'img_id', 'img_path', 'is_sentence',
                                    'empty_target', 'left_out') if key in item},
        question=normalize_question(item['question']),
        gt_instances=dict(masks=item['gt_masks']), pred_instances=dict(predicted, masks=masks),
        reasoning=dict(parsed=parsed, response=said['response'],
                       truncated=bool(said['truncated']), reasoning_tokens=said['reasoning_tokens'],
                       caption_tokens=said['caption_tokens']))
    if 'ignore_mask' in item:
        sample['ignored_instances'] = dict(masks=item['ignore_mask'][None])
    return sample


def _check_types(said: dict[str, Any]) -> None:
    for name, value in said.items():
        if value is not None and not isinstance(value, OPTIONAL[name]):
            raise ValueError(f'its `{name}` should be null or of type {OPTIONAL[name].__name__}, '
                             f'but is {value!r}')


def _read_array(name: str, values: list, dimensions: int, last: int | None) -> np.ndarray:
    """The array with this number of dimensions, or an empty one."""
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError):  # ragged, or not numbers
        array = np.array(np.nan)
    if values and (array.ndim != dimensions or last not in (None, array.shape[-1])
                   or not np.isfinite(array).all()):
        form = ', '.join(['n', 'P'][:dimensions - 1] + [str(last or 'n')])
        raise ValueError(f'its `{name}` should be finite numbers, ({form}), but are {values}')
    return array


def _read_masks(rle: dict | None, shape: tuple[int, int]) -> np.ndarray:
    """bool (1, H, W), or (0, H, W) without a mask."""
    if rle is None:
        return np.zeros((0, *shape), bool)
    mask = decode_mask(rle)
    if mask.shape != shape:
        raise ValueError(f'its mask is {mask.shape[0]} x {mask.shape[1]} in place of the image\'s '
                         f'{shape[0]} x {shape[1]} (height x width)')
    return mask[None]
