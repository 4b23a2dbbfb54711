# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Selectors, by hand-computed values."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdpad.geometry.mask_iou import pairwise_iou
from mmdpad.models.segmentors.choosing import overlaps_of
from mmdpad.models.selectors import Asked, build_selector
from mmdpad.models.selectors.building import as_config, build_selectors
from mmdpad.registry import MODELS
from mmdpad.structures import (
    AnsweredObject,
    Candidate,
    ParseFailure,
    ReasoningOutput,
    Selection,
)
from mmdpad.tasks import DetectionTask, QuestionAnsweringTask, SegmentationTask

MASKS = SegmentationTask()
WORDS = QuestionAnsweringTask()


def candidate(columns=None, caption='a cup', scores=(0.5, ), answer=None, **fields):
    """An answer whose mask has the first columns of 4 x 10 pixels; None: unusable."""
    box = (0., 0., float(columns or 0), 4.)
    parsed = (ParseFailure('no_answer', 'none', objects=(AnsweredObject(box, ()), ))
              if columns is None else ReasoningOutput(
                  'so', caption, (AnsweredObject(box, ((1., 1.), ) * 2), ) * bool(columns), answer))
    masks = torch.zeros(len(scores) if columns else 0, 4, 10, dtype=torch.bool)
    masks[:, :, :columns or 0] = True
    return Candidate('text', False, parsed, InstanceData(
        masks=masks, points=torch.zeros(len(masks), 2, 2),
        scores=torch.tensor(scores)[:len(masks)]), 7, **fields)


def selection_of(*candidates, task=MASKS, **values):
    return Selection([*candidates], {name: np.array(own, float) for name, own in values.items()},
                     overlaps_of(candidates, task))


def asked(*candidates, **items):
    return Asked(torch.zeros(3, 8, 10, dtype=torch.uint8), candidates, **items)


def test_overlaps_of_masks_by_hand():
    found = selection_of(candidate(2), candidate(4), candidate(0), candidate(0), candidate())
    assert found.overlaps.tolist() == [
        [1, .5, 0, 0, 0], [.5, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0] * 5]
    assert found.first(2).overlaps.tolist() == [[1, .5], [.5, 1]]
    assert len(found.first(2)) == 2 and found.usable.tolist() == [True] * 4 + [False]
    for n in (0, 6):
        with pytest.raises(ValueError, match='`n` should be from 1 to 5'):
            found.first(n)


def test_overlaps_of_large_masks(monkeypatch):
    """In parts, and with unions of several objects."""
    monkeypatch.setattr('mmdpad.geometry.mask_iou._PIXELS_AT_ONCE', 7)
    masks = np.random.default_rng(0).random((3, 5, 9)) > 0.5
    expected = [[(one & other).sum() / (one | other).sum() for other in masks] for one in masks]
    np.testing.assert_allclose(pairwise_iou([*masks]), expected, rtol=1e-12)


def test_the_mask_that_agrees_most_with_the_others_wins():
    """IoU with the other three, of which the unusable one counts as 0."""
    select = build_selector('consensus')
    found = selection_of(candidate(2), candidate(4), candidate(), candidate(5))
    np.testing.assert_allclose(select.values(found), [
        (1 / 2 + 2 / 5) / 3, (1 / 2 + 4 / 5) / 3, np.nan, (2 / 5 + 4 / 5) / 3])
    assert select.choose(found) == (1, pytest.approx(1.3 / 3))
    assert np.isnan(select.values(found.first(1))).all() and select.choose(found.first(1))[0] == 0
    assert select.choose(selection_of(candidate(3), candidate(3)))[0] == 0  # the first of equals


def test_pixels_vote():
    select = build_selector(dict(type='ConsensusSelector', vote=True))
    found = selection_of(candidate(2), candidate(4, scores=(0.25, 0.75)), candidate(), candidate(9))
    np.testing.assert_allclose(select.values(found), [2 / 4, 1, np.nan, 4 / 9])
    chosen = select.choose(found)[0]
    answer = select.answer(found, chosen).instances
    assert answer.masks[0, 0].tolist() == [True] * 4 + [False] * 6
    assert answer.bboxes.tolist() == [[0, 0, 3, 3]] and answer.scores.tolist() == [0.5]
    assert answer.points.shape == (1, 4, 2)  # those of both objects
    tied = selection_of(candidate(2), candidate(4))  # half is no majority
    assert select.answer(tied, 0).instances.masks[0, 0].sum() == 2
    empty = select.answer(selection_of(candidate(0), candidate(0), candidate(5)), 2)
    nothing = empty.instances
    assert len(nothing) == 0 and nothing.masks.shape == (0, 4, 10)
    assert len(nothing.points) == 0 and empty.parsed.objects == ()
    unusable = selection_of(candidate(), candidate())
    assert select.choose(unusable)[0] == 0 and select.answer(unusable, 0) is unusable.candidates[0]


def test_the_most_frequent_answer_in_words_wins():
    said = [candidate(0, answer=text) for text in ('A dog.', 'cat', 'the dog', 'two', '2', 'dog')]
    select = build_selector('consensus')
    found = selection_of(*said, candidate(), task=WORDS)
    assert found.overlaps[0].tolist() == [1, 0, 1, 0, 0, 1, 0]
    np.testing.assert_allclose(select.values(found), np.array([2, 0, 2, 1, 1, 2, np.nan]) / 6)
    assert select.choose(found)[0] == 0
    choices = [candidate(0, answer=text) for text in ('B', '(b) a jug', 'a jug', 'a cup')]
    assert overlaps_of(choices, WORDS, ('a cup', 'a jug'))[0].tolist() == [1, 1, 1, 0]


def test_unusable_answers_are_chosen_only_if_all_are():
    select = build_selector('decoder_score')
    found = selection_of(candidate(), candidate(0), candidate(),
                         decoder_score=[np.nan, np.nan, np.nan])
    assert select.choose(found)[0] == 1
    index, value = select.choose(selection_of(candidate(), candidate(), decoder_score=[np.nan] * 2))
    assert index == 0 and np.isnan(value)


def test_scores_of_the_decoder():
    found, = build_selector('decoder_score').measure(
        [asked(candidate(3, scores=(0.5, 0.25)), candidate(0), candidate(), candidate(2))], None)
    np.testing.assert_array_equal(found, [0.375, np.nan, np.nan, 0.5])


class Policy:
    """Writes each byte as a token; the n-th token of a response has the log-probability -n / 10."""

    pad_token, vision_token_ids, device = 999, [], 'cpu'

    def __init__(self):
        self.encoder = SimpleNamespace(responses=SimpleNamespace(
            encode_again=lambda text, forbidden: list(text.encode())))
        self.rows = []

    def log_probs(self, prompts, ids, mask, temperature):
        assert len(prompts) == 1 and temperature == 1.0  # all answers share it
        self.rows.append(mask.sum(dim=1).tolist())
        return torch.where(mask, -(torch.arange(ids.shape[1]) + 1.) / 10, 0.), None


def test_the_likelihood_is_a_mean_over_tokens():
    """Recorded where the engine did, else from one pass over all answers to a question."""
    policy = Policy()
    found = build_selector('likelihood').measure([
        asked(candidate(1, mean_logp=-3.0), candidate(2), candidate(), candidate(
            3, response_ids=torch.tensor([5, 6])), prompt='p'),
        asked(candidate(1, mean_logp=-1.0), prompt='p')], policy)
    np.testing.assert_allclose(found[0], [-3, -(.1 + .2 + .3 + .4) / 4, np.nan, -.15])
    assert found[1].tolist() == [-1] and policy.rows == [[4, 2]]


@MODELS.register_module()
class WidthDiscriminator(torch.nn.Module):
    """Similarity: width of a view / 100, of captions that begin with 'a'."""

    def forward(self, images, captions):
        return torch.tensor([[image.shape[1] / 100 if (text or '').startswith('a') else torch.nan
                              for text in captions] for image in images])


def test_discrimination_at_the_own_box():
    select = build_selector(dict(type='DiscriminationSelector',
                                 discriminator=dict(type='WidthDiscriminator'), max_region=0.4))
    select.prepare()
    one = asked(candidate(4), candidate(8), candidate(7, caption=None), candidate(),
                candidate(0), candidate(10), candidate(4, 'a mug'))
    two = asked(*[candidate(2)] * 7)
    found = select.measure([one, two], None)
    np.testing.assert_allclose(found[0], [-.06, -.02, np.nan, np.nan, np.nan, np.nan, -.06],
                               atol=1e-7)  # 10 columns of 4 rows cover half of 8 x 10
    np.testing.assert_allclose(found[1], [-.08] * 7, atol=1e-7)
    assert (select.cost(one), select.cost(two)) == (3 + 1, 1 + 1)  # regions, and the image
    unusable = replace(candidate(6), parsed=ParseFailure(
        'no_caption', 'none', objects=candidate(6).parsed.objects))
    assert select.cost(asked(candidate(2), unusable)) == 2 + 1  # it is encoded all the same


def test_the_oracle_reads_the_truth():
    select = build_selector('oracle')
    truth = DetDataSample(gt_instances=InstanceData(masks=candidate(4).instances.masks))
    found, = select.measure([asked(candidate(2), candidate(4), candidate(0), candidate(),
                                   data_sample=truth)], None)
    np.testing.assert_array_equal(found, [.5, 1, 0, np.nan])
    with pytest.raises(ValueError, match="should not be 'oracle' for data without ground truth"):
        select.measure([asked(candidate(2), data_sample=DetDataSample())], None)


def test_sums_are_of_the_values_as_they_are():
    select = build_selector([(2, 'decoder_score'), (-1.0, 'likelihood'), (0, 'oracle'),
                             (3, 'consensus')])
    found = selection_of(candidate(2), candidate(4), candidate(4),
                         decoder_score=[.5, .25, .125], likelihood=[-1, -2, np.nan],
                         oracle=[np.nan] * 3)
    np.testing.assert_allclose(select.values(found), [
        2 * .5 + 1 + 3 * .5, 2 * .25 + 2 + 3 * .75, np.nan])
    assert select.choose(found)[0] == 1 and select.needs_policy and select.needs_truth
    assert [part.name for part in select.parts] == ['decoder_score', 'likelihood', 'oracle',
                                                    'consensus']


def test_two_selectors_of_a_class_in_a_sum():
    clip = dict(type='DiscriminationSelector', discriminator=dict(type='WidthDiscriminator'))
    config = as_config([(1, clip), (2, dict(clip, contrast='masked')), (0.5, 'consensus')])
    assert list(config['selectors']) == ['discrimination', 'discrimination_1', 'consensus']
    assert [part.name for part in build_selector(config).parts] == list(config['selectors'])


def test_selectors_of_one_name_must_be_equal():
    """They are measured once."""
    clip = dict(type='DiscriminationSelector', discriminator=dict(type='WidthDiscriminator'))
    other, tasks = dict(clip, contrast='masked'), dict(masks=MASKS)
    found = build_selectors(dict(select=clip, abstain_by=[(1, clip), (1, 'consensus')]), tasks)
    assert list(found) == ['select', 'abstain_by']
    for by in (other, [(1, other), (1, 'consensus')]):
        with pytest.raises(ValueError, match="named 'discrimination' should be equal, but got"):
            build_selectors(dict(select=clip, abstain_by=by), tasks)
    renamed = dict(type='WeightedSelector', selectors=dict(masked=(1, other), consensus=1))
    build_selectors(dict(select=clip, abstain_by=renamed), tasks)


def test_the_short_name_takes_the_discriminator_that_is_given():
    own = dict(discriminator=dict(type='WidthDiscriminator'), region_margin=0.1)
    assert as_config('discrimination')['discriminator'] == dict(type='CLIPDiscriminator')
    assert as_config('discrimination', discriminator=own) == dict(own,
                                                                  type='DiscriminationSelector')
    sums = as_config([(1, 'discrimination'), (1, 'consensus')], discriminator=own)
    assert sums['selectors']['discrimination'][1]['region_margin'] == 0.1


@pytest.mark.parametrize('select, told', [
    ('best', r"`test_cfg.select` should be one of .*'consensus'.*, but got 'best'"),
    ({}, '`test_cfg.select` should be one of'), ([], 'should be a dict of at least two'),
    ([(1, 'consensus')], 'should be a dict of at least two'),
    ([(1, 'best'), (1, 'consensus')], '`test_cfg.select.selectors.best` should be one of'),
    ([(1, 'consensus'), 'likelihood'], 'selectors.1` should be a weight, or a weight and a config'),
    ([(0, 'consensus'), (0, 'likelihood')], 'finite weights that are not all 0'),
    ([(float('nan'), 'consensus'), (1, 'likelihood')], 'finite weights'),
    ([(1, dict(type='ConsensusSelector', vote=True)), (1, 'likelihood')], 'does not vote'),
    (dict(type='BoxDecoder'), '`test_cfg.select.type` should be ConsensusSelector or another'),
    (dict(type='BestSelector'), "another subclass of Selector, but got 'BestSelector'"),
    (dict(type='LikelihoodSelector', vote=True), r"arguments of LikelihoodSelector, .* \['vote'\]"),
    (dict(type='WeightedSelector'), "missing a required argument: 'selectors'"),
    (dict(type='WeightedSelector', selectors=['consensus', 'likelihood']),
     '`test_cfg.select.selectors` should be a dict'),
    (dict(type='OracleSelector', ignore_regions='no'), '`ignore_regions` should be one of'),
    (dict(type='DiscriminationSelector', discriminator=dict(type='WidthDiscriminator'),
          contrast='others'), r"`contrast` should be one of \('image', 'masked'\)")])
def test_what_is_no_selector(select, told):
    with pytest.raises(ValueError, match=told):
        build_selector(select)


@pytest.mark.parametrize('select, refused', dict(
    discrimination=['words', 'boxes'], decoder_score=['words', 'boxes'],
    oracle=['words', 'boxes'], likelihood=[], consensus=['boxes']).items())
def test_tasks_that_a_selector_cannot_serve(select, refused):
    tasks = dict(masks=MASKS, words=WORDS, boxes=DetectionTask())
    selector = build_selector(select)
    selector.check_tasks(dict(masks=MASKS))
    if not refused:
        selector.check_tasks(tasks)
        return
    with pytest.raises(ValueError) as error:
        selector.check_tasks(tasks)
    assert f'for the selector {select!r}, but {refused} do not' in str(error.value)
    assert "name 'likelihood' instead" in str(error.value)
