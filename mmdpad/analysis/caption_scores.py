# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Scores true, generic and wrong captions of a data set's items by the discriminative term."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmdpad.geometry.boxes import union_box
from mmdpad.prompts.template import normalize_question
from mmdpad.rewards import DiscriminativeReward, list_rewards
from mmdpad.structures import AnsweredObject, ReasoningOutput, RolloutBatch

from .discriminator_check import KINDS, CaptionScores

GENERIC_CAPTIONS = ('an object in the picture', 'something in the picture')
NUM_WRONG = 3


@dataclass(frozen=True)
class CaptionItem:
    """An item of a data set: its index, its image's path, and a true caption."""

    index: int
    image: str
    caption: str


def find_rewards(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name of each discriminative term in a config (:func:`list_rewards`) -> arguments of
    :class:`DiscriminativeReward`; includes terms nested in other terms."""
    return {reward.name: {key: value for key, value in part.items()
                          if key not in ('type', '_scope_', 'weight', 'tasks')}
            for reward in list_rewards(config) for kind, part in reward.parts
            if isinstance(kind, type) and issubclass(kind, DiscriminativeReward)}


def find_reward(config: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """Arguments of :class:`DiscriminativeReward` for one of a config's terms.

    Args:
        config: A run's config.
        name: The term's name; None if there is only one.

    Raises:
        ValueError: There is no such term, or there are several and none was named.
    """
    found = find_rewards(config)
    if not found:
        raise ValueError('The config should have a DiscriminativeRewardHook, but has none, nor a '
                         'DiscriminativeReward in `train_cfg.rewards`; name a config that trains '
                         'with the discriminative term')
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        raise ValueError(f'The term should be one of {list(found)}, the names of the config\'s '
                         f'discriminative terms, but got {name!r}; name one with --term')
    return found[name]


def find_captions(dataset: Any, path: str | None = None) -> tuple[list[CaptionItem], str]:
    """True captions of a data set's items, all from the best available source.

    Args:
        dataset: Its ``get_data_info`` has ``img_id``, ``img_path``, ``question`` and optionally
            ``caption``.
        path: A file of captions, see :func:`read_captions`.

    Returns:
        The items that have a caption, and the source: 'file', 'data set' or 'question'.

    Raises:
        ValueError: The file is invalid or has no caption for any item of the data set.
    """
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    source = 'question'
    captions = {i: info['question'] for i, info in enumerate(infos)}
    if path is not None:
        source, captions = 'file', _match(path, infos)
    elif any('caption' in info for info in infos):
        source = 'data set'
        captions = {i: info['caption'] for i, info in enumerate(infos) if 'caption' in info}
    return [CaptionItem(i, str(infos[i]['img_path']), captions[i])
            for i in sorted(captions)], source


def read_captions(path: str) -> dict[int, dict]:
    """Lines of a caption file by their number, from 1.

    Each is a JSON object with the text ``caption``, and ``id``, or ``image`` (the image's path or
    file name) and ``question``; empty lines are skipped.

    Raises:
        ValueError: A line is something else, or there are no lines.
    """
    rows = {}
    for number, line in enumerate(Path(path).read_text('utf-8', 'replace').split('\n'), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get('caption'), str) or not (
                'id' in row or {'image', 'question'} <= row.keys()):
            raise ValueError(f'{path}, line {number} should be a JSON object with the text '
                             f'`caption`, and `id`, or `image` and `question`, but is '
                             f'{line[:80]!r}')
        rows[number] = row
    if not rows:
        raise ValueError(f'{path} should hold one JSON object per line, but is empty')
    return rows


def _match(path: str, infos: Sequence[dict]) -> dict[int, str]:
    """Item -> its caption in a file."""
    named: dict[Any, list[int]] = {}
    for i, info in enumerate(infos):
        question = normalize_question(info['question'])
        for key in ('id', str(info['img_id'])), (Path(str(info['img_path'])).name, question):
            named.setdefault(key, []).append(i)
    found: dict[int, int] = {}
    rows = read_captions(path)
    for number, row in rows.items():
        items = _items_of(row, named, infos)
        if len(items) > 1:
            raise ValueError(f'{path}, line {number} should name one item of the data set, but '
                             f'it names {len(items)}; give `id` and `question`')
        for item in items:
            if item in found:
                raise ValueError(f'{path} should have one caption per item, but lines '
                                 f'{found[item]} and {number} are about the same; remove one')
            found[item] = number
    if not found:
        first, info = next(iter(rows.values())), infos[0]
        raise ValueError(f'None of the {len(rows)} captions in {path} is about one of the '
                         f'{len(infos)} items of the data set: the first line has '
                         f'{ {k: v for k, v in first.items() if k != "caption"} }, the first item '
                         f'id {info["img_id"]!r}, image {str(info["img_path"])!r}, question '
                         f'{info["question"]!r}')
    return {item: rows[number]['caption'] for item, number in found.items()}


def _items_of(row: dict, named: Mapping[Any, list[int]], infos: Sequence[dict]) -> list[int]:
    question = normalize_question(row['question']) if isinstance(row.get('question'), str) else None
    if 'id' not in row:
        return named.get((Path(str(row['image'])).name, question), [])
    items = named.get(('id', str(row['id'])), [])
    if question is None:
        return items
    return [i for i in items if normalize_question(infos[i]['question']) == question]


def spread(items: Sequence[CaptionItem], number: int | None) -> list[CaptionItem]:
    """``number`` of the items, evenly spaced; all of them if there are no more."""
    if number is None or number >= len(items):
        return list(items)
    return [items[i * len(items) // number] for i in range(number)]


def draw_wrong(items: Sequence[CaptionItem], number: int = NUM_WRONG,
               seed: int = 0) -> list[list[str | None]]:
    """For each item, ``number`` captions of other images' items with other texts, drawn without
    replacement; None in place of missing ones."""
    rng = np.random.default_rng(seed)
    drawn = []
    for item in items:
        own, found = _plain(item.caption), {}
        for i in rng.permutation(len(items)):
            text = items[i].caption
            if items[i].image != item.image and _plain(text) != own:
                found.setdefault(_plain(text), text)
            if len(found) == number:
                break
        drawn.append([*found.values(), *[None] * (number - len(found))])
    return drawn


def _plain(text: str) -> str:
    return ' '.join(text.lower().split())


def score_captions(reward: DiscriminativeReward, dataset: Any, items: Sequence[CaptionItem],
                   generic: Sequence[str] = GENERIC_CAPTIONS,
                   progress: Callable[[Any], Any] = iter) -> tuple[CaptionScores, int]:
    """Score items with the discriminative term, as in training.

    Each caption is part of an answer with the target's boxes, so the region 'predicted' is also
    the target's. A term with ``per_instance`` is checked as one about a caption of all targets.

    Args:
        reward: The term.
        dataset: Returns items packed by :class:`PackReasoningInputs`, with ``model_targets``.
        items: The items to score, with their true captions.
        generic: Captions that are true for any object.
        progress: Iterates over its argument and may display the progress.

    Returns:
        The scores of the items that have a target, and the number of items without one.

    Raises:
        ValueError: The pipeline provides no targets, or no item has one.
    """
    reward, ranking = copy.copy(reward), copy.copy(reward)
    reward.options = replace(reward.options, per_instance=False)
    ranking.options = replace(reward.options, contrast='others')
    rows: list[dict[str, Any]] = []
    for item, wrong in progress(list(zip(items, draw_wrong(items), strict=True))):
        image, sample = _load(dataset, item.index)
        if len(sample.model_targets.bboxes):
            rows.append(_score(reward, ranking, image, sample, item.caption, generic, wrong))
    if not rows:
        raise ValueError(f'None of {len(items)} items has a target; captions need an object')
    scores = CaptionScores(
        margins={kind: _stack([row[kind] for row in rows]) for kind in KINDS},
        rewards={kind: _stack([row[f'{kind}_reward'] for row in rows])
                 for kind in ('true', 'generic')},
        **{name: np.array([row[name] for row in rows], float)
           for name in ('ranks', 'others', 'areas')})
    return scores, len(items) - len(rows)


def _load(dataset: Any, index: int) -> tuple[Tensor, Any]:
    """The model image of an item and its data sample."""
    packed = dataset[index]
    sample = packed['data_samples']
    if 'model_image' not in packed['inputs'] or not hasattr(sample, 'model_targets'):
        raise ValueError('The pipeline of the data set should give a model image and targets in '
                         'its frame (`ModelImageResize`, `TargetsFromMask` or '
                         '`TargetsFromSolution`, `PackReasoningInputs`); name a loader '
                         'that trains with --loader')
    return packed['inputs']['model_image'], sample


def _score(reward: DiscriminativeReward, ranking: DiscriminativeReward, image: Tensor, sample: Any,
           caption: str, generic: Sequence[str], wrong: Sequence[str | None]) -> dict[str, Any]:
    """Margins, rewards, rank, number of other objects and area for one item; see
    :class:`CaptionScores`."""
    rollout = _rollout(image, [sample], [caption, *generic, *wrong])
    rewards = reward(rollout)[0].tolist()
    margins = rollout.signals['s_margin'][0].tolist()
    end = 1 + len(generic)
    found = dict(
        true=margins[:1], generic=margins[1:end], wrong=margins[end:], misplaced=[],
        true_reward=rewards[:1], generic_reward=rewards[1:end], ranks=np.nan,
        others=len(rollout.negative_boxes[0]), areas=_area(sample.model_targets.bboxes, image))
    if found['others']:
        ranked = _rollout(image, [sample], [caption])
        ranking(ranked)
        misplaced = _rollout(image, _swapped(sample), [caption])
        reward(misplaced)
        found.update(ranks=ranked.signals['s_rank'].item(),
                     misplaced=misplaced.signals['s_margin'].flatten().tolist())
    return found


def _rollout(image: Tensor, samples: Sequence[Any],
             captions: Sequence[str | None]) -> RolloutBatch:
    """All captions, for each sample of one image."""
    parsed = [ReasoningOutput(None, caption, tuple(
        AnsweredObject(tuple(box), ()) for box in sample.model_targets.bboxes.tolist()))
        for sample in samples for caption in captions]
    return RolloutBatch(list(samples), [image] * len(samples), len(captions),
                        [answer.caption or '' for answer in parsed], parsed)


def _swapped(sample: Any) -> list[SimpleNamespace]:
    """The sample as if each of the other objects were the target, and the target another object."""
    own, others = sample.model_targets.bboxes, sample.model_negatives.bboxes
    return [SimpleNamespace(
        model_targets=InstanceData(bboxes=others[i:i + 1]),
        model_negatives=InstanceData(bboxes=torch.cat([own, others[:i], others[i + 1:]])))
        for i in range(len(others))]


def _area(boxes: Tensor, image: Tensor) -> float:
    """Area of the union box, as a share of the image."""
    x1, y1, x2, y2 = union_box(boxes.tolist())
    height, width = image.shape[-2:]
    return (x2 - x1) * (y2 - y1) / (height * width)


def _stack(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Rows of different lengths as (N, K), padded with NaN at the end, K >= 1."""
    stacked = np.full((len(rows), max(1, *map(len, rows))), np.nan)
    for out, row in zip(stacked, rows, strict=True):
        out[:len(row)] = row
    return stacked
