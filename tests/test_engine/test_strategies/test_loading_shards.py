# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Each process reads its shards only, and gets the weights of the plain load."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from launching import ROOT, environment
from safetensors.torch import load_file, save_file

from mmdpad.toy.policy_folder import make_policy_folder


def make_folder(folder, family, dtype=torch.bfloat16):
    """A policy in several files, under the published names."""
    make_policy_folder(folder, family)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    Path(folder, 'model.safetensors').unlink()
    model.save_pretrained(folder, max_shard_size='50KB')
    assert len(list(Path(folder).glob('*.safetensors'))) > 3
    return str(folder)


def compare(processes, variants, work_dir, *folders):
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node',
         str(processes), str(Path(__file__).with_name('loading_shards.py')), variants,
         str(work_dir), *folders], cwd=ROOT, env=environment(), capture_output=True, text=True,
        timeout=300)
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stdout.count('same ') == len(folders)


@pytest.mark.slow
def test_two_processes_have_the_weights_of_the_plain_load(tmp_path):
    """Bit by bit; old names, tied weights, a reference with a frozen vision tower; an adapter."""
    compare(2, 'few', tmp_path, make_folder(tmp_path / 'policy', 'qwen2_vl'))


@pytest.mark.slow
@pytest.mark.parametrize('processes', [2, 4])
def test_all_families_and_dtypes(tmp_path, processes):
    folders = [make_folder(tmp_path / family, family)
               for family in ('qwen2_vl', 'qwen2_5_vl', 'qwen3_vl')]
    mixed = make_folder(tmp_path / 'mixed', 'qwen3_vl')
    path = sorted(Path(mixed).glob('*.safetensors'))[0]
    save_file({name: value.float() for name, value in load_file(path).items()}, path,
              metadata=dict(format='pt'))
    compare(processes, 'all', tmp_path, *folders, mixed)


@pytest.mark.slow
def test_the_memory_of_four_processes():
    """One model in float32 for the policy, and one for the reference."""
    done = subprocess.run(
        [sys.executable, 'tools/benchmarks/load_memory.py', '--ways', 'shards', '--hidden-size',
         '960', '--layers', '6'], cwd=ROOT, env=environment(), capture_output=True, text=True,
        timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    cases = json.loads(done.stdout)['cases']
    for name, models in (('policy', 1), ('reference', 2)):
        assert models - 0.05 < cases[name]['shards']['ratio']['anonymous'] < models + 0.4
