# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Each benchmark at a size that takes seconds: its fields, and what does not depend on time."""
import json
import subprocess

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


def test_clip_reward(run):
    result = run('clip_reward', '--model', CLIP_WEIGHTS, '--prompts', 2, '--group', 2,
                 '--size', 64, '--words', 2, 5, '--repeats', 2)
    assert result['setting']['size'] == 64 and result['environment']['threads'] == 1
    assert result['difference']['cosine'] < 1e-5 < result['difference']['std_of_margins']
    for name in ('cold', 'warm', 'reference', 'reference_unpadded'):
        assert len(result['seconds'][name]) == 2


def test_update_step_compares_equal_losses(run, monkeypatch):
    """Of the processes that measure memory, most of whose time goes into imports, one stands for
    the others."""
    start, first = subprocess.run, []

    def start_one(*args, **kwargs):
        first.append(first[0] if first else start(*args, **kwargs))
        return first[0]

    monkeypatch.setattr(subprocess, 'run', start_one)
    result = run('update_step', '--side', 112, '--group-size', 3, '--lengths', 4, 9,
                 '--hidden-size', 192, '--layers', 1, '--repeats', 1, '--sides', 'mmdpad', 'naive',
                 'naive, one by one')
    ours, *others = result['loss'].values()
    assert len(others) == 2 and all(abs(loss - ours) < 1e-5 for loss in others)
    assert result['ratio'].keys() == result['memory_ratio'].keys() == {'naive', 'naive, one by one'}
    assert len(first) == 3 and result['memory_mb']['mmdpad']['update'] > 0


def test_rollout_does_equal_work(run):
    result = run('rollout', '--side', 112, '--group-size', 3, '--tokens', 3, '--repeats', 1)
    assert set(result['response_tokens'].values()) == {9}
    assert result['ratio'].keys() == {'generate', 'generate_replicated'}


def test_speculation(run):
    result = run('speculation', '--repeats', 1, '--rollouts', 1, '--groups', 1, '--questions', 3)
    for what in ('train', 'evaluate'):
        about = result[what]
        assert set(about['same_tokens'].values()) == {True}
        assert about['passes']['plain'] == 1 > about['passes']['as on a GPU']
        assert about['seconds']['ratio'].keys() == {'plain', 'as on a GPU'}


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
