# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The requests of NCCL's way, with a stand-in of vLLM's side; files are tested with
WeightTransfer."""
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from recording_server import recording_servers, refuses

from mmdpad.models.rollouts import weight_channels, weight_transfer
from mmdpad.models.rollouts.weight_transfer import WeightTransfer, WeightTransferError

WEIGHTS = {'a.weight': torch.ones(2, 3), 'b.weight': torch.ones(4, dtype=torch.bfloat16)}


class TrainerEngine:
    """What vLLM's does, but for the broadcast itself."""

    made = []
    hangs = threading.Event()

    def __init__(self, info, client, source):
        self.info, self.client, self.source = info, client, source
        client.init_weight_transfer_engine(dict(
            master_address=info.master_address, master_port=info.master_port, rank_offset=1,
            world_size=info.world_size))
        self.made.append(self)

    def send_weights(self):
        self.client.start_weight_update()
        meta = self.source.metadata()
        self.client.update_weights(dict(
            names=[one.name for one in meta], shapes=[list(one.shape) for one in meta],
            dtype_names=[str(one.dtype).split('.')[-1] for one in meta]))
        assert [name for name, _ in self.source] == [one.name for one in meta]
        if self.hangs.is_set():
            threading.Event().wait(5)
        self.client.finish_weight_update()


@pytest.fixture
def vllm(monkeypatch):
    """In this environment; and a GPU, as far as it is asked for."""
    parent, engine = ModuleType('weight_transfer'), ModuleType('nccl_engine')
    parent.WeightTransferTrainerFactory = SimpleNamespace(
        trainer_init=lambda info, *, client, source: TrainerEngine(info, client, source))
    parent.ParamMeta = lambda name, dtype, shape: SimpleNamespace(
        name=name, dtype=dtype, shape=shape)
    engine.NCCLTrainerInitInfo = lambda **given: SimpleNamespace(**given)
    top = ModuleType('vllm')
    top.__spec__ = ModuleSpec('vllm', None)
    for name, module in {'vllm': top, 'vllm.distributed': ModuleType('distributed'),
                         'vllm.distributed.weight_transfer': parent,
                         'vllm.distributed.weight_transfer.nccl_engine': engine}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(weight_channels, 'find_vllm', lambda: SimpleNamespace(version='0.30.0'))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 0)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda device: None)
    monkeypatch.setattr(weight_channels.NCCLChannel, 'prepare', lambda self, value: value)
    TrainerEngine.made.clear()
    TrainerEngine.hangs.clear()
    return top


@pytest.fixture
def servers():
    with recording_servers(2) as servers:
        servers[0].size = 2
        for server in servers:
            server.backend = 'mmdpad_nccl'
        yield servers


def bodies(server, path):
    return [body for asked, body in server.asked if asked == path]


def test_all_workers_join_one_group_and_get_each_part(vllm, servers):
    transfer = WeightTransfer('nccl', chunk_bytes=24)
    transfer.check(servers)
    for version in ('v1', 'v2'):
        assert transfer.send(servers, WEIGHTS.items(), version) == {}
    (engine, ) = TrainerEngine.made
    assert (engine.info.rank, engine.info.world_size) == (0, 4)
    assert engine.info.master_address == '127.0.0.1'
    joined = [bodies(server, '/init_weight_transfer_engine') for server in servers]
    assert [one['init_info']['rank_offset'] for (one, ) in joined] == [1, 3]
    assert len({one['init_info']['master_port'] for (one, ) in joined}) == 1
    parts = [dict(names=['a.weight'], dtype_names=['float32'], shapes=[[2, 3]]),
             dict(names=['b.weight'], dtype_names=['bfloat16'], shapes=[[4]])] * 2
    for server in servers:
        assert [one['update_info'] for one in bodies(server, '/update_weights')] == parts
        assert len(bodies(server, '/start_weight_update')) == 2
        assert server.version == 'v2' and server.serves


def test_other_servers_or_one_started_again_make_a_new_group(vllm, servers):
    transfer = WeightTransfer('nccl', address='10.0.0.1')
    transfer.send(servers, WEIGHTS.items(), 'v1')
    transfer.send(servers[1:], WEIGHTS.items(), 'v2')
    servers[1].link = ''
    transfer.send(servers[1:], WEIGHTS.items(), 'v3')
    assert [engine.info.world_size for engine in TrainerEngine.made] == [4, 2, 2]
    assert {engine.info.master_address for engine in TrainerEngine.made} == {'10.0.0.1'}


@pytest.mark.parametrize('fault', ['refuses', 'hangs'])
def test_a_group_that_failed_is_not_used_again(vllm, servers, fault):
    transfer = WeightTransfer('nccl', timeout=0.5)
    if fault == 'hangs':
        TrainerEngine.hangs.set()
        told = r'took more than 0\.5 s; start them and the training again'
    else:
        servers[0].faults['/update_weights'] = refuses('no memory')
        told = 'no memory.*; start them and the training again'
    with pytest.raises(WeightTransferError, match=f'by NCCL, but .*{told}'):
        transfer.send(servers, WEIGHTS.items(), 'v1')
    assert not any(server.serves for server in servers)
    TrainerEngine.hangs.clear()
    servers[0].faults.clear()
    transfer.send(servers, WEIGHTS.items(), 'v2')
    assert len(TrainerEngine.made) == 2 and all(server.serves for server in servers)


def test_what_it_needs_is_checked_at_the_start(vllm, servers, monkeypatch):
    transfer = WeightTransfer('nccl')
    servers[1].vllm = '0.32.0'
    with pytest.raises(WeightTransferError,
                       match=rf"{servers[1].url} .*0\.30\.0.* got 0\.32\.0.*backend='files'"):
        transfer.check(servers)
    monkeypatch.setitem(sys.modules, 'vllm.distributed.weight_transfer.nccl_engine', None)
    with pytest.raises(WeightTransferError, match="vLLM's side of a trainer.*backend='files'"):
        transfer.check(servers[:1])
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(WeightTransferError, match="needs a GPU here.*backend='files'"):
        transfer.check(servers[:1])
    monkeypatch.setattr(weight_transfer, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match="needs vllm .*backend='files'"):
        WeightTransfer('nccl')
