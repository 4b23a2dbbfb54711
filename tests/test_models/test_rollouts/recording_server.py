# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A server with the phases of an update as vLLM has them, which records what it is asked."""
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from safetensors.torch import load_file

from mmdpad.models.rollouts.vllm_client import Server

CONFIG = dict(model_type='qwen2_5_vl', text_config=dict(hidden_size=128, use_cache=True),
              vision_config=dict(depth=4))


class Refused(Exception):
    """Answered with a status: of what vLLM's worker raises, 500."""

    def __init__(self, what, status=500):
        super().__init__(what)
        self.status = status


class RecordingServer(Server):
    """Its faults are called in place of the answer to a path."""

    def __init__(self, port):
        super().__init__(f'http://127.0.0.1:{port}')
        self.backend, self.vllm, self.config, self.size = 'mmdpad_files', '0.30.0', CONFIG, 1
        self.asked = []  # (path, body)
        self.faults = {}
        self.link = ''
        self.version, self.paused, self.active = 'default', False, False
        self.arriving, self.weights, self.part_bytes = {}, None, []

    @property
    def paths(self):
        return [path.lstrip('/') for path, _ in self.asked]

    @property
    def serves(self):
        return not self.paused and self.version != 'incomplete'

    def answer(self, path, body):
        path = path.split('?')[0]
        self.asked.append((path, body))
        self.faults.get(path, lambda body: None)(body)
        return getattr(self, path.strip('/'), lambda **body: dict(message='done'))(**body)

    def get_world_size(self):
        return dict(world_size=self.size)

    def weight_info(self):
        return dict(weight_version=self.version)

    def pause(self):
        self.paused = True

    def resume(self):
        self.paused = False

    def update_weight_version(self, new_version):
        self.version = new_version

    def collective_rpc(self, method):
        if method == 'weight_update_state':
            return dict(results=[dict(backend=self.backend, vllm=self.vllm, link=self.link,
                                      model=self.config)])
        assert method == 'drop_weight_update'
        self.active = False
        return dict(results=[None])

    def init_weight_transfer_engine(self, init_info):
        if 'folder' in init_info:
            assert Path(init_info['folder'], 'probe').read_text() == init_info['token']
        else:
            self.link = f'{init_info["master_address"]}:{init_info["master_port"]}'

    def start_weight_update(self):
        if self.active or not self.paused or self.version != 'incomplete':
            raise Refused('cannot start')
        self.active, self.arriving = True, {}

    def update_weights(self, update_info):
        if not self.active:
            raise Refused('not started')
        if 'path' in update_info:
            self.part_bytes.append(Path(update_info['path']).stat().st_size)
            self.arriving.update(load_file(update_info['path']))

    def finish_weight_update(self):
        if not self.active:
            raise Refused('not started')
        self.active, self.weights = False, self.arriving

    def reset_prefix_cache(self):
        return dict(success=not self.active)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('content-length') or 0))
        try:
            status, answer = 200, self.server.owner.answer(self.path, json.loads(body or '{}'))
        except Refused as error:
            status, answer = error.status, dict(error=str(error))
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header('content-length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST

    def log_message(self, *_):
        pass


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Clients that left, and faults that cut the connection."""


@contextmanager
def recording_servers(number):
    """Start that many."""
    running = [_Quiet(('127.0.0.1', 0), _Handler) for _ in range(number)]
    owners = []
    for one in running:
        one.owner = RecordingServer(one.server_port)
        owners.append(one.owner)
        threading.Thread(target=one.serve_forever, kwargs=dict(poll_interval=0.01),
                         daemon=True).start()
    try:
        yield owners
    finally:
        for one in running:
            one.shutdown()
            one.server_close()


def refuses(what, status=500):
    def fault(body):
        raise Refused(what, status)
    return fault


def dies(body):
    raise ConnectionResetError


def hangs(body):
    time.sleep(0.8)
    raise Refused('late')
