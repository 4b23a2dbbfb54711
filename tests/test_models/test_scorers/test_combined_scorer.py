# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Several scores as one."""
import math

import numpy as np
import pytest

from mmdpad.models import Calibration, CombinedScorer
from mmdpad.models.scorers import BoxScorer, ScoredObjects
from mmdpad.registry import MODELS


class Given(BoxScorer):
    """Gives fixed scores."""

    def __init__(self, scores=(), calibration=None):
        super().__init__(calibration)
        self.scores = np.array(scores)

    def score(self, answers, policy):
        return [ScoredObjects(self.scores, {'score': self.scores, f'raw_{self.name}': self.scores})
                for _ in answers]

    def options(self):
        return dict(type=type(self).__name__)


@MODELS.register_module()
class GivenLikelihood(Given):
    name, feature_names, needs_policy = 'likelihood', ('raw_likelihood', ), True


@MODELS.register_module()
class GivenDiscrimination(Given):
    name, feature_names = 'discrimination', ('raw_discrimination', )


def combined(first=(0.5, 0.9, 0.0), second=(0.8, 0.9, 1.0), **options):
    return CombinedScorer([dict(type='GivenLikelihood', scores=first),
                           dict(type='GivenDiscrimination', scores=second)], **options)


def test_means_by_hand():
    weighted, = combined(weights=[1, 3])(['answer'])
    odds = math.log(0.8 / 0.2) * 3 / 4
    assert weighted.scores == pytest.approx([1 / (1 + math.exp(-odds)), 0.9, 1 / (
        1 + math.exp(-math.log(1e6 - 1) / 2))])
    geometric, = combined(mean='geometric')(['answer'])
    assert geometric.scores == pytest.approx([math.sqrt(0.4), 0.9, 0.0])
    alone, = combined(weights=[0, 2], mean='geometric')(['answer'])
    assert alone.scores == pytest.approx([0.8, 0.9, 1.0])


def test_features_are_those_of_the_parts_and_their_scores():
    scorer = combined()
    found, = scorer(['answer'])
    assert {*found.features} == {*scorer.feature_names, 'score'} == {
        'likelihood', 'discrimination', 'raw_likelihood', 'raw_discrimination', 'score'}
    assert found.features['discrimination'].tolist() == [0.8, 0.9, 1.0]
    assert (found.features['score'] == found.scores).all() and scorer.needs_policy
    assert scorer.options() == dict(type='CombinedScorer', mean='logit', weights=[1.0, 1.0],
                                    scorers=[dict(type='GivenLikelihood'),
                                             dict(type='GivenDiscrimination')])


@pytest.mark.parametrize('scorers, options, message', [
    ([dict(type='GivenLikelihood')], {}, '`scorers` should be at least two of .*, but got 1'),
    ([dict(type='GivenLikelihood')] * 2, {},
     r"`scorers` should be of different types, but got \['likelihood', 'likelihood'\]"),
    ([dict(), dict()], {}, r'`scorers.0` should be a dict with the `type` of a scorer'),
    ([dict(type='torch.nn.Identity')] * 2, {},
     '`scorers.0.type` should be LikelihoodScorer or another subclass of BoxScorer, but got Ident'),
    (None, dict(weights=[1]), r'one finite number for each of the 2 scorers, .* got \[1\]'),
    (None, dict(weights=[0, 0]), 'not all 0'), (None, dict(weights=[1, -1]), 'none negative'),
    (None, dict(mean='mean'), r"`mean` should be one of \('logit', 'geometric'\), but got 'mean'")])
def test_bad_options(scorers, options, message):
    with pytest.raises(ValueError, match=message):
        combined(**options) if scorers is None else CombinedScorer(scorers, **options)


def test_parts_have_no_calibrations(tmp_path):
    path = Calibration('isotonic', ('score', ), dict(x=[0.0], y=[0.5]), 0.5,
                       dict(type='GivenLikelihood')).write(str(tmp_path / 'c.json'))
    with pytest.raises(ValueError, match='`scorers` should have no calibrations of their own'):
        CombinedScorer([dict(type='GivenLikelihood', calibration=path),
                        dict(type='GivenDiscrimination')])
