# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn, tensor

from mmdpad.engine.hooks.discriminative_reward_hook import DiscriminativeRewardHook
from mmdpad.engine.hooks.mask_reward_hook import MaskRewardHook
from mmdpad.registry import MODELS
from mmdpad.rewards import RewardComposition
from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput, RolloutBatch

NAN = math.nan


class StubDiscriminator(nn.Module):
    """Answers fixed similarities of two regions and two images and keeps what it was asked."""
    roi = tensor([[0.3, 0.2, NAN], [0.4, 0.1, 0.2]])
    image = tensor([[0.1, 0.2, NAN], [0.1, 0.3, 0.1]])

    def forward(self, images, captions):
        self.asked = images, captions
        return torch.stack([self.roi[0], self.image[0], self.roi[1], self.image[1]]).repeat(1, 2)


@pytest.fixture
def built(monkeypatch):
    stub = StubDiscriminator()
    monkeypatch.setattr(MODELS, 'build', lambda config: stub)
    runner = SimpleNamespace(model=nn.Linear(1, 1), logger=logging.getLogger('test'),
                             train_loop=SimpleNamespace(composition=RewardComposition({})))
    runner.train_loop.composition.prepare(runner.model, None)
    return stub, runner


def rollout():
    def response(caption):
        return ReasoningOutput(
            None, caption, (AnsweredObject((0, 0, 1, 1), ((0, 0), (1, 1))), ))

    def sample(box):
        return SimpleNamespace(model_targets=SimpleNamespace(bboxes=tensor([box])))
    images = [torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5) + i for i in range(2)]
    failure = ParseFailure('no_answer', 'nothing there', caption='c')
    return RolloutBatch([sample([0., 0., 2., 2.]), sample([1., 1., 4., 3.])], images, 3, ['t'] * 6,
                        [response('a'), response('b'), response(None), failure, response('d'),
                         response('e')])


def test_writes_its_term_and_signals(built):
    stub, runner = built
    hook = DiscriminativeRewardHook(dict(type='Stub'), weight=0.5)
    hook.before_train(runner)
    batch = rollout()
    runner.train_loop.composition.score(batch)
    (_, _, region, image), captions = stub.asked
    assert captions == ['a', 'b', None, 'c', 'd', 'e']
    assert image.shape == (4, 5, 3) and image.dtype == np.uint8
    assert image[2, 3].tolist() == batch.model_images[1][:, 2, 3].tolist()
    np.testing.assert_array_equal(region, image[1:3, 1:4])
    assert batch.rewards['discriminative'].tolist() == [[1, 0, 0], [1, 0, 1]]
    torch.testing.assert_close(batch.signals['s_margin'],
                               tensor([[0.2, 0, NAN], [0.3, -0.2, 0.1]]), equal_nan=True)
    assert runner.train_loop.composition.total(batch).tolist() == [[0.5, 0, 0], [0.5, 0, 0.5]]


def test_options_are_passed_on(built):
    hook = DiscriminativeRewardHook(dict(type='Stub'), form='softmax', temperature=0.2)
    hook.before_train(built[1])
    batch = rollout()
    built[1].train_loop.composition.score(batch)
    assert batch.rewards['discriminative'][0].tolist() == pytest.approx(
        [1 / (1 + math.exp(-1)), 0.5, 0])


def test_two_hooks_have_two_names(built):
    stub, runner = built
    hooks = [DiscriminativeRewardHook(dict(type='Stub'), weight=0.5),
             DiscriminativeRewardHook(dict(type='Stub'), form='margin', name='by_how_much')]
    batch = rollout()
    for hook in hooks:
        hook.before_train(runner)
    composition = runner.train_loop.composition
    composition.score(batch)
    assert composition.weights == dict(discriminative=0.5, by_how_much=1.0)
    assert composition.total(batch)[1].tolist() == pytest.approx([0.8, 0, 0.6])
    assert torch.equal(batch.signals['by_how_much_s_margin'].nan_to_num(7),
                       batch.signals['s_margin'].nan_to_num(7))


@pytest.mark.parametrize('hook', [
    DiscriminativeRewardHook(dict(type='NoSuchModel')), MaskRewardHook()])
def test_a_name_that_is_taken_stops_before_anything_is_built(built, hook):
    built[1].train_loop.composition.add(hook.term, None)
    with pytest.raises(ValueError, match=f"'{hook.term}' is taken .* name='"):
        hook.before_train(built[1])


def test_a_hook_that_did_not_add_its_term_is_noticed(built):
    class Forgetful(DiscriminativeRewardHook):
        def before_train(self, runner):
            pass

    hook = Forgetful(dict(type='Stub'))
    hook.before_train(built[1])
    with pytest.raises(RuntimeError, match="Forgetful should have added .* 'discriminative'"):
        hook.after_rollout(built[1], rollout())


@pytest.mark.parametrize('options, error', [
    (dict(form='binry'), ValueError), (dict(region='box'), ValueError),
    (dict(contrast='other'), ValueError), (dict(region_margin=-1), ValueError),
    (dict(form=dict(binary=0)), ValueError), (dict(combine='median'), ValueError),
    (dict(froms='binary'), TypeError)])
def test_a_wrong_option_stops_before_anything_is_built(options, error):
    with pytest.raises(error, match=next(iter(options))):
        DiscriminativeRewardHook(dict(type='NoSuchModel'), **options)
