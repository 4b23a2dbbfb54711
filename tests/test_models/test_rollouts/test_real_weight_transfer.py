# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""WeightTransfer with a server of vLLM itself, on the CPU, in the environment that
`python3 tools/set_up/vllm_environment.py` makes."""
import io
import os
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_real_vllm import ENVIRON, QUESTIONS, environment_python

from mmdpad.models import SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.heads.named_weights import named_weights
from mmdpad.models.rollouts.vllm_client import Server, ServerError
from mmdpad.models.rollouts.weight_transfer import (
    INCOMPLETE,
    WORKER_FOLDER,
    WeightTransfer,
    WeightTransferError,
    server_flags,
)
from mmdpad.toy import POLICY_WEIGHTS
from mmdpad.toy.shapes_world import SHAPES_PROMPT_TEMPLATE

pytestmark = pytest.mark.slow
TOKENS = 24


@pytest.fixture(scope='module')
def process(tmp_path_factory):
    if (python := environment_python()) is None:
        pytest.skip('no environment with vLLM; make it: `python3 tools/set_up/vllm_environment.py`')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    log = tmp_path_factory.mktemp('server') / 'log.txt'
    with log.open('w') as output:
        process = subprocess.Popen(
            [python, '-m', 'vllm.entrypoints.openai.api_server', '--model', str(POLICY_WEIGHTS),
             '--dtype', 'float32', '--enforce-eager', '--max-model-len', '512',
             '--no-enable-chunked-prefill', '--enable-scale-out', '--host', '127.0.0.1',
             '--port', port, *server_flags()], stdout=output, stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRON, 'VLLM_SERVER_DEV_MODE': '1',
                 'VLLM_CPU_KVCACHE_SPACE': '1', 'PYTHONPATH': str(WORKER_FOLDER)},
            start_new_session=True)
    process.server = Server(f'http://127.0.0.1:{port}')
    for _ in range(300):
        try:
            process.server.get('/health')
            break
        except ServerError:
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(1)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def server(process):
    return process.server


@pytest.fixture
def transfer():
    return WeightTransfer(chunk_bytes=1 << 18, timeout=60)


def make_head(**policy):
    return VLMReasoningHead(POLICY_WEIGHTS, prompt_template=SHAPES_PROMPT_TEMPLATE, **policy).eval()


def ask(server, prompt, end_tokens, timeout=60):
    """The greedy answer to a prompt with one image token. No name is given to the image, so that
    vLLM's caches know it again."""
    is_image = prompt.token_types == 1
    first = is_image.int().diff(prepend=is_image.new_zeros(1).int()) == 1
    file = io.BytesIO()
    Image.fromarray(prompt.image.permute(1, 2, 0).numpy()).save(file, 'PNG')
    url = 'data:image/png;base64,' + b64encode(file.getvalue()).decode()
    answer = server.post('/inference/v1/generate', dict(
        token_ids=prompt.input_ids[~is_image | first].tolist(),
        content_parts=[dict(type='image_url', url=url)], sampling_params=dict(
            temperature=0, max_tokens=TOKENS, stop_token_ids=end_tokens, detokenize=False)),
        timeout)
    return answer['choices'][0]['token_ids']


def differ(server, head):
    """Whether an answer of the server is another than the policy's own."""
    made = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 112, 112), generator=made, dtype=torch.uint8)
    prompts = head.encode_prompts([*images], QUESTIONS)
    expected = SharedPrefixRollout()(head, prompts, temperature=0, max_new_tokens=TOKENS)
    return any(ask(server, prompt, head.end_tokens) != ids[mask].tolist()
               for prompt, ids, mask in zip(prompts, expected.ids, expected.mask, strict=True))


@torch.no_grad()
def update(head, seed, rate=0.02, below=''):
    made = torch.Generator().manual_seed(seed)
    for name, parameter in head.named_parameters():
        if parameter.requires_grad and below in name:
            parameter += rate * torch.randn(parameter.shape, generator=made)


def test_answers_are_those_of_the_weights_that_were_sent(server, transfer):
    head = make_head()
    transfer.check([server], head.model.config.to_dict())
    for step in range(5):
        update(head, step)
        assert differ(server, head)
        assert transfer.send([server], named_weights(head.model), f'step {step}') == {}
        assert server.get('/weight_info')['weight_version'] == f'step {step}'
        assert not differ(server, head)
    update(head, 9, 0.05, below='visual')  # images come from no cache
    assert differ(server, head)
    transfer.send([server], named_weights(head.model), 'tower')
    assert not differ(server, head)


def test_an_adapter_is_merged(server, transfer):
    pytest.importorskip('peft')
    head = make_head(lora=dict(r=4, lora_alpha=8))
    update(head, 0, 0.1)
    transfer.send([server], named_weights(head.model), 'adapted')
    assert not differ(server, head)
    with head.adapter_off():
        assert differ(server, head)


def test_an_update_that_ended_half_way_serves_nothing_and_leaves_nothing(
        server, transfer, tmp_path):
    head = make_head()
    update(head, 1)

    def stops():
        for name, value in named_weights(head.model):
            if 'layers.0.self_attn.k_proj' in name:  # q is there, k and v are not
                raise KeyError('the trainer')
            yield name, value * 2

    transfer.chunk_bytes = 1
    with pytest.raises(KeyError, match='the trainer'):
        transfer.send([server], stops(), 'half')
    assert server.get('/weight_info')['weight_version'] == INCOMPLETE
    with pytest.raises(ServerError, match='did not answer'):
        ask(server, head.encode_prompts(
            [torch.zeros(3, 112, 112, dtype=torch.uint8)], QUESTIONS[:1])[0], head.end_tokens, 2)
    transfer.send([server], named_weights(head.model), 'whole')
    assert not differ(server, head)


@pytest.mark.parametrize('fault', ['left out', 'unknown', 'other shape', 'not a file'])
def test_weights_that_are_refused_are_named(server, transfer, fault, monkeypatch):
    head = make_head()
    weights = dict(named_weights(head.model))
    key = next(name for name in weights if name.endswith('layers.1.mlp.up_proj.weight'))
    told = f'the weight {key} is refused'
    if fault == 'left out':
        del weights[key]
        told = r'all weights should have arrived, but 1 did not .*layers\.1\.mlp\.gate_up_proj'
    elif fault == 'unknown':
        weights['model.extra.weight'] = torch.zeros(2)
        told = 'the weight model.extra.weight is refused'
    elif fault == 'other shape':
        weights[key] = weights[key][1:]
    else:
        monkeypatch.setattr('mmdpad.models.rollouts.weight_channels.save_file',
                            lambda part, path: path.write_text('no'))
        told = 'POST /update_weights'
    with pytest.raises(WeightTransferError, match=told):
        transfer.send([server], weights.items(), 'refused')
    assert server.get('/weight_info')['weight_version'] == INCOMPLETE
    monkeypatch.undo()
    transfer.send([server], named_weights(head.model), 'whole')
    assert not differ(server, head)


def test_two_processes_with_sharded_weights(server, tmp_path):
    head = make_head()
    update(head, 2)
    WeightTransfer().send([server], named_weights(head.model), 'other')
    script = Path(__file__).with_name('two_senders.py')
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        nobody = f'http://127.0.0.1:{taken.getsockname()[1]}'
        subprocess.run([sys.executable, str(script), str(tmp_path), server.url, nobody],
                       check=True, timeout=200)
    for rank in range(2):
        sent, failed, sampled = (tmp_path / f'outcome{rank}.txt').read_text().splitlines()
        assert sent == '{}' and f'{nobody} does not answer' in failed
        assert sampled == str((True, server.get('/weight_info')['weight_version']))
    assert not differ(server, make_head())


def test_what_is_wrong_with_a_server(server, transfer, tmp_path):
    with pytest.raises(WeightTransferError, match='`text_config.hidden_size` is 128 there and 64'):
        transfer.check([server], dict(text_config=dict(hidden_size=64)))
    with pytest.raises(ServerError, match='should see the folder /no/such'):
        transfer.channel._probe(server, '/no/such', '')
    (tmp_path / 'probe').write_text('of another machine')
    with pytest.raises(ServerError, match="should be the trainer's, but it is another one"):
        transfer.channel._probe(server, str(tmp_path), 'token')


def test_a_server_that_dies_meanwhile(process, transfer):
    """The last test: it is gone then."""
    def weights():
        for number, pair in enumerate(named_weights(make_head().model)):
            if number == 40:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            yield pair

    transfer.chunk_bytes = 1
    with pytest.raises(WeightTransferError,
                       match=f'{process.server.url} does not answer POST /update_weights'):
        transfer.send([process.server], weights(), 'never')
