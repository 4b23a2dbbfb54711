# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A fake of vLLM's server, on a copy of the tiny policy of its own, with faults on demand."""
from __future__ import annotations

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fake_vllm
from PIL import Image

from mmdpad.toy import POLICY_WEIGHTS

GENERATE = '/inference/v1/generate'


class FakeServer:
    """Its ``requests`` are the bodies of requests for responses; ``events`` what happened, in
    order. ``fault`` is called with each such request, before it is answered, and may change the
    answer: a status and a body."""

    def __init__(self):
        self.llm = fake_vllm.LLM(
            POLICY_WEIGHTS, dtype='float32', seed=0, tensor_parallel_size=1,
            gpu_memory_utilization=0.5, max_model_len=512, enable_sleep_mode=False,
            logprobs_mode='processed_logprobs', limit_mm_per_prompt=dict(image=3))
        self.lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition('?')[0]
                self.say(*fake.pages.get(path, (404, dict(detail='Not Found')))
                         if path != '/weight_info' else (200, dict(weight_version=fake.version)))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers['Content-Length'])) or 'null')
                if self.path != GENERATE or fake.scale_out != 400:
                    self.say(fake.scale_out, dict(detail='Not Found'))
                elif not body:
                    self.say(400, dict(error='Field required'))
                else:
                    fake.requests.append(body)
                    fake.events.append('asked')
                    changed = fake.fault(body)
                    if changed is None:
                        with fake.lock:
                            changed = 200, fake.answer(body)
                    if changed[0]:
                        fake.events.append('answered')
                        self.say(*changed)

            def say(self, status, body):
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header('Content-Length', str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.http.server_port}'
        threading.Thread(target=self.http.serve_forever, args=(0.05, ), daemon=True).start()
        self.reset()

    def reset(self):
        self.version = 'default'
        self.requests, self.events = [], []
        self.fault = lambda body: None
        self.hung = threading.Event()
        self.scale_out = 400
        self.clamp = lambda value: value
        self.llm.seen.clear()
        self.model_config = dict(
            dtype='torch.float32', logprobs_mode='processed_logprobs', max_model_len=512,
            multimodal_config=dict(limit_per_prompt=dict(image=dict(count=3))))
        self.pages = {'/version': (200, dict(version='0.30.0')), '/server_info': (200, dict(
            vllm_config=dict(model_config=self.model_config, device_config=dict(device='cpu'),
                             scheduler_config=dict(enable_chunked_prefill=False))))}

    def answer(self, body):
        given = body['sampling_params']
        given['logit_bias'] = {int(token): bias for token, bias in given['logit_bias'].items()}
        images = []
        for part in body['content_parts']:
            kind, _, data = part['url'].partition(';base64,')
            assert (part['type'], kind) == ('image_url', 'data:image/png')
            images.append(Image.open(io.BytesIO(base64.b64decode(data))))
        found = self.llm._answer(dict(
            prompt_token_ids=body['token_ids'], multi_modal_data={'image': images},
            multi_modal_uuids={'image': [part['uuid'] for part in body['content_parts']]}),
            fake_vllm.SamplingParams(**given))
        return dict(prompt_token_ids=found.prompt_token_ids, choices=[
            dict(index=row.index, token_ids=row.token_ids, finish_reason=row.finish_reason,
                 logprobs=dict(content=[
                     dict(logprob=self.clamp(at[token].logprob)) for token, at in
                     zip(row.token_ids, row.logprobs, strict=True)]))
            for row in found.outputs])


class FakeTransfer:
    """In place of WeightTransfer: the weights are copied."""

    def __init__(self, servers):
        self.servers = {server.url: server for server in servers}
        self.failing = {}

    def check(self, servers, model):
        assert model['model_type'] == 'qwen2_5_vl'

    def send(self, servers, weights, version):
        weights = dict(weights)
        for url in {server.url for server in servers} - self.failing.keys():
            fake = self.servers[url]
            own = dict(fake.llm.head.model.named_parameters())
            for name, value in weights.items():
                own.pop(name).data.copy_(value)
            assert not own
            fake.version = version
            fake.events.append('weights')
        return dict(self.failing)
