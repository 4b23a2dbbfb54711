# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The metric of choosing among sampled answers."""
import json
from dataclasses import replace
from math import nan

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdpad.analysis.comparison import compare_results, format_comparison
from mmdpad.evaluation import ReasonSegMetric, SelectionMetric
from mmdpad.evaluation.results import read_result
from mmdpad.evaluation.selection_summary import compare_ways
from mmdpad.structures import AnsweredObject, Candidate, ParseFailure, ReasoningOutput, Selection
from mmdpad.structures.candidates import ABSTAINED

TARGET = 'xxxx....'  # pixels of an image of 1 x 8
A, B, C = 'xxxx....', '..xxxx..', 'xxxxxxxx'  # IoU 1, 1/3, 1/2
FAILED, ABSTENTION = ParseFailure('missing_key', 'no box'), ParseFailure(ABSTAINED, 'all are low')


def mask(pixels):
    return np.array([[pixel == 'x' for pixel in pixels]])


def answer(pixels, tokens=10, text=None, greedy=False):
    """A candidate with a mask; None stands for an unusable response, '' for an empty list."""
    objects = (AnsweredObject((0, 0, 1, 1), ((0, 0), (1, 0))), ) if pixels else ()
    parsed = FAILED if pixels is None else ReasoningOutput('t', 'c', objects)
    masks = torch.from_numpy(np.stack([mask(pixels)]) if pixels else np.zeros((0, 1, 8), bool))
    count = len(masks)
    instances = InstanceData(masks=masks, bboxes=torch.zeros(count, 4), scores=torch.ones(count),
                             points=torch.zeros(count, 2, 2), labels=torch.zeros(count).long())
    return Candidate(text or f'text {pixels}', False, parsed, instances, tokens, greedy=greedy)


def overlaps_of(candidates):
    masks = [one.instances.masks.numpy().any(axis=0) for one in candidates]
    return np.array([[(a & b).sum() / (a | b).sum() if (a | b).any() else 1. for b in masks]
                     for a in masks]) * np.outer(*[[one.usable for one in candidates]] * 2)


def sample(number, pixels, values, chosen, target=TARGET, greedy=B, **meta):
    candidates = [answer(one) for one in pixels]
    selection = Selection(
        candidates, dict(clip=np.array(values, float)), overlaps_of(candidates),
        greedy=None if greedy is None else answer(greedy, 20, greedy=True), chosen=chosen,
        value=nan if chosen is None else values[chosen],
        seconds=dict(sample=2., decode=1., select=.5), clip_calls=4)
    told = ABSTENTION if chosen is None else candidates[chosen].parsed
    found = DetDataSample(metainfo=dict(
        sample_idx=number, img_id=f'q{number}', img_path='a.png', question='q', task='find',
        is_sentence=False, ori_shape=(1, 8), **meta))
    found.gt_instances = InstanceData(masks=np.stack([mask(target)]) if target
                                      else np.zeros((0, 1, 8), bool))
    found.pred_instances = (answer(None) if chosen is None else candidates[chosen]).instances
    found.reasoning = dict(parsed=told, response='r', truncated=False, reasoning_tokens=4,
                           caption_tokens=2)
    found.selection = selection
    return found.to_dict()


SAMPLES = [sample(0, [B, A, C, None], [.1, .3, .2, nan], 1),
           sample(1, [A, B, B, C], [.1, .2, .3, .4], 3),
           sample(2, [None] * 4, [nan] * 4, 0),
           sample(3, ['', A, A, B], [.1, .2, nan, nan], 1, target=None)]


def evaluate(samples, **options):
    metric = SelectionMetric(**options)
    metric.process(None, samples)
    found = metric.evaluate(len(samples))
    return {name.removeprefix('selection/'): value for name, value in found.items()}, metric


def test_numbers_by_hand():
    """IoU of the candidates: 1/3, 1, 1/2, 0 | 1, 1/3, 1/3, 1/2 | 0, 0, 0, 0 | 1, 0, 0, 0."""
    found, metric = evaluate(SAMPLES)
    wanted = dict(
        chosen=[1, 1 / 2, 0, 0], greedy=[1 / 3, 1 / 3, 1 / 3, 0],
        mean=[11 / 24, 13 / 24, 0, 1 / 4], oracle=[1, 1, 0, 1], clip=[1, 1 / 2, 0, 0],
        # 0: C overlaps by 1/2 with both others; 1: both B by (1 + 1/3 + 1/2) / 3; 3: both A.
        consensus=[1 / 2, 1 / 3, 0, 0],
        # 0: six pixels have two of the three votes; 1: B, which has three of four.
        vote=[4 / 6, 1 / 3, 0, 0])
    assert {way: found[f'{way}_giou'] for way in wanted} == {
        way: pytest.approx(100 * np.mean(ious)) for way, ious in wanted.items()}
    assert found['oracle_accuracy'] == 75 and found['clip_accuracy'] == 25
    assert found['chosen_ciou'] == pytest.approx(100 * 8 / (4 + 8 + 4 + 4))
    assert (found['tokens'], found['seconds'], found['clip_calls']) == (40, 3.5, 4)
    assert (found['num_samples'], found['n'], found['n_no_target']) == (4, 4, 1)
    assert found['chosen_giou_low'] < found['chosen_giou'] < found['chosen_giou_high']
    assert 'coverage' not in found and found['failed_missing_key'] == 1
    # By confidence .4, .3, .2, none: risks 1/2, 0, 1, 1.
    assert found['clip_aurc'] == pytest.approx(np.mean([1 / 2, 1 / 4, 1 / 2, 5 / 8]))
    assert metric.summary['intervals']['clip_aurc'][0] < found['clip_aurc']


def test_the_chosen_answers_are_judged_as_by_the_metric_of_masks():
    found, _ = evaluate(SAMPLES)
    other = ReasonSegMetric()
    other.process(None, SAMPLES)
    others = other.evaluate(len(SAMPLES))
    for name in ('giou', 'ciou', 'giou_low', 'ciou_high'):
        assert found[f'chosen_{name}'] == others[f'reasonseg/{name}']


def test_every_number_of_answers():
    _, metric = evaluate(SAMPLES[:2])
    table = metric.summary['by_number']
    assert [(at['n'], at['tokens'], at['clip_calls']) for at in table] == [
        (1, 10, 1), (2, 20, 2), (4, 40, 4)]
    one, two, four = (at['ways'] for at in table)
    for way in ('mean', 'clip', 'consensus', 'vote', 'oracle'):
        assert one[way]['giou'][0] == pytest.approx(50), way
    assert one['clip']['gap_closed'] is None, 'there is no gap'
    assert four['oracle']['accuracy'] == [100, 100, 100]
    assert four['clip']['gain'][0] == pytest.approx(25)
    assert four['clip']['over_greedy'][0] == pytest.approx(100 * (3 / 4 - 1 / 3))
    assert four['clip']['gap_closed'][0] == pytest.approx(50)
    # Draws of the first question alone, the second alone, or both, in pairs: gaps closed of 1,
    # -1/11 (1/2 of 13/24), and 1/2.
    assert four['clip']['gap_closed'][1:] == pytest.approx([-100 / 11, 100])
    # Of the pairs of question 0, A wins three, C two, B one; of 1, C three, B two and one.
    assert two['clip']['giou'][0] == pytest.approx(
        100 * ((3 * 1 + 2 / 2 + 1 / 3) / 6 + (3 / 2 + 2 / 3 + 1 / 3) / 6) / 2)


def test_votes_of_pairs_and_ties():
    """Two answers vote for what both have: A and B share 2 pixels, 1/2 of the target. Beside an
    unusable one, C decides alone."""
    row = SelectionMetric().score(SAMPLES[0])
    assert row['vote']['2']['scores'][0] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert row['vote']['4']['value'] == 6 / 8, 'C is nearest to the vote'
    assert row['vote']['2']['value'] is None
    assert SelectionMetric().score(SAMPLES[2])['vote']['4']['scores'][:3] == [0, 0, 4]
    assert SelectionMetric().score(SAMPLES[3])['vote']['1']['scores'][0] == pytest.approx(1 / 4)


def test_abstentions():
    found, _ = evaluate([SAMPLES[0], sample(1, [A] * 4, [.1] * 4, None),
                         sample(2, [B] * 4, [.1] * 4, None, target=None),
                         sample(3, [B] * 4, [.1] * 4, 0, target=None)])
    assert found['coverage'] == 50 and found['answered_giou'] == 50
    assert found['failed_abstained'] == 2
    assert found['no_target_abstained'] == 50 and found['target_abstained'] == 50
    assert found['chosen_giou'] == 50, 'nothing is right where there is no target'


def test_what_decides_an_abstention_is_in_the_line():
    selection = replace(SAMPLES[0]['selection'], confidence=.25)
    row = SelectionMetric().score(dict(SAMPLES[0], selection=selection))
    assert row['confidence'] == .25 != row['value']
    assert SelectionMetric().score(SAMPLES[0])['confidence'] is None


def test_thresholds_in_the_file():
    """With a threshold of .2, the question without a confidence is rejected; it has a target."""
    _, metric = evaluate(SAMPLES)
    clip = metric.summary['abstention']['clip']
    assert [(point['threshold'], point['no_target_abstained'], point['target_abstained'])
            for point in clip['curve']] == [
        (.4, 1, pytest.approx(2 / 3)), (.3, 1, pytest.approx(1 / 3)),
        (.2, 0, pytest.approx(1 / 3)), (None, 0, 0)]
    assert clip['best_aurc'] == pytest.approx(np.mean([0, 1 / 4, 1 / 2, 5 / 8]))


def test_results_are_written_read_and_compared(tmp_path):
    found, _ = evaluate(SAMPLES, out_file=str(tmp_path / 'a.jsonl'))
    evaluate([sample(0, [A] * 4, [.1] * 4, 0), *SAMPLES[1:]], out_file=str(tmp_path / 'b.jsonl'))
    results = [read_result(str(tmp_path / f'{name}.json')) for name in 'ab']
    assert compare_ways(results[0].rows) == json.loads(
        (tmp_path / 'a.json').read_text())['by_number']
    page = format_comparison(compare_results(results))
    assert '| oracle gIoU | pass@1 |' in page
    assert all(SelectionMetric.kind.has(name) for name in found), 'monitors may name them'
    assert not SelectionMetric.kind.has('giou')
    with pytest.raises(ValueError, match='equally many `candidates`'):
        compare_ways([results[0].rows[0], SelectionMetric().score(sample(1, [A], [.1], 0))])


def test_without_a_greedy_answer():
    found, metric = evaluate([sample(0, [A, B], [.1, .2], 1, greedy=None)])
    assert 'greedy_giou' not in found and 'over_greedy' not in str(metric.summary)


def test_samples_without_answers_are_refused():
    one = {name: value for name, value in SAMPLES[0].items() if name != 'selection'}
    assert SelectionMetric.reads(SAMPLES[0]) and not SelectionMetric.reads(one)
    with pytest.raises(ValueError, match='set `model.test_cfg.num_samples` to 2 or more'):
        SelectionMetric().process(None, [one])


def test_selectors_have_names_of_their_own():
    """The values of the oracle are those of the way `oracle`."""
    one = sample(0, [A, B], [.1, .2], 1)
    one['selection'].values['oracle'] = np.ones(2)
    assert list(SelectionMetric().score(one)['candidates'][0]['values']) == ['clip']
    one['selection'].values['mean'] = np.ones(2)
    with pytest.raises(ValueError, match="got 'mean'; rename it"):
        SelectionMetric().score(one)
    with pytest.raises(ValueError, match="got 'clip'; rename it"):
        SelectionMetric(sums=dict(clip=dict(clip=1.))).score(SAMPLES[0])
    with pytest.raises(ValueError, match="but 'both' has one of sam; correct it, or let the model"):
        SelectionMetric(sums=dict(both=dict(sam=1.))).score(SAMPLES[0])
    for weight in (0., np.inf):
        with pytest.raises(ValueError, match="finite weights that are not all 0, but 'both' has"):
            SelectionMetric(sums=dict(both=dict(clip=weight))).score(SAMPLES[0])
    found, _ = evaluate(SAMPLES[:2], sums=dict(both=dict(clip=1., consensus=1.)))
    assert found['both_giou'] == pytest.approx(100 * (1 + 1 / 3) / 2)
