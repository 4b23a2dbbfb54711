# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Scores, tables and pictures of a study of looking again.

Where objects are tiny, a policy gains by a closer look, and so does the decoder. To tell the two
apart, the box and the points of every answer are decoded in three parts of the image
(:data:`VIEWS`), whatever the run itself did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from mmdpad.evaluation.measures import Row
from mmdpad.geometry.boxes import box_iou, contained_share, enlarge, outer_edges
from mmdpad.geometry.coordinates import shape_of
from mmdpad.geometry.crops import Crop, CropLimits
from mmdpad.geometry.targets import box_from_mask
from mmdpad.models.segmentors.mask_decoding import decode_masks
from mmdpad.structures import AnsweredObject
from mmdpad.utils import read_jsonl
from mmdpad.utils.markdown import markdown_table
from mmdpad.visualization import draw_answer, draw_grid

from .seeds import format_interval, format_number, t_interval

VIEWS = dict(image='the whole image', around='around its box', crop='the last crop')
"""What the decoder sees, and its title. 'around' is the box of the answer, twice as wide and high,
but as large as the smallest crop; 'crop' is the whole image if there was none."""
ARMS = {'one_look.start': 'one look, start', 'one_look': 'one look, trained',
        'zoom.start': 'may look closer, start', 'zoom': 'may look closer, trained'}
"""Arms and their titles."""
MODES = dict(greedy='Greedy', sampled='Temperature 1')
MEASURES = dict({f'iou_{view}': f'gIoU, decoder sees {title}' for view, title in VIEWS.items()},
                box_iou='IoU of boxes', box_is_right='boxes with IoU > 0.5',
                zoomed='looked closer', contained='target in the last crop, share',
                failed='answers that cannot be used', policy_tokens='tokens of reasoning')
"""Measures and their titles; in percent but for the last."""
COMPARISONS = {
    'both gain: two turns - one': ('zoom', 'iou_crop', 'one_look', 'iou_image'),
    'the policy gains, both decoders see the surroundings': (
        'zoom', 'iou_around', 'one_look', 'iou_around'),
    'the policy gains, both decoders see the image': ('zoom', 'iou_image', 'one_look', 'iou_image'),
    'boxes, two turns - one': ('zoom', 'box_iou', 'one_look', 'box_iou'),
    'the decoder gains, one turn: surroundings - image': (
        'one_look', 'iou_around', 'one_look', 'iou_image'),
    'training of two turns': ('zoom', 'iou_crop', 'zoom.start', 'iou_crop'),
    'training of one turn, boxes': ('one_look', 'box_iou', 'one_look.start', 'box_iou')}
"""Title -> an arm with a measure, and what it is compared with."""

Score = dict[str, Any]
Means = dict[int, dict[str, float]]

_LEAST = 1.0  # percent; a number over less than this says nothing
_SHOWN = 448  # pixels of a side of each picture of a conversation


def score_answer(row: Row, image: Tensor, target: np.ndarray, decoder: nn.Module,
                 limits: CropLimits) -> Score:
    """Score an answer about one object, its mask decoded in each of :data:`VIEWS`.

    Args:
        row: A line of :class:`ReasonSegMetric`, with ``boxes`` and ``points`` in the original
            frame, and ``conversation`` if it is the end of one.
        image: uint8 (3, H, W), RGB, the original image.
        target: bool (H, W).
        decoder: See :func:`.decode_masks`.
        limits: Of crops.

    Returns:
        The sample's ``id`` and all :data:`MEASURES`, shares in [0, 1].
    """
    shape = shape_of(image)
    crops = (row.get('conversation') or {}).get('crops') or []
    truth = box_from_mask(target).tolist()
    scores: Score = dict(
        id=row['id'], zoomed=bool(crops), failed=row['failure'] is not None,
        contained=contained_share(outer_edges(truth), crops[-1]) if crops else 0.0,
        policy_tokens=row['reasoning_tokens'])
    if row['failure'] is not None or not row['boxes']:
        return scores | dict.fromkeys([f'iou_{view}' for view in VIEWS], 0.0) | dict(
            box_iou=0.0, box_is_right=False)
    box = tuple(row['boxes'][0])
    answer = AnsweredObject(box, tuple(map(tuple, row['points'][0])))
    around = Crop.whole(shape, shape).zoom(enlarge(box, 0.5), 'pixels', shape, limits, 1)
    windows = dict(image=None, around=around and around.box,
                   crop=tuple(crops[-1]) if crops else None)
    for view, window in windows.items():
        mask = decode_masks(decoder, [answer], image, shape, window=window).masks[0].numpy()
        scores[f'iou_{view}'] = float((mask & target).sum() / (mask | target).sum())
    iou = box_iou(box, truth)
    return scores | dict(box_iou=iou, box_is_right=iou > 0.5)


def read_scores(folder: Path) -> dict[str, dict[str, Means]]:
    """Mode -> arm -> seed -> the means of a run, in percent but for tokens, from the files
    ``ARM/seed_N/MODE.scores.jsonl`` of a study's folder."""
    found: dict[str, dict[str, Means]] = {}
    for mode in MODES:
        found[mode] = {}
        for arm in ARMS:
            files = sorted(folder.glob(f'{arm}/seed_*/{mode}.scores.jsonl'))
            if files:
                found[mode][arm] = {int(file.parent.name.removeprefix('seed_')): _means(
                    list(read_jsonl(str(file)))) for file in files}
    return found


def _means(scores: Sequence[Score]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in scores if row[name] is not None] or [np.nan]))
            * (1 if name == 'policy_tokens' else 100) for name in MEASURES}


def format_study(found: Mapping[str, Mapping[str, Means]]) -> str:
    """Tables of :func:`read_scores` as Markdown: means of seeds with the interval of Student's t,
    then :data:`COMPARISONS` as differences and ratios, paired by seed; a reference below 1 % has no
    ratio."""
    parts = []
    for mode, arms in found.items():
        if not arms:
            continue
        parts += [f'**{MODES[mode]}:**', markdown_table(
            ['', *(f'{ARMS[arm]} ({len(runs)})' for arm, runs in arms.items())],
            [[title, *(_show([run[name] for run in runs.values()]) for runs in arms.values())]
             for name, title in MEASURES.items()])]
        lines = []
        for title, (arm, name, reference, other) in COMPARISONS.items():
            runs, bases = arms.get(arm, {}), arms.get(reference, {})
            if mode == 'greedy' and reference.endswith('.start') and bases:
                bases = dict.fromkeys(runs, bases[0])  # which do not depend on the seed
            pairs = [(run[name], bases[seed][other]) for seed, run in runs.items()
                     if seed in bases]
            if pairs:
                lines.append([title, _show([a - b for a, b in pairs], '+'),
                              _show([a / b if b >= _LEAST else np.nan for a, b in pairs],
                                    digits=2)])
        parts.append(markdown_table(['', 'difference', 'ratio'], lines))
    return '\n\n'.join(part.strip() for part in parts)


def _show(values: Sequence[float], sign: str = '', digits: int = 1) -> str:
    """The mean and, of several seeds, its interval; '-' if there is none."""
    found = t_interval(values)
    return (format_number(found['mean'], sign, digits)
            + format_interval(found, '', sign, digits)) if found['n'] else '-'


def draw_conversation(row: Row, image: Tensor, target: np.ndarray, model_image: Tensor
                      ) -> np.ndarray:
    """Draw what a policy saw and answered: the model image with the last crop's place, and the
    crop (else the surroundings of the target) with the answer's box, points and mask.

    Args:
        row: A line of :class:`ReasonSegMetric` with ``mask``.
        image, target: See :func:`score_answer`.
        model_image: uint8 (3, h, w), RGB.

    Returns:
        uint8 (H', W', 3), RGB.
    """
    from mmdpad.geometry.masks import decode_mask
    shape = shape_of(image)
    crops = (row.get('conversation') or {}).get('crops') or []
    limits = CropLimits(min_side=80, size=(_SHOWN, _SHOWN))
    whole = Crop.whole(shape, (_SHOWN, _SHOWN))
    shown = Crop(tuple(crops[-1]), (_SHOWN, _SHOWN)) if crops else whole.zoom(
        whole.from_original(box_from_mask(target).tolist(), 'pixels'), 'pixels', shape, limits, 1)
    assert shown is not None
    far = Image.fromarray(model_image.permute(1, 2, 0).numpy()).resize((_SHOWN, _SHOWN),
                                                                      Image.Resampling.NEAREST)
    masks = [np.array(Image.fromarray(mask[slice(*shown.box[1::2]), slice(*shown.box[::2])]).resize(
        (_SHOWN, _SHOWN), Image.Resampling.NEAREST))
        for mask in (target, decode_mask(row['mask']) if row['mask'] else np.zeros(shape, bool))]
    return draw_grid([
        draw_answer(np.array(far), boxes=[whole.from_original(shown.box, 'pixels')], panel=False),
        draw_answer(shown.cut(image).permute(1, 2, 0).numpy(), masks[1],
                    [shown.from_original(box, 'pixels') for box in row['boxes'] or ()],
                    [[*shown.from_original(point, 'pixels')] for points in row['points'] or ()
                     for point in points],
                    question=row['question'], think=row['think'], gt_mask=masks[0],
                    note=f'IoU {100 * row["iou"]:.0f}')], columns=2)
