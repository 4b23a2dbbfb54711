# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""mmdpad asks nobody but this machine, unless a config names a model of a hub."""
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mmdpad.models import HFSAMDecoder, VLMReasoningHead
from mmdpad.models.discriminators.open_clip_loading import load_open_clip
from mmdpad.models.sources import is_hub_name
from mmdpad.toy import POLICY_WEIGHTS

ROOT = Path(__file__).parents[1]
# Counts every look at a network, loopback included.
EVERYTHING = '''
import importlib, json, pkgutil, sys
seen = []
sys.addaudithook(lambda event, arguments: event.startswith(
    ('socket.connect', 'socket.get', 'socket.send', 'socket.bind')) and seen.append(event))
import mmdpad
names = [module.name for module in pkgutil.walk_packages(mmdpad.__path__, 'mmdpad.')
         if not module.name.endswith('__main__')
         and '.vllm_worker.' not in module.name]  # imported by vLLM
for name in names:
    importlib.import_module(name)
from mmdpad.apis import ReasonSegInferencer
answer, = ReasonSegInferencer('tiny_shapes')(sys.argv[1], 'the object nearest to the right')
print(json.dumps([len(names), answer['failure'], seen]))
'''


@pytest.mark.promise('Supply chain', 'Import and use without a network',
                     'nothing is looked up or connected to')
def test_imports_and_the_toy_touch_no_network(shapes_data, tried):
    environ = {name: value for name, value in os.environ.items() if 'OFFLINE' not in name}
    image = shapes_data / 'test/test_00003.jpg'
    told = subprocess.run([sys.executable, '-c', EVERYTHING, str(image)], cwd=ROOT, env=environ,
                          capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    count, failure, seen = json.loads(told.stdout.splitlines()[-1])
    assert (failure, seen) == (None, []) and count > 150
    tried(f'{count} modules imported, an answer of the toy model: no socket used')


@pytest.mark.promise('Supply chain', 'A test tries to use the network',
                     'the connection is refused, also in processes that the test starts, and the '
                     'test fails')
def test_the_suite_refuses_to_leave_this_machine(stay_here, tried):
    tries = ("socket.create_connection(('192.0.2.1', 443), 1)",
             "socket.getaddrinfo('a.invalid', 443)",
             "socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 53))")
    for text in tries:
        with pytest.raises(RuntimeError, match='do not leave this machine'):
            exec(text, dict(socket=socket))
        told = subprocess.run([sys.executable, '-c', f'import socket; {text}'], text=True,
                              capture_output=True)
        assert told.returncode == 1 and 'do not leave this machine' in told.stderr
    assert len(stay_here) == len(tries)
    stay_here.clear()
    with socket.create_server(('127.0.0.1', 0)) as server:
        socket.create_connection(('localhost', server.getsockname()[1])).close()
    tried(f'{len(tries)} ways out, here and in a child: each refused; loopback open')


OF_THE_HUB = {kind.__name__: kind for kind in (VLMReasoningHead, *HFSAMDecoder.__subclasses__())}


@pytest.mark.promise('Supply chain', 'A hub name in a config, and HF_HUB_OFFLINE=1',
                     'an immediate error that names it and the fix; no connection is tried')
@pytest.mark.parametrize('kind', OF_THE_HUB)
def test_offline_a_hub_name_is_a_clear_error(kind, tmp_path, monkeypatch, tried):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        OF_THE_HUB[kind]('some-lab/a-model')
    for part in ('.pretrained` should be a folder in Hugging Face format', "'some-lab/a-model'",
                 'HF_HUB_OFFLINE is set', '`hf download some-lab/a-model`'):
        assert part in str(caught.value)
    tried(kind)


@pytest.mark.promise('Supply chain', 'A hub name in a config, and HF_HUB_OFFLINE=1',
                     'an immediate error that names it and the fix; no connection is tried')
@pytest.mark.parametrize('name, tag', [
    ('ViT-B-32', 'openai'), ('hf-hub:some-lab/a-model', None), ('ViT-B-16-SigLIP2', 'webli')])
def test_offline_a_clip_of_the_hub_is_a_clear_error(name, tag, tried):
    with pytest.raises(RuntimeError, match=f'{name}.* cannot be loaded.*local-dir:PATH'):
        load_open_clip(name, tag)
    tried(f'CLIP {name}')


@pytest.mark.promise('Supply chain', 'A path in a config that does not exist',
                     'it is an error, and never looked up on the hub')
def test_a_path_is_no_hub_name(tmp_path, monkeypatch, tried):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'runs').mkdir()
    monkeypatch.setattr('mmdpad.models.sources.hf_hub_download', lambda *_: pytest.fail('asked'))
    paths = ('work_dirs/mine', 'checkpoints/Qwen2.5-VL-7B-Instruct', 'work_dirs/mine/export',
             'runs/exprot', 'export', './export', '~/export', '/export', '../a/b', 'a b/c', '')
    for path in paths:
        for build in OF_THE_HUB.values():
            with pytest.raises(FileNotFoundError, match='does not exist|has no config.json'):
                build(path)
    with pytest.raises(FileNotFoundError, match='or an existing weights file, but got .runs/a.pt'):
        load_open_clip('ViT-B-32', 'runs/a.pt')
    with pytest.raises(ValueError, match='should be a name in open_clip.*but got .runs-a'):
        load_open_clip('runs/a', None)
    assert is_hub_name('Qwen/Qwen2.5-VL-7B-Instruct') and is_hub_name('run/exprot')
    tried(f'{len(paths)} paths, for the policy and three decoders; CLIP')


@pytest.mark.promise('Supply chain', 'A folder with the name of a model on the hub',
                     'the folder is used')
def test_a_folder_goes_before_a_hub_name(tmp_path, monkeypatch, tried):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'Qwen').mkdir()
    (tmp_path / 'Qwen/Qwen2.5-VL-3B-Instruct').symlink_to(POLICY_WEIGHTS)
    assert VLMReasoningHead('Qwen/Qwen2.5-VL-3B-Instruct').family.name == 'Qwen2.5-VL'
    tried('the toy model as Qwen/Qwen2.5-VL-3B-Instruct')
