# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Fitting a calibration to the result of an evaluation."""
import json

import numpy as np
import pytest
from PIL import Image

from mmdpad.analysis.box_calibration import curves, fit_calibration, format_calibration
from mmdpad.evaluation.detection_summary import DETECTIONS
from mmdpad.evaluation.provenance import hash_image
from mmdpad.evaluation.results import Result, read_result, write_result
from mmdpad.evaluation.segmentation_summary import SEGMENTATION
from mmdpad.models import Calibration, LikelihoodScorer

OF = dict(type='LikelihoodScorer', of='label', reduce='mean')


def make_result(number=400, slope=1.0, unknown=0, **protocol):
    """Images with two boxes, of which one is right with sigmoid(slope * x + 1), and an ignored one;
    their likelihood is sigmoid(2 * x)."""
    rng = np.random.default_rng(0)
    rows = []
    for image in range(number):
        x = rng.normal(size=3)
        right = (rng.random(3) < 1 / (1 + np.exp(-slope * x - 1))).tolist()
        score = (1 / (1 + np.exp(-2 * x))).tolist()
        rows.append(dict(
            dict.fromkeys(DETECTIONS.needed, 0), id=image, image=f'/data/val/{image}.jpg',
            question='cup', boxes=[[0, 0, 9, 9]] * 3, classes={}, failure=None,
            scores=score, box_right=[*right[:2], None], features=dict(
                score=score, logp_label=[None if image < unknown else value for value in x])))
    return Result('runs/a.jsonl', rows, dict(
        protocol=dict(dict(threshold=0.5, box_scorer=dict(OF, calibration=None)), **protocol),
        provenance=dict(data=dict(sha256='d1'), weights=dict(policy='p1'), checkpoint='iter_9.pth',
                        data_root='coco')))


def test_platt_undoes_what_made_the_scores():
    """The score's log odds are 2 x, and a box is right with sigmoid(x + 1)."""
    found = fit_calibration(make_result(2000))
    assert found.parameters['weights'] == [pytest.approx(0.5, abs=0.05)]
    assert found.parameters['bias'] == pytest.approx(1, abs=0.1)
    told = found.fitted_on
    assert (told['n'], told['ignored'], told['unknown']) == (4000, 2000, 0)
    assert told['after']['ece'] < 0.02 < 0.1 < told['before']['ece']
    assert told['after']['brier'] < told['before']['brier']
    assert {name: told[name] for name in ('data', 'policy', 'checkpoint', 'threshold', 'result')
            } == dict(data='d1', policy='p1', checkpoint='iter_9.pth', threshold=0.5,
                      result='a.jsonl')
    assert len(told['images']) == 2000
    assert hash_image('/elsewhere/val/7.jpg', 7) in told['images']
    assert hash_image('/data/test/7.jpg', 7) not in told['images']
    assert found.scorer == OF


def test_several_features_and_isotonic():
    result = make_result()
    both = fit_calibration(result, 'platt', ['score', 'logp_label'])
    assert both.features == ('score', 'logp_label') and len(both.parameters['weights']) == 2
    steps = fit_calibration(result, 'isotonic', ['logp_label'])
    assert steps.fitted_on['after']['brier'] <= both.fitted_on['after']['brier']
    assert set(curves(result, steps)) == {'before', 'after (isotonic)'}


def test_boxes_with_unknown_features():
    """They get the share of right ones among them."""
    result = make_result(400, unknown=300)
    found = fit_calibration(result, features=['logp_label'])
    right = [value for row in result.rows[:300] for value in row['box_right'][:2]]
    assert found.fitted_on['unknown'] == 600
    assert found.missing == pytest.approx(np.mean(right), abs=0.01)
    assert 0.5 < fit_calibration(make_result(400)).missing < 0.9, 'that of all'


@pytest.mark.parametrize('method', ['platt', 'isotonic'])
def test_scores_of_0_do_not_bend_the_others(method):
    """A box whose description CLIP cannot use has the score 0, whose log odds are -inf. The lowest
    finite number in their place, -708, would decide the fit."""
    whole, result = make_result(400), make_result(400)
    for row in result.rows[:10]:
        row['scores'] = row['features']['score'] = [0.0] * 3
    found = fit_calibration(result, method)
    rest = Result('rest', whole.rows[10:], whole.summary)
    assert found.parameters['weights' if method == 'platt' else 'y'] == pytest.approx(
        fit_calibration(rest, method).parameters['weights' if method == 'platt' else 'y'])
    assert found.fitted_on['unknown'] == 20
    right = [value for row in result.rows[:10] for value in row['box_right'][:2]]
    assert found.apply(dict(score=np.zeros(1))) == pytest.approx(np.mean(right), abs=0.05)
    assert found.fitted_on['after']['ece'] < 0.05


@pytest.mark.parametrize('change, options, message', [
    (dict(box_scorer='none: every box has the score 1'), {}, 'an evaluation with `model.box_scor'),
    (dict(box_scorer=None), {}, "says 'nothing'"),
    ({}, dict(features=['s_margin']), r"among \['logp_label', 'score'\], .* got \['s_margin'\]"),
    ({}, dict(features=['scores']), r"got \['scores'\]"),
    ({}, dict(features=[]), '`features` should be different names'),
    ({}, dict(features=['score', 'score']), '`features` should be different names'),
    ({}, dict(method='beta'), r"`method` should be one of \('platt', 'isotonic'\)"),
    ({}, dict(method='isotonic', features=['score', 'logp_label']), 'a single one for isotonic')])
def test_what_is_refused(change, options, message):
    with pytest.raises(ValueError, match=message):
        fit_calibration(make_result(20, **change), **options)


@pytest.mark.parametrize('right', [True, False, None])
def test_boxes_of_one_kind_are_refused(right):
    result = make_result(20)
    for row in result.rows:
        row['box_right'] = [right] * 3
    with pytest.raises(ValueError, match='should have right and wrong boxes whose features are kn'):
        fit_calibration(result)
    with pytest.raises(ValueError, match='should have right and wrong boxes'):
        fit_calibration(make_result(20, unknown=20), features=['logp_label'])


def test_a_reversed_ranking_is_told():
    assert 'the ranking is reversed' in format_calibration(fit_calibration(make_result(slope=-1.0)))
    assert 'reversed' not in format_calibration(fit_calibration(make_result()))


def test_the_command(tmp_path, run_here):
    result = make_result()
    path = write_result(str(tmp_path / 'detection.jsonl'), result.rows, result.summary)
    out, curve = tmp_path / 'c.json', tmp_path / 'c.png'
    ran = run_here('tools/analysis_tools/calibrate_scores.py', path, '--out', out, '--curve', curve,
                   '--features', 'score', 'logp_label')
    assert ran.returncode == 0 and str(out) in ran.stdout and '800 boxes' in ran.stdout
    assert Calibration.read(str(out)).features == ('score', 'logp_label')
    assert LikelihoodScorer(calibration=str(out)).calibration.fitted_on['policy'] == 'p1'
    assert Image.open(curve).size[0] > 300
    assert json.loads(out.read_text())['fitted_on']['before']['ece'] > 0

    for arguments, told in (((path, '--out', 'c.txt'), '--out should end in .json'),
                            ((path, '--out', out, '--features', 's_roi'), "got ['s_roi']"),
                            ((str(tmp_path / 'no.jsonl'), '--out', out), 'does not exist')):
        failed = run_here('tools/analysis_tools/calibrate_scores.py', *arguments)
        assert failed.returncode and told in failed.stderr
    assert not (tmp_path / 'c_2.json').exists()


def test_lines_of_another_metric_are_refused(tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_text(json.dumps(dict.fromkeys(SEGMENTATION.needed, 1)) + '\n')
    with pytest.raises(ValueError, match='a result of DetectionMetric, but is one of ReasonSegM'):
        fit_calibration(read_result(str(path)))
