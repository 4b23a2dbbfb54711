# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""VLLMServerRollout with two servers of vLLM itself, on the CPU, in an environment that
`python3 tools/set_up/vllm_environment.py` makes. The order of the tests counts: one ends a
server."""
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import torch
from mmengine.runner import Runner
from test_real_vllm import MAX_LENGTH, Case, environment_python

from mmdpad.models import SharedPrefixRollout, VLLMServerRollout
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.models.rollouts import vllm_server_rollout
from mmdpad.models.rollouts.vllm_client import ServerError
from mmdpad.toy import POLICY_WEIGHTS

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    find_spec('vllm') is not None, reason='runs in an environment without vLLM')]


class Started:
    """A server by `mmdpad serve-rollouts`."""

    def __init__(self, python: str, folder: Path, number: int) -> None:
        with socket.create_server(('127.0.0.1', 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f'http://127.0.0.1:{self.port}'
        self.log = folder / f'server_{number}.log'
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
        with open(self.log, 'w') as file:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'mmdpad', 'serve-rollouts', 'tiny_shapes', '--python',
                 python, '--port', str(self.port), '--cfg-options',
                 'model.rollout_engine.dtype=float32',
                 f'model.conversation=dict(max_turns=3,max_tokens={MAX_LENGTH})'],
                cwd=folder, env={**os.environ, 'PYTHONPATH': path}, stdout=file,
                stderr=subprocess.STDOUT)

    def wait(self):
        end = time.monotonic() + 300
        while 'The server is up' not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.5)

    def family(self):
        return [*psutil.Process(self.process.pid).children(recursive=True)]

    def kill(self):
        for process in self.family() if self.process.poll() is None else ():
            process.kill()
        self.process.wait()


@pytest.fixture(scope='module')
def servers(tmp_path_factory):
    if (python := environment_python()) is None:
        pytest.skip('no environment with vLLM; make it: `python3 tools/set_up/vllm_environment.py`')
    started = [Started(python, tmp_path_factory.mktemp('servers'), n) for n in range(2)]
    try:
        for server in started:
            server.wait()
        yield started
    finally:
        for server in started:
            server.kill()


def make_engine(servers, **options):
    return VLLMServerRollout([server.url for server in servers],
                             **{'dtype': 'float32', 'timeout': 60, **options})


@pytest.fixture
def case(servers):
    case = Case(POLICY_WEIGHTS, engine=make_engine(servers))
    case.engine.check_policy(case.head)
    return case


def test_answers_are_those_of_the_present_weights(case, monkeypatch):
    case.check()
    for step in range(5):
        case.update(step)
        case.check()
    case.update(9, 0.05, below='visual')
    with monkeypatch.context() as patch, pytest.raises(AssertionError):
        patch.setattr(vllm_server_rollout, 'weights_version', lambda model: case.engine.version)
        case.check()  # without a hand-over
    case.check()
    assert not case.engine.lost


def test_conversations_with_several_images(case, monkeypatch):
    talks = case.check_conversations(monkeypatch)
    assert any(talk.replies for talk in talks) and not case.engine.lost


def test_a_server_started_otherwise_is_refused(case, servers):
    with pytest.raises(ServerError, match="`dtype` = 'bfloat16', but has 'float32'") as found:
        make_engine(servers, dtype='bfloat16').check_policy(case.head)
    assert all(server.url in str(found.value) for server in servers)


def test_logits_that_are_not_finite_are_found(case):
    with torch.no_grad():
        case.head.model.model.language_model.norm.weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError):
        case.engine(case.head, case.prompts, temperature=0, max_new_tokens=4)
    assert not case.engine.lost


def test_a_server_killed_amid_its_requests_is_left_to_the_other(case, servers):
    prompts, greedy = case.prompts * 8, dict(temperature=0, max_new_tokens=48)
    expected = SharedPrefixRollout()(case.head, prompts, **greedy)
    case.engine(case.head, prompts[:3], **greedy)
    pending = case.engine.submit(case.head, prompts, **greedy)
    servers[0].kill()
    assert pending.result().ids.equal(expected.ids)
    assert case.engine.lost.keys() == {servers[0].url}
    case.update(1)
    case.check()


def test_a_training_logs_no_mismatch(servers, tiny_config):
    tiny_config.model.rollout_engine = dict(
        type='VLLMServerRollout', dtype='float32', urls=[servers[1].url])
    tiny_config.model.loss.importance_cap = 2.0
    tiny_config.train_cfg.max_iters = 3
    runner = Runner.from_cfg(tiny_config)
    runner.train()
    log = runner.message_hub
    kl = log.get_scalar('train/mismatch/kl').data[0]
    assert len(kl) == 3 and all(0 <= value < 1e-6 for value in kl)
    assert log.get_scalar('train/grad_norm').data[0].max() > 0
    assert 0 < runner.test()['reasonseg/giou'] <= 100


def test_ctrl_c_ends_a_server(servers):
    family = servers[1].family()
    assert len(family) > 1
    servers[1].process.send_signal(signal.SIGINT)
    assert servers[1].process.wait(60) in (0, 130)
    _, alive = psutil.wait_procs(family, 20)
    assert not alive
