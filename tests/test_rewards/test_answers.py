# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Rewards of answers in words and of their evidence, on values worked out by hand."""
import math

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch.utils.data import Subset

from mmdpad.rewards import AnswerReward, EvidenceIoUReward, score_answer
from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput, RolloutBatch

TEN = ('red', ) * 3 + ('dark red', ) * 6 + ('crimson', )
# 10 x 10 pixels each, both ends inclusive; HALF covers half of A.
A, B, HALF = (0, 0, 9, 9), (20, 0, 29, 9), (0, 0, 9, 4)


def make_sample(targets=(), **meta):
    sample = DetDataSample(metainfo=dict(question='q', **meta))
    sample.model_targets = InstanceData(bboxes=torch.tensor(targets).reshape(-1, 4).float(),
                                        points=torch.zeros(len(targets), 1, 2))
    return sample


def answer(text, *boxes):
    return ReasoningOutput('t', 'c', tuple(AnsweredObject(box, None) for box in boxes), text)


def rollout_of(samples, *parsed):
    return RolloutBatch(samples, [None] * len(samples), len(parsed) // len(samples),
                        ['t'] * len(parsed), list(parsed))


def test_answers_by_each_measure():
    sample = make_sample(answers=TEN)
    failed = ParseFailure('bad_value', 'x', answer='red')
    rollout = rollout_of([sample], answer('Red'), answer('the dark red'), answer('blue'), failed)
    assert AnswerReward()(rollout).tolist()[0] == pytest.approx([.9, 1, 0, 0])
    assert AnswerReward('exact')(rollout).tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize('text, answers, tolerance, wanted', [
    ('105', ['100'], .05, 1), ('105.1', ['100'], .05, 0), ('95', ['100'], .05, 1),
    ('about 3', ['three'], 0, 1), ('4', ['three', '4'], 0, 1), ('-1', ['-1.04'], .05, 1),
    ('red', ['Red.'], 0, 1), ('3', ['many'], 9, 0), ('many', ['3'], 9, 0), ('0', ['0'], 0, 1)])
def test_numbers_within_a_tolerance(text, answers, tolerance, wanted):
    assert score_answer(text, answers, measure='number', tolerance=tolerance) == wanted


def test_choices_count_by_letter_or_text_whatever_the_measure():
    for measure in ('vqa', 'exact', 'number'):
        found = [score_answer(text, ['blue'], ['red', 'blue'], measure)
                 for text in ('B', 'Blue.', '(b) blue', 'A', '(a) blue', 'green', ' ')]
        assert found == [1, 1, 1, 0, 0, 0, 0]
    assert score_answer('B', ['B'], ['red', 'blue']) == 1  # the annotation may be a letter, too


def test_a_question_without_answers_is_an_error():
    with pytest.raises(ValueError, match="`answers` .* question 'q' does not have"):
        AnswerReward()(rollout_of([make_sample()], answer('x')))
    for arguments, problem in ((dict(measure='bleu'), "one of .* but got 'bleu'"),
                               (dict(tolerance=-1), '0 or more'),
                               (dict(tolerance=math.nan), '0 or more'),
                               (dict(tolerance=math.inf), 'and finite')):
        with pytest.raises(ValueError, match=problem):
            AnswerReward(**arguments)


def test_evidence_by_hand():
    """Two targets: both found; one of two; one half; both and one too many; none; a failure."""
    failed = ParseFailure('missing_key', 'x', objects=(AnsweredObject(A, None),
                                                      AnsweredObject(None, None)))
    parsed = [answer('x', B, A), answer('x', A), answer('x', HALF), answer('x', A, B, A),
              answer('x'), failed]
    rollout = rollout_of([make_sample([A, B])], *parsed)
    assert EvidenceIoUReward()(rollout).tolist()[0] == pytest.approx([1, .5, .25, 2 / 3, 0, .5])
    assert EvidenceIoUReward('recall')(rollout).tolist()[0] == pytest.approx(
        [1, .5, .25, 1, 0, .5])
    assert EvidenceIoUReward(threshold=.4)(rollout).tolist()[0] == pytest.approx(
        [1, .5, .5, 2 / 3, 0, .5])


def test_evidence_that_the_data_do_not_know_favors_no_response():
    rollout = rollout_of([make_sample([A]), make_sample()], answer('x', A), answer('x', B),
                         answer('x', A), answer('x'))
    assert EvidenceIoUReward()(rollout).tolist() == [[1, 0], [0, 0]]
    signal = rollout.signals['evidence_iou']
    assert signal[0].tolist() == [1, 0] and signal[1].isnan().all()


def test_bad_arguments_of_the_evidence():
    with pytest.raises(ValueError, match="'iou', 'recall'"):
        EvidenceIoUReward('f1')
    with pytest.raises(ValueError, match='or None, but got 1'):
        EvidenceIoUReward(threshold=1)


class Data(list):
    def get_data_info(self, number):
        return self[number]


def test_training_data_without_any_evidence_are_refused():
    term, data = EvidenceIoUReward(), Data([dict(num_targets=0), dict(num_targets=1), dict()])
    for accepted in (None, data, Subset(data, [0, 1]), Subset(data, [2]), object()):
        term.prepare(None, accepted)
    for refused in (Data(data[:1]), Subset(data, [0])):
        with pytest.raises(ValueError, match='no question of the training data has any'):
            term.prepare(None, refused)
