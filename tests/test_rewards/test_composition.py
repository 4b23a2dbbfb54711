# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from types import SimpleNamespace

import pytest
import torch

from mmdpad.registry import REWARDS
from mmdpad.rewards import RewardComposition, write_term
from mmdpad.structures import RolloutBatch


def make_rollout(**rewards):
    return RolloutBatch([0, 1], [0, 1], 2, [''] * 4, [None] * 4,
                        rewards={k: torch.tensor(v) for k, v in rewards.items()})


def nothing(rollout):
    return torch.zeros(2, 2)


def test_weighted_sum():
    composition = RewardComposition({})
    composition.add('a', nothing, 2)
    composition.add('b', nothing, -0.5)
    rollout = make_rollout(a=[[1., 0.], [3., 4.]], b=[[2., 2.], [0., 2.]])
    assert composition.total(rollout).tolist() == [[1., -1.], [6., 7.]]


def test_rule_terms_are_scored_by_name():
    composition = RewardComposition(dict(form=dict(type='ThinkingFormatReward', weight=3)))
    rollout = make_rollout()
    composition.score(rollout)
    assert composition.weights == {'form': 3.0}
    assert rollout.rewards['form'].tolist() == [[0., 0.], [0., 0.]]


def test_rewards_that_are_no_terms_or_terms_without_reward_are_errors():
    composition = RewardComposition({})
    composition.add('discriminative', nothing)
    with pytest.raises(RuntimeError, match=r"missing: \['discriminative'\]"):
        composition.total(make_rollout())
    with pytest.raises(RuntimeError, match=r"not among them: \['other'\].* `before_train"):
        composition.total(make_rollout(discriminative=[[0.] * 2] * 2, other=[[0.] * 2] * 2))
    with pytest.raises(ValueError, match="different names, but 'discriminative' .*`custom_hooks`"
                                         ", for example to name='discriminative_2'"):
        composition.add('discriminative', nothing)


class Picky:
    """Wants a model of three and remembers how often it was asked."""

    def __init__(self):
        self.calls = 0

    def prepare(self, model, dataset):
        if model != 3:
            raise ValueError(f'{model} and {dataset}')

    def __call__(self, rollout):
        self.calls += 1
        return torch.zeros(2, 2)

    def state_dict(self):
        return dict(calls=self.calls)

    def load_state_dict(self, state):
        self.calls = state['calls']


def test_a_term_that_comes_late_gets_what_the_others_got():
    early, late = Picky(), Picky()
    composition = RewardComposition({})
    composition.add('early', early)
    with pytest.raises(ValueError, match='None and None'):
        composition.prepare()
    composition.prepare(3, 'data')
    composition.load_state_dict(dict(early=dict(calls=5), late=dict(calls=7), gone={}))
    composition.add('late', late)
    composition.add('new', new := Picky())
    composition.score(make_rollout())
    assert composition.state_dict() == dict(
        early=dict(calls=6), late=dict(calls=8), new=dict(calls=1))
    composition.load_state_dict(dict(new=dict(calls=2)))  # saved before the others were there
    assert (early.calls, late.calls, new.calls) == (6, 8, 2)


def test_a_late_term_that_cannot_be_scored_is_not_added():
    composition = RewardComposition({})
    composition.prepare(4, 'data')
    with pytest.raises(ValueError, match='4 and data'):
        composition.add('picky', Picky())
    assert not composition.terms and not composition.weights


@pytest.mark.parametrize('error, raised', [
    (KeyError('x'), RuntimeError), (FloatingPointError('NaN'), FloatingPointError),
    (torch.OutOfMemoryError('full'), torch.OutOfMemoryError)])
def test_a_term_that_raises_is_named_and_what_a_network_raises_passes(error, raised):
    def term(rollout):
        raise error

    composition = RewardComposition({})
    composition.add('broken', term)
    with pytest.raises(raised) as caught:
        composition.score(make_rollout())
    assert caught.value is error or "'broken' should" in str(caught.value)


@pytest.mark.parametrize('name', ['', 'total', 3, None])
def test_a_name_that_cannot_be_one_is_refused(name):
    with pytest.raises(ValueError, match=f"string other than 'total'.* got {name!r}"):
        RewardComposition({}).add(name, nothing)


def test_the_signals_of_a_second_term_have_its_name_in_front():
    def term(value):
        def score(rollout):
            rollout.signals['s_margin'] = torch.full((2, 2), value)
            return torch.zeros(2, 2)
        return score

    rollout = make_rollout()
    for number, name in enumerate(('first', 'domain', 'third')):
        write_term(rollout, name, term(float(number)))
    assert {name: values[0, 0].item() for name, values in rollout.signals.items()} == {
        's_margin': 0, 'domain_s_margin': 1, 'third_s_margin': 2}
    assert rollout.rewards.keys() == {'first', 'domain', 'third'}


@pytest.mark.parametrize('values', [[[1., float('nan')], [0., 0.]], [[1., 0.]]])
def test_a_term_that_is_not_finite_or_of_another_shape_is_an_error(values):
    composition = RewardComposition({})
    composition.add('a', nothing)
    with pytest.raises(ValueError, match="'a'"):
        composition.total(make_rollout(a=values))


def test_a_registered_function_is_a_term():
    @REWARDS.register_module(force=True)
    def says_please(rollout, word='please', gain=1.0):
        return gain * rollout.per_response([float(word in text) for text in rollout.texts])

    composition = RewardComposition(dict(
        polite=dict(type='says_please', weight=2, gain=0.5), thanks=dict(type='says_please',
                                                                         word='thanks')))
    rollout = make_rollout()
    rollout.texts[:2] = ['please do', 'thanks']
    composition.score(rollout)
    assert composition.total(rollout).tolist() == [[1., 1.], [0., 0.]]
    with pytest.raises(TypeError, match="'says_please' should take .*gian"):
        RewardComposition(dict(polite=dict(type='says_please', gian=0.5)))
    with pytest.raises(KeyError, match='NoSuchTerm'):
        RewardComposition(dict(polite=dict(type='NoSuchTerm')))


@pytest.mark.parametrize('weight', [float('nan'), float('inf'), 'two', None])
def test_a_weight_that_is_no_finite_number_is_refused(weight):
    with pytest.raises(ValueError, match=f"`weight` of the .* 'a' should be a finite .*{weight!r}"):
        RewardComposition({}).add('a', nothing, weight)


def test_no_terms_are_an_error():
    with pytest.raises(ValueError, match='at least one term, but there is none; add one to `train'):
        RewardComposition({}).total(make_rollout())


def mixed(*tasks, size=2):
    """A rollout of prompts of these tasks, whose texts are their numbers."""
    return RolloutBatch([SimpleNamespace(task=task) for task in tasks], [0] * len(tasks), size,
                        [str(row) for row in range(len(tasks) * size)],
                        [None] * len(tasks) * size)


def numbers(rollout):
    rollout.signals['seen'] = rollout.per_response([float(text) for text in rollout.texts])
    return rollout.signals['seen'] + 1


def test_a_term_scores_the_prompts_of_its_tasks_only():
    composition = RewardComposition({})
    composition.add('all', numbers)
    composition.add('b', numbers, 10, ['b'])
    rollout = mixed('a', 'b', 'a', 'b')
    composition.score(rollout)
    nan = float('nan')
    assert rollout.rewards['b'].nan_to_num(-1).tolist() == [[-1, -1], [3, 4], [-1, -1], [7, 8]]
    assert rollout.signals['seen'].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert rollout.signals['b_seen'].isnan().tolist() == rollout.rewards['b'].isnan().tolist()
    assert composition.total(rollout).tolist() == [[1, 2], [33, 44], [5, 6], [77, 88]]
    rollout.rewards['b'][1, 0] = nan  # a prompt that it scores
    with pytest.raises(ValueError, match="'b' should be finite"):
        composition.total(rollout)


def test_a_batch_and_its_parts_have_the_same_rewards():
    composition = RewardComposition({})
    composition.add('all', numbers)
    composition.add('b', numbers, 0.1, ['b'])
    parts = []
    for task in 'ab':
        part = mixed(task)
        composition.score(part)
        parts.append(part)
    joined = RolloutBatch.concatenate(parts)
    assert joined.rewards['b'].isnan().tolist() == [[True] * 2, [False] * 2]
    assert composition.total(joined).tolist() == [
        *composition.total(parts[0]).tolist(), *composition.total(parts[1]).tolist()]


def test_a_term_without_prompts_is_not_called_unless_all_processes_take_part():
    asked = []

    class Everywhere:
        all_processes = True

        def __call__(self, rollout):
            asked.append(rollout.num_prompts)
            return rollout.per_response([1.0] * len(rollout.texts))

    def never(rollout):
        raise AssertionError

    composition = RewardComposition({})
    composition.add('never', never, tasks=['b'])
    composition.add('everywhere', Everywhere(), tasks=['b'])
    composition.add('all', numbers)
    rollout = mixed('a', 'a')
    composition.score(rollout)
    assert asked == [0] and rollout.rewards['everywhere'].isnan().all()
    assert composition.total(rollout).equal(rollout.rewards['all'].double())


@pytest.mark.parametrize('tasks', ['detection', [], [3], {'a': 1}])
def test_tasks_that_are_no_names_are_refused(tasks):
    with pytest.raises(ValueError, match='`tasks` of the reward term .* a list of names'):
        RewardComposition({}).add('a', nothing, tasks=tasks)


def test_what_cannot_be_scored_is_known_before_it_is_asked():
    composition = RewardComposition(dict(a=dict(type='ThinkingFormatReward', tasks=['b'])))
    with pytest.raises(ValueError, match=r'should have a reward term, but a, c has none'):
        composition.check_terms(['a', 'b', 'c'])
    with pytest.raises(RuntimeError, match='should name their `task`'):
        composition.score(mixed(None))
    with pytest.raises(ValueError, match=r"among those of the model \(a\), but got b"):
        composition.prepare(SimpleNamespace(tasks=dict(a=None)), 'data')


def test_a_term_is_prepared_with_the_items_of_its_tasks():
    class Data(list):
        def get_data_info(self, index):
            return dict(task=self[index]) if self[index] else {}

    given = {}

    class Term:
        def __init__(self, name):
            self.name = name

        def prepare(self, model, dataset):
            given[self.name] = list(dataset)

    composition = RewardComposition({})
    composition.add('all', Term('all'))
    composition.add('a', Term('a'), tasks=['a'])
    model = SimpleNamespace(tasks=dict(a=None, b=None, c=None))
    composition.prepare(model, Data([None, 'b', 'a']))
    assert given == dict(all=[None, 'b', 'a'], a=[None, 'a'])
    with pytest.raises(ValueError, match="'late' is for c, but the training data have no question"):
        composition.add('late', Term('late'), tasks=['c'])
