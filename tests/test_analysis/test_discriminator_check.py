# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn, tensor

from mmdpad.analysis.caption_scores import (
    CaptionItem,
    draw_wrong,
    find_captions,
    find_reward,
    read_captions,
    score_captions,
    spread,
)
from mmdpad.analysis.discriminator_check import (
    CaptionScores,
    check_scores,
    format_check,
    measure,
    wilson,
)
from mmdpad.registry import MODELS
from mmdpad.rewards import DiscriminativeReward

NAN = math.nan


def scores_of(true, generic, wrong, misplaced=None, ranks=None, others=None, areas=None):
    """Scores with binary rewards; margins as rows of each item's captions."""
    margins = {kind: np.array(rows, float) for kind, rows in dict(
        true=[[value] for value in true], generic=generic, wrong=wrong,
        misplaced=misplaced or [[NAN]] * len(true)).items()}
    rewards = {kind: (margins[kind] > 0).astype(float) for kind in ('true', 'generic')}
    count = len(true)
    return CaptionScores(margins, rewards, np.array(ranks or [NAN] * count),
                         np.array(others or [0.] * count), np.array(areas or [0.1] * count))


FOUR = scores_of(true=[0.2, -0.1, NAN, 0.3],
                 generic=[[0.1, -0.1], [-0.1, -0.2], [0.1, -0.3], [-0.1, -0.1]],
                 wrong=[[0.3, NAN], [-0.3, -0.3], [0.1, 0.1], [NAN, NAN]],
                 misplaced=[[0.1, -0.1, NAN], [-0.1, 0.1, 0.2], [NAN] * 3, [NAN] * 3],
                 ranks=[1, 3, NAN, NAN], others=[2, 3, 1, 0], areas=[0.4, 0.1, 0.2, 0.3])


def test_hand_computed_numbers():
    found = measure(FOUR)
    assert {kind: (share['value'], share['n']) for kind, share in found['wins'].items()} == {
        'true': (pytest.approx(2 / 3), 3),
        'generic': (pytest.approx((0.5 + 0 + 0.5 + 0) / 4), 4),
        'wrong': (pytest.approx((1 + 0 + 1) / 3), 3),  # the fourth item has none
        'misplaced': (pytest.approx((1 / 2 + 2 / 3) / 2), 2)}
    assert {kind: (share['value'], share['n']) for kind, share in found['auc'].items()} == {
        # 0.2 > 0.1, -0.1; -0.1 = -0.1, > -0.2; the third's true caption is unusable; 0.3 > both.
        'generic': (pytest.approx((1 + 0.75 + 1) / 3), 3),
        'wrong': (pytest.approx((0 + 1) / 2), 2),
        'misplaced': (pytest.approx((1 + 0.5 / 3) / 2), 2)}
    assert found['margin']['true'] == dict(
        mean=pytest.approx(0.4 / 3), n=3, std=pytest.approx(np.std([0.2, -0.1, 0.3], ddof=1)))
    assert found['unusable']['value'] == 0.25
    # Rewards: true 1, 0, 0, 1; generic 1 0, 0 0, 1 0, 0 0.
    assert found['differs']['value'] == pytest.approx((0.5 + 0 + 0.5 + 1) / 4)
    assert found['better']['value'] == pytest.approx((0.5 + 0 + 0 + 1) / 4)
    rank = found['rank']
    assert (rank['first']['value'], rank['mean'], rank['n']) == (0.5, 2, 2)
    assert rank['chance'] == pytest.approx((1 / 3 + 1 / 4) / 2)


def test_small_and_large_boxes_are_told_apart():
    report = check_scores(FOUR)
    assert report['median_area'] == pytest.approx(0.25)
    assert report['small']['wins']['true']['value'] == 0  # items 2 and 3, one of them unusable
    assert report['large']['wins']['true'] == dict(
        value=1, n=2, low=pytest.approx(wilson(1, 2)[0]), high=1)


def test_intervals_of_shares():
    # (0.5 + z^2 / 8 -+ z sqrt(1 / 16 + z^2 / 64)) / (1 + z^2 / 4), z = 1.96
    assert wilson(0.5, 4) == pytest.approx((0.15004, 0.84996), abs=1e-5)
    assert wilson(1, 1) == (pytest.approx(1 / (1 + 1.95996**2), abs=1e-5), 1)
    assert wilson(0, 10)[0] == 0 and wilson(0, 10)[1] == pytest.approx(0.27753, abs=1e-5)
    assert all(map(math.isnan, wilson(NAN, 0)))


def items_like(true, generic, wrong, number=10):
    return scores_of([true] * number, [[generic]] * number, [[wrong]] * number)


@pytest.mark.parametrize('scores, verdict, sentence', [
    (items_like(0.2, -0.1, -0.1), 'carries', 'true captions win for 100.0 % of 10 items (generic '
     '0.0 %, of another image 0.0 %), and the lower AUC (generic) is 1.000'),
    (items_like(0.2, 0.1, 0.1), 'weak', 'generic 100.0 %'),  # all win, but true ones by more
    (items_like(-0.1, -0.2, -0.2), 'weak', 'win for 0.0 %'),
    (items_like(0.2, -0.1, 0.3), 'fails', 'the lower AUC (of another image) is 0.000'),
    (items_like(0.0, 0.0, 0.0), 'fails', 'the lower AUC (generic) is 0.500'),  # ties only
    (items_like(0.2, -0.1, NAN), 'carries', 'generic 0.0 %)'),  # all of one image
    (items_like(NAN, -0.1, -0.1), 'fails', 'none of 10 true captions can be compared'),
    (items_like(0.2, -0.1, -0.1, number=1), 'carries', '1.000 [0.207, 1.000]'),
])
def test_the_verdict_follows_its_rule(scores, verdict, sentence):
    report = check_scores(scores)
    assert report['verdict'] == verdict and sentence in report['sentence']
    page = format_check(report)
    assert report['sentence'] in page and report['rule'] in page


@pytest.mark.parametrize('true, wrong, verdict', [
    ([1, 1, 1, 1, 0], [0.5] * 5, 'carries'),  # AUC 0.8
    ([1] * 13 + [0] * 7, [0.5] * 20, 'weak'),  # 0.65
    ([1] * 12 + [0] * 8, [0.5] * 20, 'fails'),  # 0.6
])
def test_the_bounds_of_the_verdict(true, wrong, verdict):
    shifted = [[value - 0.9] for value in wrong]
    scores = scores_of([value - 0.9 for value in true], shifted, shifted)
    assert check_scores(scores)['verdict'] == verdict


def test_remedies_follow_from_the_numbers():
    def hints(scores, **more):
        return ' '.join(check_scores(scores, **more)['hints'])
    assert hints(items_like(0.2, -0.1, -0.1)) == ''
    assert 'with --captions' in hints(items_like(0.2, -0.1, -0.1), source='question')
    assert "`form='margin'`" in hints(items_like(0.2, 0.1, 0.1))
    assert "`form='sigmoid'`" in hints(items_like(-0.1, -0.2, -0.2))
    assert 'context_length' in hints(FOUR) and 'another model' in hints(FOUR)
    alike = scores_of([0.2] * 2, [[-0.1]] * 2, [[-0.1]] * 2, misplaced=[[0.3]] * 2)
    assert "contrast='others'" in hints(alike)
    assert hints(alike, contrast='others') == ''
    assert "contrast='others'" not in hints(FOUR)  # a model that tells nothing apart
    uneven = scores_of([0.1, 0.3], [[0.2], [-0.2]], [[0.2], [-0.2]], areas=[0.1, 0.2])
    assert 'region_margin' in hints(uneven)


def test_without_an_item_there_is_nothing_to_say():
    with pytest.raises(ValueError, match='at least one item'):
        check_scores(scores_of([], [], []))


def test_wrong_captions_are_of_other_images_and_differ():
    items = [CaptionItem(i, image, text) for i, (image, text) in enumerate([
        ('a', 'Red star'), ('a', 'green dot'), ('b', ' red  STAR '), ('c', 'blue box'),
        ('d', 'blue box')])]
    drawn = draw_wrong(items, 3)
    assert drawn == draw_wrong(items, 3) and all(len(texts) == 3 for texts in drawn)
    assert drawn[0] == ['blue box', None, None]
    assert sorted(drawn[1][:2]) == [' red  STAR ', 'blue box'] and drawn[1][2] is None
    assert set(drawn[2]) == {'green dot', 'blue box', None}
    assert draw_wrong(items[:1], 2) == [[None, None]]


def test_items_are_spread_evenly():
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(3), 4) == spread(range(3), None) == [0, 1, 2]


class Data(list):
    """A data set of these items."""

    get_data_info = list.__getitem__


DATA = Data([dict(img_id=7, img_path='x/a.jpg', question='the star'),
             dict(img_id=7, img_path='x/a.jpg', question='the dot', caption='a dot'),
             dict(img_id='b', img_path='x/b.jpg', question='the box')])


def write(path, *rows):
    path.write_text('\n'.join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def test_the_best_source_of_captions_is_taken(tmp_path):
    path = write(tmp_path / 'c.jsonl', dict(id='b', caption='a box'), '',
                 dict(image='elsewhere/a.jpg', question=' the dot ', caption='a small dot'),
                 dict(id=7, question='the star', caption=''), dict(id='none', caption='c'))
    items, source = find_captions(DATA, path)
    assert source == 'file'
    assert [(item.index, item.caption) for item in items] == [
        (0, ''), (1, 'a small dot'), (2, 'a box')]
    items, source = find_captions(DATA)
    assert source == 'data set' and items == [CaptionItem(1, 'x/a.jpg', 'a dot')]
    items, source = find_captions(Data(DATA[2:]))
    assert source == 'question' and items == [CaptionItem(0, 'x/b.jpg', 'the box')]


@pytest.mark.parametrize('rows, message', [
    ([dict(id='b', caption='c'), '{"id": '], "line 2 should be .* but is '{\"id\": '"),
    ([dict(id='b', caption='c'), '', '[]'], 'line 3 should be'),
    ([dict(id='b')], 'line 1 should be .*text `caption`'),
    ([dict(id='b', caption=3)], 'line 1 should be'),
    ([dict(image='b.jpg', caption='c')], 'line 1 should be .*`image` and `question`'),
    ([], 'is empty'),
    ([dict(id='b', caption='c'), dict(image='b.jpg', question='the box', caption='d')],
     'lines 1 and 2 are about the same'),
    ([dict(id=7, caption='c')], 'line 1 should name one item .* it names 2;'),
    ([dict(id='z', caption='c')], "None of the 1 captions .* 3 items .*'id': 'z'.*id 7, image"),
    ([dict(image='z.jpg', question='the box', caption='c')], 'None of the 1 captions'),
])
def test_a_wrong_file_of_captions_is_named(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        find_captions(DATA, write(tmp_path / 'c.jsonl', *rows))


def test_lines_keep_their_numbers(tmp_path):
    path = write(tmp_path / 'c.jsonl', '', dict(id=1, caption='c'))
    assert read_captions(path) == {2: dict(id=1, caption='c')}


def test_the_hook_says_how_to_score():
    hook = dict(type='DiscriminativeRewardHook', discriminator=dict(type='D'), weight=2,
                priority='LOW', contrast='others')
    settings = dict(discriminator=dict(type='D'), contrast='others')
    assert find_reward(dict(custom_hooks=[dict(type='Other', discriminator={}), hook])) == settings
    for config in ({}, dict(custom_hooks=None), dict(custom_hooks=[dict(type='Other')])):
        with pytest.raises(ValueError, match='have a DiscriminativeRewardHook, but has none'):
            find_reward(config)
    two = dict(custom_hooks=[hook, dict(hook, name='near', contrast='image', _scope_='mmdpad')])
    assert find_reward(two, 'discriminative') == settings
    assert find_reward(two, 'near') == dict(settings, contrast='image')
    for name in (None, 'far'):
        with pytest.raises(ValueError, match=r"\['discriminative', 'near'\].* got .*--term"):
            find_reward(two, name)


def test_a_term_that_the_loop_names_says_how_to_score_too():
    term = dict(type='DiscriminativeReward', discriminator=dict(type='D'), form='margin')
    rewards = dict(ranked=dict(type='QuantileReward', term=term, weight=2),
                   format=dict(type='ThinkingFormatReward'))
    assert find_reward(dict(train_cfg=dict(rewards=rewards))) == dict(
        discriminator=dict(type='D'), form='margin')


class Light(nn.Module):
    """A discriminator by which 'bright' and 'dark' fit images of that kind: mean value / 1000."""

    def forward(self, images, captions):
        sign = {'bright': 1., 'dark': -1.}
        return tensor([[float(p.mean()) / 1000 * sign.get(caption, NAN) for caption in captions]
                       for p in images]).reshape(-1, len(captions))


def striped(targets, others=None):
    """An item, 4 rows and 10 columns: bright stripes on black, mean 110."""
    image = torch.zeros(3, 4, 10, dtype=torch.uint8)
    for start, value in ((0, 200), (4, 100), (7, 250)):
        image[..., start:start + 2] = value
    sample = SimpleNamespace(model_targets=InstanceData(bboxes=tensor(targets).reshape(-1, 4)))
    if others is not None:
        sample.model_negatives = InstanceData(bboxes=tensor(others).reshape(-1, 4))
    return dict(inputs=dict(model_image=image), data_samples=sample)


STRIPE, OTHERS = [[0., 0., 2., 4.]], [[4., 0., 6., 4.], [7., 0., 9., 4.]]
ITEMS = [CaptionItem(0, 'a', 'bright'), CaptionItem(1, 'b', 'dark'), CaptionItem(2, 'c', 'dark')]


@pytest.mark.parametrize('options, true, misplaced', [
    ({}, 0.09, [-0.01, 0.14]),
    (dict(region='predicted'), 0.09, [-0.01, 0.14]),
    # Of 200, 100 and 250, each against the brightest of the other two.
    (dict(contrast='others'), -0.05, [-0.15, 0.05]),
])
def test_items_are_scored_by_the_term_itself(monkeypatch, options, true, misplaced):
    monkeypatch.setattr(MODELS, 'build', lambda config: Light())
    reward = DiscriminativeReward(dict(type='Light'), device='cpu', **options)
    data = [striped(STRIPE, OTHERS), striped(STRIPE), striped([])]
    scores, without = score_captions(reward, data, ITEMS, generic=('dark', 'unknown'))
    assert without == 1 and reward.options.contrast == options.get('contrast', 'image')
    close = dict(nan_ok=True, abs=1e-6)
    assert scores.margins['true'][:, 0] == pytest.approx([true, -0.09], **close)
    wins = float(true > 0)
    assert scores.rewards['true'].tolist() == [[wins], [0]]
    dark = -0.1 if 'contrast' in options else -0.09  # -0.2 against -0.1 or the image's -0.11
    np.testing.assert_allclose(scores.margins['generic'], [[dark, NAN], [-0.09, NAN]], atol=1e-6)
    np.testing.assert_allclose(scores.margins['misplaced'], [misplaced, [NAN, NAN]], atol=1e-6)
    np.testing.assert_allclose(scores.margins['wrong'][1], [0.09, NAN, NAN], atol=1e-6)
    assert scores.ranks.tolist() == pytest.approx([2, NAN], nan_ok=True)
    assert scores.others.tolist() == [2, 0] and scores.areas == pytest.approx([0.2, 0.2])


def test_data_without_targets_are_refused(monkeypatch):
    monkeypatch.setattr(MODELS, 'build', lambda config: Light())
    reward = DiscriminativeReward(dict(type='Light'), device='cpu')
    with pytest.raises(ValueError, match='None of 1 items has a target'):
        score_captions(reward, [striped([])], ITEMS[:1])
    item = striped(STRIPE)
    item['data_samples'] = SimpleNamespace()
    with pytest.raises(ValueError, match='should give a model image and targets'):
        score_captions(reward, [item], ITEMS[:1])
