# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import copy
from contextlib import nullcontext
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mostly_slow import mostly_slow

from mmdpad.engine.runner import evaluation_loops, pending_rollouts
from mmdpad.models import LikelihoodScorer, RolloutEngine, SharedPrefixRollout
from mmdpad.utils import read_jsonl


def evaluate(config, name, **changes):
    """The metrics of a test, and its rows."""
    config = copy.deepcopy(config)
    config.merge_from_dict({'work_dir': config.work_dir + name, **changes})
    config.experiment_name += name
    runner = Runner.from_cfg(config)
    metrics = runner.test()
    return metrics, list(read_jsonl(str(Path(runner.log_dir, 'reasonseg.jsonl'))))


@pytest.mark.parametrize('temperature', mostly_slow([0.0, 1.0], fast=[1.0]))
def test_results_do_not_depend_on_the_batch_size(tiny_config, temperature):
    """Greedy responses depend on the batch by rounding only; sampled ones were once drawn by
    their place in the batch."""
    results = {size: evaluate(tiny_config, f'_{size}', **{
        'test_dataloader.batch_size': size, 'model.test_cfg.temperature': temperature})
        for size in (1, 3, 6)}
    metrics, rows = results[1]
    assert [row['index'] for row in rows] == list(range(6))
    assert [row['id'] for row in rows] == [f'test_{i:05}' for i in range(6)]
    assert len({row['response'] for row in rows}) > 1
    for size in (3, 6):
        other_metrics, other_rows = results[size]
        assert other_rows == rows
        # The discriminator sees batches, too: floats of its own.
        assert other_metrics == pytest.approx(metrics, rel=1e-5)


def test_questions_of_the_next_batches_are_asked_before_a_batch_is_complete(tiny_config):
    """Hooks hear of them first; all else comes batch by batch, in order."""
    events = []

    class Listener(Hook):

        def before_answering(self, runner, batch_idx, data_batch):
            events.append(('asked', batch_idx))

        def before_test_iter(self, runner, batch_idx, data_batch=None):
            assert all('sampled_response' in sample for sample in data_batch['data_samples'])

        def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            events.append(('done', batch_idx))
            assert not any('sampled_response' in sample for sample in outputs)
            assert all(sample.reasoning['seconds']['answer'] > 0 for sample in outputs)

    tiny_config.test_dataloader.batch_size = 2
    runner = Runner.from_cfg(tiny_config)
    runner.register_hook(Listener())
    loader = runner.test_loop.dataloader
    runner.test()
    assert [number for name, number in events if name == 'asked'] == [0, 1, 2]
    assert [number for name, number in events if name == 'done'] == [0, 1, 2]
    assert events.index(('asked', 1)) < events.index(('done', 0))
    assert runner.test_loop.dataloader is loader


def test_batches_are_sorted_by_length_and_rows_are_not(tiny_config):
    runner = Runner.from_cfg(tiny_config)
    loader = runner.build_test_loop(runner._test_loop).dataloader
    lengths = [len(sample.question) for batch in loader for sample in batch['data_samples']]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) > 1


def test_an_engine_that_samples_elsewhere_gets_the_weights_once_and_none_are_gathered(
        tiny_config, monkeypatch):
    """At the start, since a process may have all its answers from an earlier test."""
    events = []
    sample = SharedPrefixRollout.sample

    def recording(engine, *given):
        events.append(engine.holds_weights)
        return sample(engine, *given)

    for name in ('copies_weights', 'samples_elsewhere'):
        monkeypatch.setattr(SharedPrefixRollout, name, True)
    monkeypatch.setattr(SharedPrefixRollout, 'hand_over', lambda *_: events.append('handed over'))
    monkeypatch.setattr(SharedPrefixRollout, 'sample', recording)
    monkeypatch.setattr(SharedPrefixRollout, 'sample_stream', RolloutEngine.sample_stream)
    for module in (evaluation_loops, pending_rollouts):
        monkeypatch.setattr(module, 'gathered', None)
    tiny_config.merge_from_dict({'train_cfg.max_iters': 1, 'test_dataloader.batch_size': 3})
    runner = Runner.from_cfg(tiny_config)
    runner.train()
    assert events == [False]
    runner.test()
    assert events == [False, 'handed over', True, True]
    assert not runner.model.rollout_engine.holds_weights

    def gathering(policy):
        events.append('gathered')
        return nullcontext()

    # Except for scores from the policy's log-probabilities, which are computed here.
    monkeypatch.setattr(evaluation_loops, 'gathered', gathering)
    runner.model.box_scorer = LikelihoodScorer()
    runner.test()
    assert events[4:] == ['handed over', 'gathered', True, True]
