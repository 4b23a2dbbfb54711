# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""With sharded weights; the rest is tested with the engine that takes them, VLLMRollout."""
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mmdpad.models import VLMReasoningHead
from mmdpad.models.heads.named_weights import named_weights, weights_version


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group('gloo', store=dist.FileStore(str(tmp_path / 'store'), 1), rank=0,
                            world_size=1)
    yield init_device_mesh('cpu', (1, ))
    dist.destroy_process_group()


@pytest.mark.parametrize('lora', [None, dict(r=4)])
def test_sharded_weights_are_put_together(policy_config, one_process, lora):
    if lora:
        pytest.importorskip('peft')
    model = VLMReasoningHead(**policy_config, lora=lora).model
    whole = {name: value.clone() for name, value in named_weights(model)}
    fully_shard(model, mesh=one_process)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    found = dict(named_weights(model))
    assert found.keys() == whole.keys()
    assert all(type(found[name]) is not DTensor and found[name].equal(whole[name])
               for name in whole)
    before = weights_version(model)
    next(model.parameters()).to_local().detach()[0] += 1e-3
    assert weights_version(model) != before


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32, torch.float64])
def test_every_change_gives_another_version(dtype):
    """Also one that only moves numbers, in a matrix, a bias, a single number or a stack of
    matrices; the same numbers give the same version."""
    def moved(index, order):
        copy = [value.clone() for value in values]
        copy[index] = order(copy[index])
        return weights_version(torch.nn.ParameterList(copy))

    values = [torch.randn(shape).to(dtype) for shape in ((3, 4), (4, ), (), (2, 3, 4), (0, 4))]
    before = moved(0, lambda value: value)
    changed = [
        moved(0, lambda rows: rows[[1, 0, 2]]), moved(0, lambda rows: rows[:, [0, 3, 2, 1]]),
        moved(0, lambda rows: rows.flip(0, 1)), moved(1, lambda bias: bias[[0, 2, 1, 3]]),
        moved(2, torch.neg), moved(3, lambda stack: stack.flip(0)),
        moved(3, lambda stack: stack.flip(1)), moved(3, lambda stack: stack.flip(2))]
    assert len({before, *changed}) == 1 + len(changed)
    assert moved(4, lambda value: value) == before


def test_quantized_weights_are_refused(policy_config):
    pytest.importorskip('bitsandbytes')
    pytest.importorskip('peft')
    model = VLMReasoningHead(**policy_config, lora=dict(r=4),
                             quantization=dict(load_in_4bit=True, bnb_4bit_quant_type='nf4')).model
    with pytest.raises(ValueError, match='should not be quantized'):
        next(named_weights(model))
