# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Applying a fitted calibration, and what is refused."""
import hashlib
import json
import math

import numpy as np
import pytest

from mmdpad.models import Calibration, LikelihoodScorer
from mmdpad.models.scorers import BoxScorer, ScoredObjects

OF = dict(type='LikelihoodScorer', of='label', reduce='mean')
PLATT = dict(method='platt', features=('score', 's_margin'),
             parameters=dict(weights=[1.0, 2.0], bias=-0.5), missing=0.25, scorer=OF)
ISOTONIC = dict(method='isotonic', features=('logp_label', ),
                parameters=dict(x=[-3.0, -1.0, -0.5], y=[0.1, 0.1, 0.9]), missing=0.0, scorer=OF)


def test_platt_by_hand():
    """The score as log odds, the margin as it is; unknown features are unknown."""
    found = Calibration(**PLATT).apply(dict(score=np.array([0.5, 0.9, 0.5]),
                                            s_margin=np.array([0.25, -1.0, np.nan])))
    assert found == pytest.approx([0.5, 1 / (1 + math.exp(-(math.log(9) - 2 - 0.5))), 0.25])


def test_scores_of_0_and_1_stay_finite():
    sharp = Calibration(**dict(PLATT, features=('score', ), parameters=dict(
        weights=[1.0], bias=0.0)))
    low, high = sharp.apply(dict(score=np.array([0.0, 1.0])))
    assert 0 <= low < 1e-300 and high == pytest.approx(1 - 1e-6)


def test_isotonic_is_interpolated_and_flat_beyond_its_ends():
    found = Calibration(**ISOTONIC).apply(dict(logp_label=np.array([-9, -2, -0.75, 0, np.nan])))
    assert found == pytest.approx([0.1, 0.1, 0.5, 0.9, 0.0])


@pytest.mark.parametrize('given', [PLATT, ISOTONIC])
def test_a_file_gives_the_same(given, tmp_path):
    made = Calibration(**given, fitted_on=dict(images=['a'], n=3, policy='p1'))
    path = made.write(str(tmp_path / 'calibration.json'))
    read = Calibration.read(path)
    assert made.write(path) == str(tmp_path / 'calibration_2.json')
    content = (tmp_path / 'calibration.json').read_bytes()
    assert read.describe() == dict(method=given['method'], features=list(given['features']),
                                   file='calibration.json',
                                   sha256=hashlib.sha256(content).hexdigest(), data=None,
                                   policy='p1')
    features = {name: np.array([0.3, 0.7]) for name in given['features']}
    assert read.apply(features).tolist() == made.apply(features).tolist()
    assert read.images == ['a'] and read.fitted_on == made.fitted_on


@pytest.mark.parametrize('change', [
    dict(method='beta'), dict(missing=2.0), dict(parameters=dict(weights=[1.0], bias=0.0)),
    dict(parameters=dict(weights=[1.0, None], bias=0.0)), dict(parameters=dict(x=[1], y=[1])),
    dict(more=1), dict(features=None), dict(ISOTONIC, parameters=dict(x=[0, 1], y=[1, 0])),
    dict(ISOTONIC, parameters=dict(x=[0, 0], y=[0, 1])),
    dict(ISOTONIC, parameters=dict(x=[], y=[])),
    dict(ISOTONIC, parameters=dict(x=[0, 1], y=[0, 2])),
    dict(ISOTONIC, features=['score', 's_roi'])])
def test_a_damaged_file_is_refused(change, tmp_path):
    path = tmp_path / 'c.json'
    path.write_text(json.dumps(dict(PLATT, **change)))
    with pytest.raises(ValueError, match=r"`calibration` should be a file of `mmdpad run "
                                         r"calibrate_scores`, but '.*c.json' is not one"):
        Calibration.read(str(path))


@pytest.mark.parametrize('content', [b'', b'[]', b'{}', b'\xff', b'{"method": "platt"}'])
def test_another_file_is_refused(content, tmp_path):
    path = tmp_path / 'c.json'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='is not one'):
        Calibration.read(str(path))


def test_a_missing_feature_is_named():
    with pytest.raises(ValueError, match=r"should have \['s_margin'\], .* but has \['score'\]"):
        Calibration(**PLATT).apply(dict(score=np.zeros(1)))


def test_it_belongs_to_its_scorer(tmp_path):
    path = Calibration(**ISOTONIC).write(str(tmp_path / 'c.json'))
    scorer = LikelihoodScorer(calibration=path)
    assert scorer.describe() == dict(OF, calibration=scorer.calibration.describe())
    for other in (dict(of='box'), dict(reduce='sum')):
        with pytest.raises(ValueError, match=r"fitted to the scores of .*, but '.*c.json' "
                                             r"was fitted to those of .*'of': 'label'"):
            LikelihoodScorer(**other, calibration=path)


def test_a_scorer_applies_it_and_keeps_its_features(tmp_path):
    class Constant(BoxScorer):
        def score(self, answers, policy):
            return [ScoredObjects(np.array([0.3, 0.7]), dict(
                score=np.array([0.3, 0.7]), logp_label=np.array([-2.0, -0.5])))] * len(answers)

        def options(self):
            return OF

    scorer = Constant(Calibration(**ISOTONIC).write(str(tmp_path / 'c.json')))
    found, = scorer(['answer'])
    assert found.scores.tolist() == pytest.approx([0.1, 0.9])
    assert found.features['score'].tolist() == [0.3, 0.7]
