# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Scores from how well descriptions tell objects apart."""
import numpy as np
import pytest
import torch
from torch import nn

from mmdpad.models import DiscriminationScorer
from mmdpad.models.scorers import GivenAnswer
from mmdpad.registry import MODELS
from mmdpad.rewards import DiscriminativeReward, discriminative_reward
from mmdpad.structures import AnsweredObject, ReasoningOutput, RolloutBatch

# Three squares of one color each on black.
IMAGE = torch.zeros(3, 10, 40, dtype=torch.uint8)
RED, GREEN, BLUE = (0., 0., 10., 10.), (12., 0., 22., 10.), (30., 0., 40., 10.)
for channel, (x1, _, x2, _) in enumerate((RED, GREEN, BLUE)):
    IMAGE[channel, :, int(x1):int(x2)] = 255
COLORS = dict(red=0, green=1, blue=2)


@MODELS.register_module()
class ColorMatcher(nn.Module):
    """A caption fits an image by how much it shows of its color, in [0, 1]; NaN without one."""

    calls = 0

    def forward(self, images, captions):
        ColorMatcher.calls += 1
        return torch.tensor([[
            float(image[..., COLORS[caption]].mean()) / 255 if caption in COLORS else torch.nan
            for caption in captions] for image in images]).reshape(len(images), len(captions))


def scorer(kind='ColorMatcher', **options):
    return DiscriminationScorer(dict(type=kind), device='cpu', **options)


def given(*objects):
    return GivenAnswer(IMAGE, [AnsweredObject(box, None, label, description)
                               for box, label, description in objects])


def test_by_hand():
    """S2 is the best of the other boxes and the image, of which each color has a quarter."""
    answer = given((RED, 'square', 'red'), (GREEN, 'square', 'blue'), (BLUE, 'blue', None))
    found, = scorer(form='softmax', temperature=1.0)([answer])
    assert found.features['s_roi'].tolist() == [1, 0, 1]
    assert found.features['s_image'].tolist() == [0.25, 1, 0.25]
    assert found.features['s_margin'].tolist() == [0.75, -1, 0.75]
    assert found.features['s_rank'].tolist() == [1, 4, 1]
    assert found.scores == pytest.approx(1 / (1 + np.exp([-0.75, 1, -0.75])), rel=1e-6)
    assert (found.features['score'] == found.scores).all()


@MODELS.register_module()
class SignedMatcher(ColorMatcher):
    """The same in [-1, 1]."""

    def forward(self, images, captions):
        return 2 * super().forward(images, captions) - 1


def test_values_above_1_count_as_1():
    """S1 = 1 and S2 = -1 / 2."""
    found, = scorer('SignedMatcher', form='margin')([given((RED, 'red', None))])
    assert found.features['s_margin'].tolist() == [1.5] and found.scores.tolist() == [1]


def test_one_object_is_compared_with_the_image():
    found, = scorer()([given((RED, 'red', None))])
    assert found.features['s_margin'].tolist() == [0.75]


def test_large_margins_are_told_apart():
    """sigmoid(100 x) is 1 in float32 for both, 10 / 21 - 1 / 4 and 10 / 20 - 1 / 4."""
    first, second = (found.scores[0] for found in scorer()(
        [given(((12., 0., x2, 10.), 'green', None)) for x2 in (33., 32.)]))
    assert np.log([1 - first, 1 - second]) == pytest.approx([-22.62, -25], abs=0.01)


def test_what_cannot_be_compared_is_worth_nothing_and_unknown():
    outside = (-30., 0., -20., 9.)
    answer = given((RED, 'square', None), (outside, 'red', None), (BLUE, 'blue', None))
    found, = scorer()([answer])
    assert found.scores[:2].tolist() == [0, 0] and found.scores[2] > 0.9
    for values in found.features.values():
        assert np.isnan(values).tolist() == [True, True, False]


@pytest.mark.parametrize('options', [
    dict(form='sigmoid', alpha=3.0), dict(form='binary', contrast='image'), dict(form='margin'),
    dict(form='roi', region_margin=0.2), dict(form='product', contrast='masked')])
def test_s1_and_s2_are_the_rewards(options):
    """The discriminative term of a single object's answer is its score, and so are its signals."""
    objects = [(RED, 'square', 'red'), (GREEN, 'cup', 'blue'), (BLUE, 'blue', None)]
    found, = scorer(**options)([given(*objects)])
    reward = DiscriminativeReward(dict(type='ColorMatcher'), device='cpu', per_instance=True,
                                  region='predicted', **dict(dict(contrast='others'), **options))
    rollout = RolloutBatch([object()], [IMAGE], 1, ['t'], [ReasoningOutput(None, None, tuple(
        AnsweredObject(box, None, label, description or label)
        for box, label, description in objects))])
    assert float(reward(rollout)) == pytest.approx(found.scores.mean(), rel=1e-6)
    for name in ('s_roi', 's_image', 's_margin', 's_rank'):
        assert float(rollout.signals[name]) == pytest.approx(found.features[name].mean(), rel=1e-6)
    assert found.scores == pytest.approx(discriminative_reward(
        torch.from_numpy(found.features['s_roi']), torch.from_numpy(found.features['s_image']),
        options['form'], alpha=options.get('alpha', 100.0)).numpy(), rel=1e-6)


def test_a_batch_is_compared_at_once():
    answers = [given((RED, 'red', None), (BLUE, 'green', None)), given(),
               given((GREEN, 'green', None))]
    score = scorer()
    ColorMatcher.calls = 0
    found = score(answers)
    assert ColorMatcher.calls == 1
    for answer, own in zip(answers, found, strict=True):
        assert score([answer])[0].scores.tolist() == own.scores.tolist()
    assert found[1].scores.shape == (0, ) and score([]) == []


@pytest.mark.parametrize('options, message', [
    (dict(region='target'), "`region` should be 'predicted', since an answer is scored without"),
    (dict(form='binary+margin'), r"`form` should be one of .*, but got 'binary\+margin'"),
    (dict(contrast='other'), '`contrast` should be one of'),
    (dict(max_region=2.0), '`max_region` should be')])
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        scorer(**options)


def test_the_discriminator_is_built_at_the_start():
    """Not with the scorer, which a dry run makes; and before any answer."""
    missing = DiscriminationScorer(dict(type='NoDiscriminator'))
    with pytest.raises(KeyError, match='NoDiscriminator'):
        missing.prepare(None)


def test_options_name_no_folder():
    found = DiscriminationScorer([dict(type='ColorMatcher')], device='cpu')
    found.reward.configs = [dict(type='CLIPDiscriminator', model_name='local-dir:/home/x/clip')]
    assert found.options()['discriminator'] == [
        dict(type='CLIPDiscriminator', model_name='local-dir:clip')]
