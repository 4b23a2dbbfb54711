# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Masks that somebody predicted and stored, scored against a data set without any model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmdpad.prompts import normalise_question
from mmdpad.structures import ParseFailure, ReasoningOutput
from mmdpad.utils.masks import decode_mask

from .metrics import ReasonSegMetric
from .pairing import SHOWN, number_samples, show_keys

OPTIONAL = ('boxes', 'points', 'scores', 'think', 'caption', 'think_tokens', 'caption_tokens',
            'truncated', 'response', 'failure', 'failure_detail')
"""What a line may have besides ``id``, ``question`` and ``mask``, as the files of
:class:`ReasonSegMetric` do."""


def score_predictions(dataset: Any, predictions: Sequence[dict],
                      metric: ReasonSegMetric) -> dict[str, float]:
    """Let a metric score stored predictions; its files are those of any evaluation.

    Args:
        dataset: Built from :func:`mmdpad.datasets.transforms.without_pixels`.
        predictions: See :func:`match_predictions`; :data:`OPTIONAL` entries are taken over.
        metric: Of which samples are scored one by one.

    Raises:
        ValueError: As in :func:`match_predictions`, or a protocol that the data cannot follow,
            before any work; or a mask is no RLE or not of its image's size.
    """
    metric.dataset_meta = dataset.metainfo
    items = [dataset.get_data_info(i) for i in range(len(dataset))]
    for i, line in enumerate(match_predictions(predictions, items)):
        metric.process(None, [_make_sample(dataset[i], line)])
    return metric.evaluate(len(items))


def match_predictions(predictions: Sequence[dict], items: Sequence[dict]) -> list[dict]:
    """The prediction to each item of a data set.

    Args:
        predictions: Lines with ``id``, ``question`` and ``mask`` (COCO's RLE; null: none could be
            predicted, which counts as failed).
        items: With ``img_id`` and ``question``; of several that agree in both, the first gets the
            first line.

    Raises:
        ValueError: A line lacks an entry, an item has no line, or a line no item (a second one to
            the same item among them); all are counted and the first few named.
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
        raise ValueError(f'Each item should have a prediction, but none is to {show_keys(missing)} '
                         f'of {len(asked)}; add them, with a `mask` of null where a prediction '
                         f'failed')
    extra = sorted(given.keys() - set(asked))
    if extra:
        raise ValueError(f'Each prediction should be to an item of the data set, and one to each, '
                         f'but there are also {show_keys(extra)}; remove what is twice there, or '
                         f'name the data set that was predicted')
    return [given[key] for key in asked]


def _make_sample(item: dict, line: dict) -> dict[str, Any]:
    """What :meth:`ReasonSegMetric.process` takes, from an item with masks and its prediction."""
    said = {name: line.get(name) for name in OPTIONAL}
    parts = dict(think=said['think'], caption=said['caption'])
    reason = said['failure'] or (line['mask'] is None and 'no_mask')
    parsed = (ParseFailure(reason, said['failure_detail'] or 'the stored mask is null', **parts)
              if reason else ReasoningOutput(**parts, objects=()))
    try:
        masks = _read_masks(None if reason else line['mask'], tuple(item['ori_shape']))
        predicted = {name: np.array(said[key], float) for name, key in (
            ('bboxes', 'boxes'), ('points', 'points'), ('scores', 'scores'))
            if said[key] is not None}
    except ValueError as error:
        raise ValueError(f'The prediction to {item["img_id"]!r}, {item["question"]!r} cannot be '
                         f'used: {error}') from error
    sample = dict(
        {key: item.get(key) for key in ('sample_idx', 'img_id', 'img_path', 'is_sentence')},
        question=normalise_question(item['question']),
        gt_instances=dict(masks=item['gt_masks']), pred_instances=dict(predicted, masks=masks),
        reasoning=dict(parsed=parsed, response=said['response'],
                       truncated=bool(said['truncated']), think_tokens=said['think_tokens'],
                       caption_tokens=said['caption_tokens']))
    if 'ignore_mask' in item:
        sample['ignored_instances'] = dict(masks=item['ignore_mask'][None])
    return sample


def _read_masks(rle: dict | None, shape: tuple[int, int]) -> np.ndarray:
    """bool (1, H, W), or (0, H, W) without a mask."""
    if rle is None:
        return np.zeros((0, *shape), bool)
    mask = decode_mask(rle)
    if mask.shape != shape:
        raise ValueError(f'its mask is {mask.shape[0]} x {mask.shape[1]} in place of the image\'s '
                         f'{shape[0]} x {shape[1]} (height x width)')
    return mask[None]
