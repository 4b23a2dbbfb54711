# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import importlib
import json
import math
from pathlib import Path

import pytest
import torch

from mmdpad.models.cost import shapes

BENCHMARKS = Path(__file__).parents[2] / 'tools' / 'benchmarks'
SMALL = ['--prompts', '2', '--group-size', '2', '--tokens', '40', '--side', '112', '--repeats', '1']


@pytest.fixture
def gpu_step(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module('gpu_step')


def measure(gpu_step, *options):
    """The result as it is printed, without rounding."""
    return json.loads(json.dumps(gpu_step.measure(gpu_step.parse_args([*SMALL, *options]))))


def check_positive(values):
    assert all(math.isfinite(value) and value > 0 for value in values)


def check_decode(result, *engines):
    assert result['decode']['engines'].keys() == {*engines}
    assert result['decode']['ratio'].keys() == {*engines} - {'generate'}
    check_positive(result['decode']['ratio'].values())
    for engine in result['decode']['engines'].values():
        check_positive(engine[name] for name in (
            'seconds', 'prefill_seconds', 'tokens_per_second', 'share_of_bandwidth'))


def check_training(result):
    check_positive([result['device']['matmul_flops'], result['device']['bandwidth'],
                    result['update']['share_of_peak'], *result['step']['share_of_peak'].values()])
    parts = {'reference', 'update', 'optimizer', 'total'}
    assert result['update']['seconds'].keys() == parts
    assert result['step']['seconds'].keys() == parts | {'rollout'}
    assert result['step']['flops'].keys() == {'rollout', 'reference', 'update'}
    for name in ('update', 'step'):
        seconds = dict(result[name]['seconds'])
        assert 0 < sum(seconds.values()) - seconds['total'] <= seconds['total']
        assert result[name]['memory']['estimate'] > 2 * result['parameters']


@pytest.mark.slow
def test_all_parts_of_all_weights_in_micro_batches(gpu_step):
    result = measure(gpu_step, '--model', 'tiny', '--device', 'cpu', '--micro-batch-tokens', '200')
    check_training(result)
    check_decode(result, 'mmdpad', 'no_guesses', 'each_step', 'no_graphs', 'generate')
    assert not gpu_step.has_failed(result)
    assert result['step']['memory']['measured'] is None
    assert result['prompt_tokens'] == 16 + 153


@pytest.mark.slow
def test_a_published_model_with_tied_embeddings_and_an_adapter(gpu_step, monkeypatch):
    tower = dict(depth=2, hidden_size=64, num_heads=2, intermediate_size=96, patch_size=14,
                 spatial_merge_size=2, window_size=112, fullatt_block_indexes=[1])
    monkeypatch.setitem(shapes.PUBLISHED, 'Qwen2.5-VL-3B',
                        ('qwen2_5_vl', 256, 128, 1, 2, 1, True, tower))
    result = measure(gpu_step, '--model', 'Qwen2.5-VL-3B', '--device', 'cpu', '--lora', '4',
                     '--tokens', '8', '--parts', 'update', 'step')
    check_training(result)
    assert result['settings']['weights'] == 'bfloat16'


def test_a_part_without_enough_memory_leaves_the_others_alone(gpu_step, monkeypatch):
    def fail(*args):
        raise torch.OutOfMemoryError('CUDA out of memory.\nTried to allocate')

    monkeypatch.setattr(gpu_step.Training, 'update', fail)
    result = measure(gpu_step, '--model', 'tiny', '--device', 'cpu', '--parts', 'update', 'decode')
    assert result['update'] == dict(error='out of memory', message='CUDA out of memory.')
    assert result['decode']['ratio']['mmdpad'] > 0 and not gpu_step.has_failed(result)
    result = gpu_step.attempt(lambda: 1 / 0, gpu_step.Device('cpu'))
    assert result['error'] == 'ZeroDivisionError' and gpu_step.has_failed(dict(decode=result))


def test_the_bytes_of_a_token_by_hand(gpu_step, tmp_path):
    args = gpu_step.parse_args([*SMALL, '--model', 'tiny', '--device', 'cpu'])
    shape = gpu_step.write_source(str(tmp_path), 'tiny', args.side)
    limits = dict(matmul_flops=1.0, bandwidth=1.0)
    benchmark = gpu_step.Benchmark(str(tmp_path), shape, args, gpu_step.Device('cpu'), limits)
    # By layer: queries and output 192 x 192, keys and values 192 x 64, three maps of the MLP
    # 192 x 1024; and the output head.
    weights = 2 * (2 * 192**2 + 2 * 192 * 64 + 3 * 192 * 1024) + 192 * 3584
    # Keys and values of two prompts of 169 tokens, and half of four responses of 40.
    cache = 2 * 2 * 64 * (2 * 169 + 4 * 40 // 2)
    assert benchmark._bytes_per_token() == 2 * (weights + cache)


@pytest.mark.slow
def test_the_operations_that_take_longest(gpu_step):
    result = measure(gpu_step, '--model', 'tiny', '--device', 'cpu', '--parts', 'update',
                     '--profile', '3')
    found = result['update']['profile']
    assert len(found) == 3 and all(row['calls'] > 0 for row in found)
    assert found[0]['cpu_ms'] >= found[1]['cpu_ms'] >= found[2]['cpu_ms'] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_on_a_gpu(gpu_step):
    result = measure(gpu_step, '--model', 'tiny', '--device', 'cuda')
    check_training(result)
    check_decode(result, 'mmdpad', 'no_guesses', 'no_graphs', 'generate')
    memory = result['update']['memory']
    assert memory['measured'] > 0 and memory['at_start'] < 2**26
