# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Loads policies as FSDP2 does, on several gloo processes, and compares them with the plain load.

Started by torchrun with 'few' or 'all' variants, a working directory and folders of policies; the
first process prints 'same' for each."""
import sys

import torch
from torch.distributed.tensor import DTensor

from mmdpad.engine.strategies import FSDP2Strategy
from mmdpad.models.mapped_weights import mapped_names, weights_left_in_files
from mmdpad.registry import MODELS
from mmdpad.toy.seeding import seeded
from mmdpad.utils.processes import join_processes

LORA = dict(r=4, target_modules='language_and_vision')
FEW = [dict(dtype='float32', freeze_vision=True), dict(dtype='float32', lora=LORA)]
ALL = [*FEW, dict(dtype='bfloat16', low_precision_training=True), dict(dtype='float64'),
       dict(dtype='bfloat16', lora=dict(LORA, use_dora=True)),
       dict(dtype='float32', lora=dict(LORA, use_dora=True))]


def build(folder, policy):
    with seeded(1):
        model = MODELS.build(dict(
            type='ReasoningSegmentor', loss=dict(type='GRPOLoss'),
            policy=dict(type='VLMReasoningHead', pretrained=folder, **policy)))
    model.build_reference()
    return model


def parts_of(model):
    """Tensors by name, full; their names; what requires gradients; the model's config."""
    tensors = {name: value.full_tensor() if isinstance(value, DTensor) else value.detach()
               for name, value in (*model.named_parameters(), *model.named_buffers())}
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    return tensors, names, trained, model.policy.model.config.to_dict()


def compare(folder, policy, work_dir):
    plain = build(folder, policy)
    with weights_left_in_files():
        model = build(folder, policy)
    left = mapped_names(model)
    assert bool(left) or 'use_dora' in policy.get('lora', {})
    strategy = FSDP2Strategy(work_dir=work_dir, env_kwargs=dict(launcher='none'))
    strategy.prepare(model, dispatch_kwargs=dict())
    assert not mapped_names(model)
    for parameter in model.parameters():
        own = parameter.to_local()
        assert own.untyped_storage().nbytes() <= own.nbytes + parameter[:1].numel() * own.itemsize
    for given, wanted in zip(parts_of(model)[1:], parts_of(plain)[1:], strict=True):
        assert given == wanted
    given, wanted = parts_of(model)[0], parts_of(plain)[0]
    assert given.keys() == wanted.keys()
    for name, value in given.items():
        assert value.dtype == wanted[name].dtype and value.equal(wanted[name]), name


join_processes('pytorch')
for folder in sys.argv[3:]:
    for policy in dict(few=FEW, all=ALL)[sys.argv[1]]:
        compare(folder, policy, sys.argv[2])
    if torch.distributed.get_rank() == 0:
        print('same', folder, flush=True)
