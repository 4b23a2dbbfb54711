# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""No term rewards nothing: text without content earns every term's lowest value, 0."""
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from text_readers import TERMS as NAMED

from mmdpad.prompts import (
    format_detections,
    format_question_answer,
    format_response,
    parse_detections,
    parse_question_answer,
    parse_response,
)
from mmdpad.registry import REWARDS
from mmdpad.rewards import AnswerReward, EvidenceIoUReward, build_term
from mmdpad.rewards.detection import DetectionReward
from mmdpad.structures import RolloutBatch

TERMS = [*(term for term in NAMED.values() if not term.get('allow_empty')),
         dict(type='ThinkingFormatReward', caption=False)]
NOTHING = [
    '', ' ', '\x00', '\ud800', 'no tags', '{}', '[]', 'null', '<think>', '</think><think>',
    '<think></think><answer></answer><caption></caption>',
    '<think> </think>\n<answer> {} </answer>\n<caption> </caption>',
    '<think></think><answer>{"bbox": [], "points_1": [], "points_2": []}</answer>',
    '<think>\n</think><answer>{"bbox": [NaN, NaN, NaN, NaN], "points_1": [NaN, NaN], '
    '"points_2": [NaN, NaN]}</answer><caption>\n</caption>']


def rollout_of(texts, box, read=parse_response):
    sample = DetDataSample(metainfo=dict(classes=('cup', ), class_labels=(0, ),
                                         answers=('cup', )))
    sample.model_targets = InstanceData(
        bboxes=torch.tensor([box]), points=torch.tensor([[box[:2], box[2:]]]),
        labels=torch.tensor([0]))
    parsed = [read(text) for text in texts]
    return RolloutBatch(
        [sample], [None], len(texts), texts, parsed,
        reasoning_tokens=torch.tensor([torch.nan if p.think is None else float(len(p.think))
                                   for p in parsed]))


def reader(term):
    built = build_term(term)
    if isinstance(built, AnswerReward | EvidenceIoUReward):
        return parse_question_answer
    return parse_detections if isinstance(built, DetectionReward) else parse_response


def test_every_rule_term_is_tried():
    assert {term['type'] for term in NAMED.values()} == {
        name for name in REWARDS.module_dict if (kind := REWARDS.get(name)).__module__.startswith(
            'mmdpad.') and not any(getattr(kind, f'needs_{what}', False)
                                   for what in ('model', 'conversation'))}


@pytest.mark.parametrize('term', TERMS, ids=lambda term: '-'.join(map(str, term.values())))
@pytest.mark.parametrize('box', [[10., 10., 50., 50.], [0., 0., 0., 0.]], ids=['truth', 'empty'])
def test_nothing_earns_nothing(term, box):
    """Also where the truth itself is empty: a box of one pixel."""
    rewards = build_term(term)(rollout_of(NOTHING, box, reader(term)))
    assert rewards.tolist() == [[0.0] * len(NOTHING)]


def test_empty_tags_may_be_allowed_as_in_the_reference():
    text = '<think></think><answer></answer><caption></caption>'
    term = build_term(dict(type='ThinkingFormatReward', allow_empty=True))
    assert term(rollout_of([text, text + ' '], [0., 0., 0., 0.])).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize('term', TERMS, ids=lambda term: '-'.join(map(str, term.values())))
def test_a_right_answer_earns_something(term):
    """So that the test above can fail."""
    text = format_response('so', (10, 10, 50, 50), ((10, 10), (50, 50)), 'a cup')
    if term.get('caption') is False:
        text = text[:text.index('\n<caption>')]
    if reader(term) is parse_detections:
        text = format_detections('so', [((10, 10, 50, 50), 'cup', None)])
    if reader(term) is parse_question_answer:
        text = format_question_answer('so', 'a cup', [(10, 10, 50, 50)], 'a cup')
    assert build_term(term)(rollout_of([text], [10., 10., 50., 50.], reader(term))).item() > 0
