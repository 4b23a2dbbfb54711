# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Each benchmark at a size that takes seconds: its fields, and what does not depend on time."""
import importlib
import json
import multiprocessing
import os
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmdpad.toy import CLIP_WEIGHTS


@pytest.fixture
def run(run_here):
    """name, options -> the result that the benchmark prints."""
    def run(name, *options):
        torch.set_num_threads(2)  # it takes as many as its options say
        return json.loads(run_here(f'tools/benchmarks/{name}.py', *options).stdout)
    return run


@pytest.fixture
def in_threads(monkeypatch):
    """Sides run in threads, without the seconds that a process spends on imports. Only one of them
    runs at a time, since they share registries and generators."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / 'tools' / 'benchmarks')
    builds = importlib.import_module('builds')

    class Side(threading.Thread):
        def __init__(self, target, args, daemon):
            super().__init__(daemon=daemon)
            pipe, _, self.side, *self.args = args
            self.pipe = Connection(os.dup(pipe.fileno()))
            self.waits = threading.Event()

        def start(self):
            super().start()
            while self.is_alive() and not self.waits.wait(0.05):
                pass

        def run(self):
            with self.pipe:  # a side that fails ends the test, as a process would
                turns = builds.Turns(SimpleNamespace(send=self.pipe.send, recv=self.recv))
                self.pipe.send(self.side(turns, *self.args))

        def recv(self):
            self.waits.set()
            return self.pipe.recv()

    monkeypatch.setattr(multiprocessing, 'get_context', lambda _: SimpleNamespace(
        Pipe=multiprocessing.Pipe, Process=Side))


def test_clip_reward(run):
    result = run('clip_reward', '--model', CLIP_WEIGHTS, '--prompts', 2, '--group', 2,
                 '--size', 64, '--words', 2, 5, '--repeats', 2)
    assert result['setting']['size'] == 64 and result['environment']['threads'] == 1
    assert result['difference']['cosine'] < 1e-5 < result['difference']['std_of_margins']
    for name in ('cold', 'warm', 'reference', 'reference_unpadded'):
        assert len(result['seconds'][name]) == 2


def test_update_step_compares_equal_losses(run, in_threads):
    result = run('update_step', '--side', 112, '--group-size', 3, '--lengths', 4, 9,
                 '--hidden-size', 192, '--layers', 1, '--repeats', 1, '--memory-budget', 0.001,
                 '--sides', 'mmdpad', 'mmdpad, memory budget', 'naive', 'naive, one by one')
    ours, *others = result['loss'].values()
    assert len(others) == 3 and all(abs(loss - ours) < 1e-5 for loss in others)
    others = {'mmdpad, memory budget', 'naive', 'naive, one by one'}
    assert result['ratio'].keys() == result['memory_ratio'].keys() == others
    assert result['naive_ratio'].keys() == {'mmdpad', *others} - {'naive'}
    assert result['memory_mb'].keys() == {'mmdpad', *others}


def test_conversations_start_again_in_their_second_turn(run):
    result = run('conversations', '--side', 112, '--crop', 56, '--group-size', 2, '--tokens', 4,
                 '--hidden-size', 192, '--layers', 1, '--repeats', 2)
    tokens = result['tokens']
    assert tokens['second_prompt'] == tokens['prompt'] + 4 + tokens['reply']
    assert result['share'].keys() == {'prefill', 'shared', 'saved'}
    assert all(len(values) == 2 for values in result['seconds'].values())


def test_rollout_does_equal_work(run, in_threads):
    result = run('rollout', '--side', 112, '--group-size', 3, '--tokens', 3, '--repeats', 1)
    assert result['response_tokens'] == dict.fromkeys(
        ('mmdpad', 'generate', 'generate_replicated'), [9])
    assert result['ratio'].keys() == {'generate', 'generate_replicated'}


def test_toy_rollouts_are_equal_and_see_other_prompts_each_time(run, in_threads):
    result = run('rollout', '--policy', 'toy', '--prompts', 2, '--group-size', 2, '--tokens', 9,
                 '--repeats', 2, '--warm-up', 1, '--before', '.')
    assert result['equal_responses'] == dict(mmdpad=1.0, before=1.0, generate=1.0)
    assert result['ratio'].keys() == {'before', 'generate'}
    assert len(result['seconds']['before']) == len(result['response_tokens']['before']) == 2


def test_whole_step_without_the_peer(run, in_threads):
    result = run('whole_step_trl', '--policy', 'toy', '--prompts', 1, '--group-size', 2,
                 '--tokens', 20, '--repeats', 1, '--warm-up', 1, '--peers')
    steps = result['per_step']['mmdpad']
    assert result['median'].keys() == {'mmdpad'} and len(steps['prompt_tokens']) == 2
    taken = result['seconds_per_step']['mmdpad'] / steps['response_tokens'][-1]
    assert result['seconds']['mmdpad'] == [pytest.approx(1000 * taken, rel=1e-3)]


def test_vision_tower_counts_operations(run, in_threads):
    result = run('vision_tower', '--before', '.', '--side', 140, '--repeats', 1)
    calls = {case: about['attention_calls'] for case, about in result['cases'].items()}
    # 5 x 5 image tokens in windows of 4 x 4: three lengths in 7 of the 8 layers.
    assert calls == {'features': dict(mmdpad=22, before=22),
                     'features and gradients': dict(mmdpad=44, before=44)}


@pytest.mark.slow
def test_speculation(run):
    result = run('speculation', '--repeats', 1, '--rollouts', 1, '--groups', 1, '--questions', 3)
    for what in ('train', 'evaluate'):
        about = result[what]
        assert set(about['same_tokens'].values()) == {True}
        assert about['passes']['plain'] == 1 > about['passes']['as on a GPU']
        assert about['seconds']['ratio'].keys() == {'plain', 'as on a GPU'}


def test_box_scores(run):
    result = run('box_scores', '--images', 2, '--batch-size', 2, '--repeats', 1)
    assert result['questions'] == 2 and result['ratio'].keys() == {
        'LikelihoodScorer', 'DiscriminationScorer', 'CombinedScorer'}


def test_low_precision(run):
    rates = run('low_precision', '--rates', 1e-6, '--steps', 2, '--ways', 'bfloat16',
                'bfloat16, stochastic rounding')['weights']
    ways = rates['1e-06']
    assert ways.keys() == {'float32', 'bfloat16', 'bfloat16, stochastic rounding'}
    moved = {way: about['2 steps']['moved'] for way, about in ways.items()}
    assert moved['bfloat16'] < 0.01 < moved['bfloat16, stochastic rounding'] < 0.1
    assert moved['float32'] > 0.99
    arrived = {way: about['2 steps']['arrived'] for way, about in ways.items()}
    assert arrived['bfloat16'] < 0.01 and arrived['bfloat16, stochastic rounding'] > 0.9


@pytest.mark.slow
def test_start_up(run):
    result = run('start_up', '--before', '.', '--cases', 'import mmdpad.apis', '--repeats', 1)
    about = result['cases']['import mmdpad.apis']
    assert result['cases'].keys() == {'import mmdpad.apis'}
    assert about['seconds'].keys() == {'mmdpad', 'before'} and about['ratio']['before'] > 0


@pytest.mark.slow
def test_busy_machine(run):
    result = run('busy_machine', '--loads', 0, 1, '--iterations', 1, '--repeats', 1, '--sides',
                 'mmdpad', '--side', 'one thread, no hook', 'OMP_NUM_THREADS=1',
                 'default_hooks.threads=None')
    assert result['ratio_to_idle'].keys() == {'mmdpad', 'one thread, no hook'}
    for seconds in result['seconds'].values():
        assert {load: len(times) for load, times in seconds.items()} == {'0': 1, '1': 1}


@pytest.mark.slow
def test_staleness(run):
    result = run('staleness', '--rollout', 0.4, '--update', 0.4, '--iterations', 2, '--repeats', 1,
                 '--max-staleness', 0, 1)
    assert result['seconds'].keys() == {'0', '1'} and len(result['seconds']['1']) == 2
    assert result['median']['0'] > 0.8 and result['median']['1'] > 0.4
    assert result['ratio_to_least_staleness']['1'] < 1.0


@pytest.mark.slow
def test_decode_operations(run):
    """Fused layers and adapters against the model's own, of which the attention is the same."""
    result = run('decode_operations', '--layers', 12)
    for name, bound in (('plain', 0.45), ('lora', 0.3)):
        counts = result['fused'][name]['gpu']
        assert 12 * 15 < counts['launches'] < counts['operations']
        for kind in counts:
            assert result['ratio'][name]['gpu'][kind] < bound + 0.1 * (kind == 'launches')
    assert result['model']['plain']['gpu']['operations'] > 12 * 90


def test_gpu_decode_reports_a_part_without_time(run):
    result = run('gpu_decode', '--device', 'cpu', '--minutes', 0, '--parts', 'tests', 'toy')
    assert {part['error'] for part in result.values()} == {'not finished after 0 s'}


@pytest.mark.slow
def test_gpu_decode_without_a_gpu(run):
    result = run('gpu_decode', '--device', 'cpu', '--minutes', 3, '--parts', 'toy')
    assert len({result['toy']['result'][name]['tokens'] for name in (
        'mmdpad', 'no_guesses', 'no_graphs', 'generate')}) == 1
