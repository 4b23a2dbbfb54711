# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
from mmengine.registry import DefaultScope

from mmdpad.engine.hooks import DiscriminativeRewardHook, MaskRewardHook, RewardHook
from mmdpad.registry import HOOKS
from mmdpad.rewards import MaskReward, RepetitionReward, build_term, list_rewards

CLIP = dict(type='CLIPDiscriminator')


@HOOKS.register_module(force=True)
class Trigrams(RewardHook):
    """A hook of a user's, by two attributes."""
    kind, term = 'RepetitionReward', 'trigrams'


@HOOKS.register_module(force=True)
class OfWords(Trigrams):
    """One with an argument of its own."""

    def __init__(self, words=2, **arguments):
        super().__init__(n=words, **arguments)

    @classmethod
    def as_term(cls, entry):
        name, config = super().as_term(entry)
        return name, dict(config, n=config.pop('words', 2))


CONFIG = dict(
    default_scope='mmdpad',
    train_cfg=dict(rewards=dict(
        form=dict(type='ThinkingFormatReward', weight=2.0),
        ranked=dict(type='QuantileReward', term=dict(type='DiscriminativeReward',
                                                     discriminator=CLIP)),
        mask=dict(type=MaskReward), broken=3)),
    default_hooks=dict(near=dict(type='DiscriminativeRewardHook', discriminator=CLIP, name='near'),
                       logger=dict(type='LoggerHook'), rollout_log=None),
    custom_hooks=[
        dict(type='mmdpad.DiscriminativeRewardHook', discriminator=[CLIP, CLIP], priority='LOW'),
        dict(type='NoSuchHook'), dict(type='IterTimerHook'), 'no hook', Trigrams(),
        dict(type=MaskRewardHook, name='tiered', tiers=[0.5], _scope_='mmdpad'),
        dict(type='Trigrams', n=3, weight=0.5), dict(type='OfWords', name='words', words=5)])


@pytest.mark.parametrize('scope', ['mmdet', None])
def test_every_reward_of_a_config_is_listed_once(scope):
    with DefaultScope.overwrite_default_scope(scope):
        found = {reward.name: reward for reward in list_rewards(CONFIG)}
        needs = {name: [what for what in ('model', 'decoder') if reward.needs(what)]
                 for name, reward in found.items()}
    assert {name: reward.path for name, reward in found.items()} == dict(
        form='train_cfg.rewards.form', ranked='train_cfg.rewards.ranked',
        mask='train_cfg.rewards.mask', near='default_hooks.near', discriminative='custom_hooks.0',
        tiered='custom_hooks.5', trigrams='custom_hooks.6', words='custom_hooks.7')
    assert needs == dict(form=[], ranked=['model'], mask=['model', 'decoder'],
                         near=['model'], discriminative=['model'], tiered=['model', 'decoder'],
                         trigrams=[], words=[])
    assert [name for name, reward in found.items() if reward.is_hook] == [
        'near', 'discriminative', 'tiered', 'trigrams', 'words']
    assert [kind.__name__ for kind, _ in found['ranked'].parts] == [
        'QuantileReward', 'DiscriminativeReward']


def test_a_listed_reward_is_the_term_that_the_hook_adds():
    for reward in list_rewards(CONFIG):
        if reward.name in ('trigrams', 'words', 'tiered'):
            hook = HOOKS.build({key: value for key, value in reward.entry.items()
                                if key != 'priority'})
            config = dict(reward.config)
            weight, term = config.pop('weight', 1.0), build_term(config)
            assert (hook.term, hook.weight) == (reward.name, weight)
            assert vars(hook.reward) == vars(term) and type(hook.reward) is type(term)


def test_a_config_without_rewards_has_none():
    for config in ({}, dict(train_cfg=None, custom_hooks=None), dict(train_cfg=dict(rewards=[]))):
        assert list_rewards(config) == []


def test_a_hook_of_two_attributes_builds_its_term():
    assert isinstance(Trigrams(n=2).reward, RepetitionReward)
    with pytest.raises(TypeError, match="'m'"):
        Trigrams(m=2)


@pytest.mark.parametrize('kind, arguments', [
    (DiscriminativeRewardHook, dict(discriminator=CLIP)), (MaskRewardHook, {})])
def test_a_subclass_names_its_term(kind, arguments):
    class Named(kind):
        term = 'named'

    for given, name in (({}, 'named'), (dict(name='other'), 'other')):
        assert Named(**arguments, **given).term == Named.as_term(given)[0] == name
