# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Visitors of the demo page without a browser, by the same requests that its JavaScript makes."""
import http.client
import json
import secrets
import time
from contextlib import closing

FORM = {'Content-Type': 'multipart/form-data; boundary=limit'}
JSON = {'Content-Type': 'application/json'}
ASK = 1  # the number that gradio gives to the function that answers


def form(content, name, field='files'):
    """The body of an upload; a name goes as it is."""
    name = name if isinstance(name, bytes) else name.encode()
    return (f'--limit\r\nContent-Disposition: form-data; name="{field}"; filename="'.encode()
            + name + b'"\r\n\r\n' + content + b'\r\n--limit--\r\n')


class Visitor:
    """One user of the page at a port of this machine, or somebody who means harm."""

    def __init__(self, port):
        self.port, self.session = port, secrets.token_hex(6)

    def request(self, method, path, body=None, headers=()):
        line = http.client.HTTPConnection('127.0.0.1', self.port, timeout=120)
        line.request(method, path, body, dict(headers))
        return line, line.getresponse()

    def call(self, method, path, body=None, headers=()):
        """Status and body of a response."""
        line, response = self.request(method, path, body, headers)
        with closing(line):
            return response.status, response.read()

    def get(self, path):
        return self.call('GET', path)

    def post(self, path, **body):
        return self.call('POST', f'/gradio_api/{path}', json.dumps(body), JSON)

    def upload(self, content, name='image.png'):
        """Status, and the path by which the page knows the file, or what it says instead."""
        status, told = self.call('POST', '/gradio_api/upload', form(content, name), FORM)
        return status, json.loads(told)[0] if status == 200 else told.decode()

    def join(self, path, question):
        """Status, and the number of the question, or why it was refused."""
        file = path if path is None else dict(path=path, meta=dict(_type='gradio.FileData'))
        status, told = self.post('queue/join', fn_index=ASK, session_hash=self.session,
                                 data=[file, question, 1, 'likelihood'])
        told = json.loads(told) if told.startswith(b'{') else {'detail': told.decode()}
        return status, told['event_id' if status == 200 else 'detail']

    def cancel(self, event):
        return self.post('cancel', session_hash=self.session, fn_index=ASK, event_id=event)

    def messages(self):
        """What the page sends, to the end; closing the iterator is leaving the page."""
        line, response = self.request(
            'GET', f'/gradio_api/queue/data?session_hash={self.session}')
        latest = time.monotonic() + 300
        with closing(line), closing(response):
            for text in response:
                assert time.monotonic() < latest, 'the answer does not come'
                if text.startswith(b'data:'):
                    yield json.loads(text[5:])

    def ask(self, path, question):
        """What is shown last: notice, status, reasoning, picture, caption, details, full
        response; or, in place of a list, why there is none."""
        status, told = self.join(path, question)
        if status != 200:
            return f'{status}: {told}'
        last, = (message for message in self.messages() if message['msg'] == 'process_completed')
        return last['output']['data'] if last['success'] else f'failed: {last["output"]}'
