# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Everything that reads what a model wrote, and what each of them promises of any text."""
import html
import json
import math
import re

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdpad.analysis.pages.html import safe
from mmdpad.analysis.pages.rollouts import Group, rollouts_as_html, rollouts_as_text
from mmdpad.analysis.reward_by_length import length_gaps
from mmdpad.apis.demo_page.asking import reasoning_in
from mmdpad.apis.demo_page.markup import text as markup_text
from mmdpad.engine.hooks.rollout_log_hook import rows_of
from mmdpad.engine.runner.rollout_stats import describe_rollout
from mmdpad.evaluation.scoring import score_sample
from mmdpad.geometry.coordinates import to_model_frame
from mmdpad.models import BoxDecoder, ReasoningSegmentor
from mmdpad.prompts import (
    FAILURE_REASONS,
    MAX_OBJECTS,
    follows_template,
    locate_detections,
    parse_detections,
    parse_response,
)
from mmdpad.prompts.parser import find_reference_object
from mmdpad.rewards import RewardComposition, distinct_n, score_response
from mmdpad.structures import ParseFailure, ReasoningOutput, RolloutBatch
from mmdpad.utils import to_jsonl
from mmdpad.visualization.text_panel import printable

SWITCHES = [dict(), dict(reference_compatible=True), dict(several_objects=True)]
SOLUTION = '<box>(10,20),(430,640)</box><points>(15,30),(200,300)</points>'
TERMS = dict(
    format=dict(type='ThinkingFormatReward'),
    format_two=dict(type='ThinkingFormatReward', caption=False, allow_empty=True),
    answer=dict(type='SegmentationFormatReward'), box=dict(type='BoxIoUReward'),
    iou=dict(type='BoxIoUReward', threshold=None), l1=dict(type='BoxL1Reward'),
    points=dict(type='PointL1Reward'), length=dict(type='ReasoningLengthReward', soft=20, hard=400),
    repetition=dict(type='RepetitionReward'),
    f1=dict(type='DetectionF1Reward'), detection_iou=dict(type='DetectionIoUReward'),
    ap=dict(type='DetectionAPReward'), count=dict(type='CountReward'),
    rejection=dict(type='RejectionReward'),
    words=dict(type='AnswerReward', measure='number'),
    evidence=dict(type='EvidenceIoUReward'),
    quantile=dict(type='QuantileReward', term=dict(type='BoxIoUReward', threshold=None)))
IMAGE_SHAPE, PROMPT_SHAPE = (24, 36), (840, 840)
# As the published code has them; for short texts.
_TEMPLATES = {
    caption: re.compile(r'<think>.*?</think>\s*<answer>.*?</answer>' + end, re.DOTALL)
    for caption, end in ((True, r'\s*<caption>.*?</caption>'), (False, ''))}
_PUBLISHED_OBJECT = re.compile(r'{[^}]+}')


def check_parsing(text: str) -> None:
    """The parser, the coordinates, the published scorer and what counts words."""
    for switches in SWITCHES:
        parsed = parse_response(text, **switches)
        check_parsed(parsed, text, several=bool(switches.get('several_objects')))
        moved = to_model_frame(parsed, 'relative_1000', (840, 1260))
        assert type(moved) is type(parsed) and len(moved.objects) == len(parsed.objects)
        check_numbers(moved)
    detected, places = parse_detections(text), locate_detections(text)
    if isinstance(detected, ReasoningOutput):
        assert [json.loads(text[slice(*place['label'])]).strip() for place in places] == [
            item.label for item in detected.objects]
    for caption in (True, False):
        follows = follows_template(text, caption)
        if len(text) < 300:
            assert follows == bool(_TEMPLATES[caption].fullmatch(text))
    found = find_reference_object(text)
    assert found is None or isinstance(found, dict)
    if found is None and len(text) < 300 and (match := _PUBLISHED_OBJECT.search(text)):
        assert not is_object(match[0])
    scores = score_response(text, SOLUTION)
    assert 0 <= scores.pop('box_iou') <= 1 and set(scores.values()) <= {0.0, 1.0}
    words = text.split()[:2000]
    grams = [tuple(words[i:i + 3]) for i in range(len(words) - 2)]
    share = len(set(grams)) / len(grams) if grams else 0.0
    assert distinct_n([' '.join(words)], 3) == share


def is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def check_parsed(parsed, text: str, several: bool) -> None:
    """Whether it is what the docstrings of both classes say."""
    for part in (parsed.think, parsed.caption):
        assert part is None or (part in text and part == part.strip())
    check_numbers(parsed)
    if isinstance(parsed, ParseFailure):
        assert parsed.reason in FAILURE_REASONS and 0 < len(parsed.detail) < 300
        return
    assert isinstance(parsed, ReasoningOutput)
    assert len(parsed.objects) <= MAX_OBJECTS if several else len(parsed.objects) == 1
    for item in parsed.objects:
        assert item.box[0] < item.box[2] and item.box[1] < item.box[3]
        assert len(item.points) == (1 if several else 2)


def check_numbers(parsed) -> None:
    for item in parsed.objects:
        for values in (item.box or (), *(item.points or ())):
            for value in np.ravel(values):
                assert isinstance(value, float) and abs(value) < 2e9


def rollout_of(texts: list[str], several: bool, group_size: int = 1) -> RolloutBatch:
    """One prompt for each group; each third has no target where there may be several."""
    parsed = [parse_response(text, several_objects=several) for text in texts]
    samples = []
    for prompt in range(len(texts) // group_size):
        targets = prompt % 3 if several else 1
        boxes = torch.tensor([[10., 20., 430., 640.], [300., 5., 839., 70.]])[:targets]
        points = torch.tensor([[[15., 30.], [200., 300.]], [[310., 9.], [700., 60.]]])[:targets]
        samples.append(DetDataSample(
            metainfo=dict(img_id=prompt, img_path='a.jpg', question='which?', classes=('cup', ),
                          class_labels=(0, ), answers=('2', )),
            model_targets=InstanceData(bboxes=boxes, points=points[:, :1 + (not several)],
                                       labels=torch.zeros(targets, dtype=torch.long))))
    words = [math.nan if p.think is None else float(len(p.think.split())) for p in parsed]
    return RolloutBatch(
        samples, [], group_size, texts, parsed, reasoning_tokens=torch.tensor(words),
        response_mask=torch.ones(len(texts), 1).bool(), truncated=torch.zeros(len(texts)).bool())


def check_rewards(texts: list[str], several: bool) -> list[dict]:
    """All reward terms, the numbers for the log and the lines of the rollout log, which are
    returned."""
    rollout = rollout_of(texts, several, group_size=min(8, len(texts) // 2))
    composition = RewardComposition(TERMS)
    composition.score(rollout)
    for name, values in rollout.rewards.items():
        assert ((values >= 0) & (values <= 1)).all(), name
        if 'format' in name or name == 'answer':
            assert ((values == 0) | (values == 1)).all()
    rollout.total_rewards = composition.total(rollout)
    rollout.advantages = torch.zeros_like(rollout.total_rewards)
    for name, value in describe_rollout(rollout).items():
        assert math.isfinite(value), name
    rows = rows_of(rollout, 1)
    written = [json.loads(line) for line in to_jsonl(rows).decode().split('\n')[:-1]]
    assert len(written) == len(texts)
    return written


def check_shown(rows: list[dict]) -> None:
    """Pages, terminal and the demo page show it as text, whatever it is."""
    groups = {'Best': [Group(rows)]}
    assert_steers_nothing(rollouts_as_text(1, groups))
    assert '<script' not in rollouts_as_html(1, groups, lambda path: None)
    for row in rows:
        text = row['response']
        assert_steers_nothing(printable(text))
        for shown in (safe(text), markup_text(text)):
            assert not set('<>"\'') & set(shown)
            assert html.unescape(shown) == printable(text)
        assert not set('{$') & set(markup_text(text))
        for end in range(0, len(text), 1 + len(text) // 4):  # while it is written
            assert reasoning_in(text[:end]) in text
    length_gaps(rows)


def assert_steers_nothing(text: str) -> None:
    assert text.replace('\n', '').isprintable()


class Drawing:
    """What a segmentor draws, with a decoder that fills boxes, and what the metric says of it."""

    def __init__(self) -> None:
        self.decoder = BoxDecoder()
        rng = np.random.default_rng(0)
        self.target = rng.random((1, *IMAGE_SHAPE)) < 0.5

    def check(self, text: str, several: bool) -> dict:
        """Returns the row of the result file."""
        parsed = parse_response(text, several_objects=several)
        usable = () if isinstance(parsed, ParseFailure) else parsed.objects
        found = ReasoningSegmentor.decode_masks(
            self, usable, torch.zeros(3, *IMAGE_SHAPE, dtype=torch.uint8), PROMPT_SHAPE)
        assert found.masks.shape == (len(usable), *IMAGE_SHAPE) and found.bboxes.isfinite().all()
        row = score_sample(dict(
            gt_instances=dict(masks=self.target), pred_instances=found,
            reasoning=dict(parsed=parsed, response=text)), 'target')
        assert 0 <= row['iou'] <= 1 and 0 <= row['pointing'] <= 1
        assert 0 <= row['intersection'] <= row['union'] <= self.target.size
        assert row['repetition'] is None or 0 <= row['repetition'] < 1
        assert (row['failure'] is None) == isinstance(parsed, ReasoningOutput)
        json.loads(to_jsonl([row]))
        return row


def check_all(texts: list[str], drawing: Drawing, several: bool, shown: bool) -> None:
    """All of these; pages and masks, which cost most, where they are asked for.

    Args:
        texts: Four, or a multiple of 16.
        several: Whether answers are lists; the parser is checked both ways.
    """
    for text in texts:
        check_parsing(text)
    rows = check_rewards(texts, several)
    if shown:
        check_shown(rows)
        for text in texts:
            drawing.check(text, several)
