# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Each benchmark at a size that takes seconds: its fields, and what does not hang on time."""
import json
import subprocess
import sys
from pathlib import Path

from mmdpad.testing import CLIP_WEIGHTS

ROOT = Path(__file__).parents[2]


def run(name, *options):
    result = subprocess.run([sys.executable, f'tools/benchmarks/{name}.py', *map(str, options)],
                            cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


def test_clip_reward():
    result = run('clip_reward', '--model', CLIP_WEIGHTS, '--prompts', 2, '--group', 2,
                 '--size', 64, '--words', 2, 5, '--repeats', 2)
    assert result['setting']['size'] == 64 and result['environment']['threads'] == 1
    assert result['difference']['cosine'] < 1e-5 < result['difference']['std_of_margins']
    for name in ('cold', 'warm', 'reference', 'reference_unpadded'):
        assert len(result['seconds'][name]) == 2


def test_update_step_compares_equal_losses():
    result = run('update_step', '--side', 112, '--group-size', 3, '--lengths', 4, 9,
                 '--hidden-size', 192, '--layers', 1, '--repeats', 1, '--sides', 'mmdpad', 'naive',
                 'naive, one by one')
    ours, *others = result['loss'].values()
    assert len(others) == 2 and all(abs(loss - ours) < 1e-5 for loss in others)
    assert result['ratio'].keys() == result['memory_ratio'].keys() == {'naive', 'naive, one by one'}


def test_rollout_does_equal_work():
    result = run('rollout', '--side', 112, '--tokens', 3, '--repeats', 1)
    assert set(result['response_tokens'].values()) == {24}
    assert result['ratio'].keys() == {'generate', 'generate_replicated'}
