# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import random
import zipfile
from pathlib import Path

import pytest
import torch
from exploits import WRITERS, assert_real, write_checkpoint
from mmengine.runner import CheckpointLoader
from torch import nn
from transformers import dynamic_module_utils

from mmdpad.engine.checkpoints import find_fault
from mmdpad.engine.strategies.fsdp2_strategy import merge_shards, read_weights
from mmdpad.models.weights import (
    first_line,
    load_safe,
    load_strictly,
    read_state_dict,
    remote_code_refused,
)

CODE = pytest.mark.promise(
    'Files', 'A checkpoint that carries code, in every form and for every loader',
    'no code runs; the error names the file, what it asks for and what to do')
DAMAGE = pytest.mark.promise(
    'Files', 'A checkpoint that is damaged or a zip bomb', 'one kind of error, which names it')


@pytest.mark.parametrize('wrapper', [None, 'state_dict', 'model'])
def test_read_and_load(tmp_path, wrapper):
    state = {k: v.half() for k, v in nn.Linear(3, 2).state_dict().items()}
    torch.save({wrapper: state, 'epoch': 3} if wrapper else state, tmp_path / 'a.pth')
    module = nn.Linear(3, 2)
    load_strictly(module, read_state_dict(str(tmp_path / 'a.pth'), 'Do so.'), 'a.pth', 'Do so.')
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, state['weight'].float())


def test_nothing_is_loaded_unless_all_fits():
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_strictly(module, {'0.weight': torch.zeros(2, 2)}, 'a.pth', 'Fetch another.')
    assert str(caught.value) == (
        "The weights in 'a.pth' do not fit the model: 5 missing (0.bias, 1.weight, 1.bias, "
        '2.weight, and 1 more). Fetch another.')
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_a_missing_file_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pth' does not exist. Fetch it."):
        read_state_dict(str(tmp_path / 'none.pth'), 'Fetch it.')


def test_first_line():
    assert first_line(ValueError('one\ntwo')) == 'one'
    assert first_line(EOFError()) == 'EOFError'
    assert first_line(ValueError('x' * 1000)) == 'x' * 300


def raising_fault(path):
    if fault := find_fault(path):
        raise ValueError(fault)


LOADERS = {
    'weights': lambda path: read_state_dict(path, 'Fetch it.'), 'plain': load_safe,
    'mmengine': lambda path: CheckpointLoader.load_checkpoint(path, 'cpu', logger='silent'),
    'resume': raising_fault, 'whole weights': read_weights}


@CODE
@pytest.mark.parametrize('form', WRITERS)
def test_no_checkpoint_runs_code(form, tmp_path, monkeypatch, tried):
    path = write_checkpoint(tmp_path / 'evil.pth', form, tmp_path / 'fired')
    for forced in ('0', '1'):  # many set this for an older mmengine
        monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', forced)
        for load in LOADERS.values():
            with pytest.raises(ValueError, match='evil.pth.*use another file') as caught:
                load(path)
            assert 'which could run code' in str(caught.value) or form == 'pickle 5'
            assert 'weights_only' not in str(caught.value)  # torch's advice
    assert_real(path, tmp_path / 'fired')
    tried(f'{len(WRITERS)} forms, {len(LOADERS)} loaders (mmengine\'s among them), also '
          'where the environment asks torch for less care')


@CODE
def test_no_folder_of_parts_runs_code(tmp_path, tried):
    path = write_checkpoint(tmp_path / 'plain.pth', 'zip', tmp_path / 'fired')
    for read in (merge_shards, read_weights):
        with pytest.raises(ValueError, match='plain.pth.*asks for .*io.open'):
            read(tmp_path)
    assert_real(path, tmp_path / 'fired')
    tried('a folder of parts')


def test_code_of_a_model_is_neither_asked_about_nor_loaded(monkeypatch):
    monkeypatch.setattr('builtins.input', lambda *_: pytest.fail('asked'))
    for call in (lambda: dynamic_module_utils.resolve_trust_remote_code(None, 'a', False, True),
                 lambda: dynamic_module_utils.get_class_in_module('A', 'a.py')):
        with remote_code_refused(), pytest.raises(ValueError, match='which is never run'):
            call()


@DAMAGE
def test_a_compressed_checkpoint_is_not_unpacked(tmp_path, tried):
    torch.save(dict(w=torch.zeros(10**6)), tmp_path / 'a.pth')
    with (zipfile.ZipFile(tmp_path / 'a.pth') as source,
          zipfile.ZipFile(tmp_path / 'b.pth', 'w', zipfile.ZIP_DEFLATED) as packed):
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    assert (tmp_path / 'b.pth').stat().st_size < 10**4
    with pytest.raises(ValueError, match='b.pth.*it is compressed'):
        load_safe(str(tmp_path / 'b.pth'))
    tried('a compressed zip')


@DAMAGE
@pytest.mark.parametrize('form', WRITERS)
def test_damage_anywhere_is_one_kind_of_error(form, tmp_path, tried):
    WRITERS[form](dict(state_dict=dict(w=torch.ones(3)), meta=dict(iter=3)), tmp_path / 'a.pth')
    good, rng = (tmp_path / 'a.pth').read_bytes(), random.Random(0)
    path, count = tmp_path / 'b.pth', 150
    for i in range(count):
        content = bytearray(good)
        if i % 3:
            for _ in range(1 + i % 5):
                content[rng.randrange(len(content))] = rng.randrange(256)
        else:
            del content[rng.randrange(len(content)):]
        path.write_bytes(content)
        try:
            load_safe(str(path))
        except ValueError as error:
            assert 'b.pth' in str(error)
    tried(f'{count} damaged files in each of {len(WRITERS)} forms')


def test_the_config_text_of_an_older_checkpoint_is_left_out(tmp_path):
    torch.save(dict(meta=dict(config='a = 1', iter=3)), tmp_path / 'a.pth')
    assert CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth')) == dict(meta=dict(iter=3))


def test_mmengine_names_a_missing_file():
    with pytest.raises(FileNotFoundError, match="'no/such.pth' does not exist"):
        CheckpointLoader.load_checkpoint('no/such.pth')
    assert Path(CheckpointLoader._get_checkpoint_loader('a.pth').__code__.co_filename).name == (
        'weights.py')
