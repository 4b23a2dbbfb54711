# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""With servers that record what they are asked; test_real_weight_transfer.py has vLLM's own."""
import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from recording_server import dies, hangs, recording_servers, refuses

from mmdpad.models.rollouts import weight_channels
from mmdpad.models.rollouts.vllm_client import Server
from mmdpad.models.rollouts.weight_transfer import (
    INCOMPLETE,
    WeightTransfer,
    WeightTransferError,
    server_flags,
)

PHASES = ['pause', 'update_weight_version', 'collective_rpc', 'init_weight_transfer_engine',
          'start_weight_update', 'update_weights', 'finish_weight_update', 'reset_prefix_cache',
          'reset_mm_cache', 'reset_encoder_cache', 'update_weight_version', 'resume']
WEIGHTS = {'layers.0.weight': torch.arange(6.).view(2, 3), 'layers.0.bias': torch.zeros(3),
           'head.weight': torch.ones(4, 4, dtype=torch.bfloat16).t()}


@pytest.fixture
def servers():
    with recording_servers(2) as servers:
        yield servers


@pytest.fixture
def transfer(tmp_path):
    return WeightTransfer(folder=str(tmp_path), timeout=20)


def has_all(server, version):
    return (server.serves and server.version == version and server.weights.keys() == WEIGHTS.keys()
            and all(value.equal(WEIGHTS[name]) for name, value in server.weights.items()))


def test_all_weights_arrive_by_all_phases(servers, transfer, tmp_path):
    assert transfer.send(servers, iter(WEIGHTS.items()), 'v1') == {}
    for server in servers:
        assert server.paths == PHASES
        assert server.asked[1][1] == dict(new_version=INCOMPLETE)
        assert has_all(server, 'v1')
    assert list(tmp_path.iterdir()) == []


def test_weights_go_in_parts_and_no_more_is_held(servers):
    """The sender holds a part and the next weight, besides what the allocator keeps."""
    process, weight, peak = psutil.Process(), 1 << 20, 0
    server = servers[0]

    def measure(body):
        nonlocal peak
        peak = max(peak, process.memory_info().rss)

    def ignore(update_info):
        server.part_bytes.append(os.stat(update_info['path']).st_size)

    def weights():
        for number in range(64):
            measure(None)
            yield f'{number}.weight', torch.full((weight // 4, ), float(number)) * 2

    server.faults['/update_weights'], server.update_weights = measure, ignore
    transfer = WeightTransfer(chunk_bytes=8 * weight)
    transfer.send([server], weights(), 'v0')  # so that allocators have their memory
    before, peak, server.part_bytes = process.memory_info().rss, 0, []
    transfer.send([server], weights(), 'v1')
    assert [round(size / weight) for size in server.part_bytes] == [8] * 8
    assert peak - before < 32 * weight  # of 64
    server.part_bytes.clear()
    WeightTransfer(chunk_bytes=1).send([server], weights(), 'v2')
    assert [round(size / weight) for size in server.part_bytes] == [1] * 64


@pytest.mark.promise('Training', 'An update of the weights on a vLLM server ends half-way',
                     'the server answers nothing until it has complete weights; nothing has to be '
                     'restarted unless it died')
@pytest.mark.parametrize(('path', 'fault', 'told'), [
    *[(path, refuses('no memory'), f'answered POST {path}.* status 500: .*no memory')
      for path in ('/pause', '/start_weight_update', '/update_weights', '/finish_weight_update',
                   '/reset_prefix_cache', '/resume')],
    ('/update_weights', dies, 'does not answer POST /update_weights'),
    ('/update_weights', hangs, r'did not answer POST /update_weights within 0\.5 s')],
    ids=lambda value: value if isinstance(value, str) and value[0] == '/' else '')
def test_a_server_that_fails_serves_nothing_and_the_other_has_the_weights(
        servers, transfer, tmp_path, path, fault, told, monkeypatch, tried):
    good, bad = servers
    transfer.send(servers, WEIGHTS.items(), 'v1')
    bad.faults[path] = fault
    if fault is hangs:
        monkeypatch.setattr(bad, 'post', lambda *given, timeout: Server.post(
            bad, *given, timeout=0.5 if given[0] == path else timeout))
    failed = transfer.send(servers, WEIGHTS.items(), 'v2')
    assert has_all(good, 'v2') and failed.keys() == {bad.url}
    assert re.search(f'{bad.url} {told}', failed[bad.url])
    assert has_all(bad, 'v1') if path == '/pause' else not bad.serves
    assert list(tmp_path.iterdir()) == []
    del bad.faults[path]
    assert transfer.send(servers, WEIGHTS.items(), 'v3') == {}
    assert has_all(good, 'v3') and has_all(bad, 'v3')
    tried('a server that refuses each step, dies or hangs beside one that does not')


def test_without_any_server_left_it_raises(servers, transfer):
    for server in servers:
        server.faults['/update_weights'] = refuses('the weight head.weight is refused')
    with pytest.raises(WeightTransferError, match=r'head.weight is refused[\s\S]*resume the run'
                       ) as caught:
        transfer.send(servers, WEIGHTS.items(), 'v1')
    assert all(server.url in str(caught.value) for server in servers)
    assert not any(server.serves for server in servers)
    with pytest.raises(WeightTransferError, match='`servers` should hold at least one'):
        transfer.send([], WEIGHTS.items(), 'v1')
    with pytest.raises(ValueError, match=f"another name than '{INCOMPLETE}'"):
        transfer.send(servers, WEIGHTS.items(), INCOMPLETE)


@pytest.mark.promise('Training', 'An update of the weights on a vLLM server ends half-way',
                     'the server answers nothing until it has complete weights; nothing has to be '
                     'restarted unless it died')
def test_a_trainer_that_stops_half_way_leaves_nothing_that_serves(servers, transfer, tmp_path,
                                                                  tried):
    def weights():
        yield from list(WEIGHTS.items())[:2]
        raise KeyError('the trainer')

    transfer.send(servers, WEIGHTS.items(), 'v1')
    transfer.chunk_bytes = 1
    with pytest.raises(KeyError, match='the trainer'):
        transfer.send(servers, weights(), 'v2')
    for server in servers:
        assert server.paused and server.active and server.version == INCOMPLETE
    assert list(tmp_path.iterdir()) == []
    assert transfer.send(servers, WEIGHTS.items(), 'v2') == {}
    assert all(has_all(server, 'v2') for server in servers)
    tried('a trainer that stops')


def test_what_a_killed_trainer_left_in_memory_is_removed(servers, tmp_path, monkeypatch):
    monkeypatch.setattr(weight_channels, '_MEMORY', str(tmp_path))
    left = [tmp_path / f'mmdpad-weights-{name}' for name in ('killed', 'begun', 'used')]
    for folder in left:
        folder.mkdir()
    for folder in (left[0], left[2]):
        (folder / 'probe').write_text('token')
    (left[0] / 'part.safetensors').write_bytes(b'...')
    with weight_channels._locked(left[2]) as worked:
        assert worked
        assert WeightTransfer(timeout=20).send(servers, WEIGHTS.items(), 'v1') == {}
    assert sorted(tmp_path.iterdir()) == sorted(left[1:])
    # In a folder of the user's, which other machines may use, nothing is touched.
    WeightTransfer(folder=str(tmp_path), timeout=20).check(servers)
    assert sorted(tmp_path.iterdir()) == sorted(left[1:])


def test_a_full_folder_is_named(servers, transfer, tmp_path, monkeypatch):
    def save(part, path):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(weight_channels, 'save_file', save)
    with pytest.raises(WeightTransferError, match=f'{tmp_path} .*No space left.*chunk_bytes'):
        transfer.send(servers, WEIGHTS.items(), 'v1')
    tmp_path.rmdir()
    for use in (lambda: transfer.send(servers, WEIGHTS.items(), 'v1'),
                lambda: transfer.check(servers)):
        with pytest.raises(WeightTransferError, match=f'{tmp_path} .*No such file'):
            use()


def set_up(**what):
    return lambda server: vars(server).update(what)


def fault(path, what):
    return lambda server: server.faults.update({path: what})


@pytest.mark.parametrize(('change', 'told'), [
    (fault('/collective_rpc', refuses('Not Found', 404)), 'development mode.*DEV_MODE=1'),
    (fault('/collective_rpc', refuses("no attribute 'weight_update_state'")),
     "should know how .*no attribute 'weight_update_state'.*serve-rollouts"),
    (fault('/collective_rpc', dies), 'does not answer POST /collective_rpc'),
    (set_up(backend='mmdpad_nccl'), "backend 'mmdpad_files'.* but got 'mmdpad_nccl'"),
    (set_up(backend=None), "backend 'mmdpad_files'.* but got None"),
    (set_up(config=dict(text_config=dict(hidden_size=64))),
     r'`text_config.hidden_size` is 64 there and 128 here'),
    (set_up(config=dict(model_type='qwen3_vl')), "`model_type` is 'qwen3_vl' there"),
    (fault('/init_weight_transfer_engine', refuses('No such file')),
     'should see the folder .*No such file.*`transfer.folder`')])
def test_servers_that_cannot_take_weights_are_told_apart(servers, transfer, change, told):
    good, bad = servers
    config = dict(good.config, text_config=dict(hidden_size=128, use_cache=False))
    transfer.check(servers, config)
    transfer.check([good])
    change(bad)
    with pytest.raises(WeightTransferError, match=f'{bad.url} .*{told}') as caught:
        transfer.check(servers, config)
    assert good.url not in str(caught.value)
    assert good.serves and good.version == 'default'


def test_a_server_may_have_names_of_its_own_for_parts(servers, transfer):
    """vLLM calls Qwen3.5's vision tower 'qwen3_5', transformers 'qwen3_5_vision'."""
    good, other = servers
    other.config = dict(good.config, vision_config=dict(model_type='qwen3_5', depth=4))
    transfer.check(servers, dict(good.config, vision_config=dict(model_type='qwen3_5_vision',
                                                                depth=4)))


def test_a_server_that_is_not_there(transfer):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        server = Server(f'http://127.0.0.1:{taken.getsockname()[1]}')
        with pytest.raises(WeightTransferError, match=f'{server.url} does not answer'):
            transfer.check([server])


@pytest.mark.parametrize(('given', 'told'), [
    (dict(backend='ipc'), '`transfer.backend` should be one of'),
    (dict(chunk_bytes=0), '`transfer.chunk_bytes` should be positive'),
    (dict(timeout=0), '`transfer.timeout` should be a positive number'),
    (dict(timeout=float('inf')), '`transfer.timeout` should be a positive number'),
    (dict(backend='nccl', folder='.'), "`transfer.folder` is for `transfer.backend='files'`")])
def test_wrong_settings_are_named(given, told):
    with pytest.raises(ValueError, match=told):
        WeightTransfer(**given)


@pytest.mark.slow
def test_two_processes_with_sharded_weights(servers, tmp_path):
    """Both gather, the first one sends; what goes wrong there is raised by both. One of them may
    sample alone, as where the other has its answers from an earlier test."""
    good, bad = servers
    bad.faults['/update_weights'] = refuses('no memory')
    script = Path(__file__).with_name('two_senders.py')
    done = subprocess.run([sys.executable, str(script), str(tmp_path), good.url, bad.url],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = [(tmp_path / f'outcome{rank}.txt').read_text().splitlines() for rank in range(2)]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == '{}' and 'no memory' in outcomes[0][1]
    assert good.serves and good.paths.count('finish_weight_update') == 2
    assert outcomes[0][2] == str((True, good.version))
    whole = torch.load(tmp_path / 'whole.pth')
    assert good.weights.keys() == whole.keys()
    assert all(value.equal(whole[name]) for name, value in good.weights.items())
    assert bad.version == INCOMPLETE


def test_the_flags_of_a_server():
    assert server_flags('nccl') == [
        '--worker-extension-cls', 'mmdpad_weight_updates.WeightUpdates',
        '--weight-transfer-config', '{"backend": "mmdpad_nccl"}']
