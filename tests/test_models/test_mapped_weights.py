# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Weights that stay in their files: what a model has before it is sharded."""
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mmdpad.models import mapped_weights
from mmdpad.models.mapped_weights import (
    mapped_names,
    mapped_twins,
    take_mapped,
    weights_left_in_files,
)
from mmdpad.models.segmentors.reference import frozen_copy
from mmdpad.registry import MODELS
from mmdpad.toy.policy_folder import make_policy_folder


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """bfloat16 weights; the output head is the embedding."""
    folder = make_policy_folder(tmp_path_factory.mktemp('policy'), 'qwen2_vl')
    model = transformers.Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype='bfloat16')
    model.save_pretrained(folder)
    return folder


def build(folder, **policy):
    return MODELS.build(dict(type='VLMReasoningHead', pretrained=str(folder), **policy))


def build_mapped(folder, **policy):
    with weights_left_in_files():
        return build(folder, **policy)


def test_weights_of_another_dtype_have_no_values(folder):
    """Only their shapes and the asked dtype; the values are taken in the dtype of the file."""
    plain, head = build(folder), build_mapped(folder)
    for own, wanted in zip(head.parameters(), plain.parameters(), strict=True):
        assert own.shape == wanted.shape and own.dtype == wanted.dtype and own.isnan().all()
        assert own.untyped_storage().nbytes() == own.element_size()
    copy = frozen_copy(head)
    assert len(mapped_names(head)) == len(list(head.named_parameters(remove_duplicate=False)))
    for taken in (take_mapped(head), take_mapped(copy)):
        assert taken.keys() == dict(plain.named_parameters()).keys()
        for name, wanted in plain.named_parameters():
            assert taken[name].dtype == torch.bfloat16 and taken[name].float().equal(wanted)
    assert all(parameter.is_meta for parameter in head.parameters())
    assert head.model.lm_head.weight is head.model.get_input_embeddings().weight
    assert not any(parameter.requires_grad for parameter in copy.parameters())


def test_weights_of_the_dtype_of_the_file_are_mapped_and_shared(folder):
    head = build_mapped(folder, dtype='bfloat16')
    for own, wanted in zip(head.parameters(), build(folder, dtype='bfloat16').parameters(),
                           strict=True):
        assert own.equal(wanted)
    twins = mapped_twins(head)
    assert [twins[id(own)].data_ptr() for own in head.parameters()] == [
        own.data_ptr() for own in head.parameters()]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_experts_that_the_file_holds_transposed_are_mapped_too(dtype, tmp_path):
    """Not copied: their last two dimensions are swapped in memory as they are in the file."""
    folder = make_policy_folder(tmp_path, 'qwen3_vl_moe')
    plain, head = build(folder, dtype=dtype), build_mapped(folder, dtype=dtype)
    taken = take_mapped(head)
    assert taken.keys() == dict(plain.named_parameters()).keys()
    for name, wanted in plain.named_parameters():
        assert taken[name].to(wanted.dtype).equal(wanted)
        assert taken[name].is_contiguous() != ('.experts.' in name)


def test_nothing_is_left_outside_the_block(folder):
    assert not mapped_names(build(folder)) and not mapped_twins(build(folder))


@pytest.mark.parametrize('make, policy, why', [
    (lambda folder: torch.save(load_file(folder / 'model.safetensors'),
                               folder / 'pytorch_model.bin'), {}, 'is not in safetensors format'),
    (None, dict(lora=dict(r=2, use_dora=True)), "set `model.policy.dtype='bfloat16'`")])
def test_what_cannot_be_mapped_is_read_with_a_warning(folder, tmp_path, monkeypatch, make, policy,
                                                      why):
    logged = []
    monkeypatch.setattr(mapped_weights, 'print_log', lambda text, **_: logged.append(text))
    for path in Path(folder).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if make:
        make(tmp_path)
        (tmp_path / 'model.safetensors').unlink()
    torch.manual_seed(0)
    plain = build(tmp_path, **policy)
    torch.manual_seed(0)
    head = build_mapped(tmp_path, **policy)
    (warning, ) = logged
    assert why in warning and 'Each of 1 processes reads all weights' in warning
    assert not mapped_names(head)
    for own, wanted in zip(head.parameters(), plain.parameters(), strict=True):
        assert own.equal(wanted)


def test_weights_that_do_not_fit_are_refused(folder, tmp_path):
    for path in Path(folder).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = load_file(tmp_path / 'model.safetensors')
    state['model.other.weight'] = state.pop('model.norm.weight')
    save_file(state, tmp_path / 'model.safetensors', metadata=dict(format='pt'))
    with pytest.raises(ValueError, match='1 missing .*norm.weight.*; 1 unexpected'):
        build_mapped(tmp_path)


def test_other_files_on_another_machine_are_refused(folder, monkeypatch):
    monkeypatch.setattr(mapped_weights, 'all_gather_object', lambda value: [value, value + 1])
    with pytest.raises(ValueError, match='the same weights on all machines'):
        build_mapped(folder)
