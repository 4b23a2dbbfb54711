# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The demo page by its requests, in this process, with a model that only says what it sees."""
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from visitors import FORM, Visitor, form

from mmdpad.apis import Answer
from mmdpad.apis.demo_page.asking import Model
from mmdpad.apis.demo_page.examples import write_examples

pytest.importorskip('gradio')


class Inferencer:
    model = SimpleNamespace(tasks={})

    def stream(self, image, question, task=None):
        yield Answer(image, response=f'{image.shape}', reasoning='', caption='', failure=None,
                     objects=[], mask=np.zeros(image.shape[:2], bool), seconds={})


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    from mmdpad.apis.demo_page.page import build_page, open_page
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp('demo')
        patch.setenv('GRADIO_TEMP_DIR', str(folder))
        page = build_page([Model('m', Inferencer())], write_examples(folder, 2), 10**6, 4)
        address = open_page(page, '127.0.0.1', None, wait=False)
        yield SimpleNamespace(port=int(address.rstrip('/').rpartition(':')[2]), folder=folder,
                              queue=page._queue)
        page.close()


@pytest.fixture
def visitor(site):
    return Visitor(site.port)


@pytest.fixture
def png(tmp_path):
    Image.new('RGB', (40, 30), 'red').save(tmp_path / 'image.png')
    return (tmp_path / 'image.png').read_bytes()


def test_an_upload_is_answered(visitor, png):
    _, path = visitor.upload(png)
    assert visitor.ask(path, 'what?')[-1] == '(30, 40, 3)'


def test_an_upload_that_was_deleted_has_to_be_chosen_again(visitor, png):
    _, path = visitor.upload(png, 'again.png')
    Path(path).unlink()
    notice, *_ = visitor.ask(path, 'what?')
    assert 'This image is no longer here. Choose it again.' in notice


@pytest.mark.parametrize('picked', [False, True])
def test_an_address_in_place_of_an_upload_is_not_fetched(picked, visitor, monkeypatch, capsys):
    for name in ('async_ssrf_protected_download', 'ssrf_protected_download', 'unsafe_download'):
        monkeypatch.setattr(f'gradio.processing_utils.{name}', lambda *_: pytest.fail('fetched'))
    if picked:
        visitor.post('run/pick', data=[0], session_hash=visitor.session)
    assert 'Upload an image' in visitor.ask('http://example.org/image.png', 'what?')
    assert 'Traceback' not in capsys.readouterr().err


def test_sessions_that_get_messages_stay_and_others_get_none():
    """The queue is a stub."""
    from mmdpad.apis.demo_page.page import _outlive_sessions
    sent, sessions = [], OrderedDict.fromkeys('abc')
    queue = SimpleNamespace(pending_messages_per_session=sessions,
                            send_message=lambda event, message: sent.append((event, message)))
    _outlive_sessions(queue)
    here, gone = SimpleNamespace(session_hash='a'), SimpleNamespace(session_hash='x')
    queue.send_message(here, 'one')
    queue.send_message(gone, 'two')
    assert sent == [(here, 'one')] and list(sessions) == ['b', 'c', 'a']


def test_the_pages_queue_is_such_a_one(tmp_path, monkeypatch):
    from mmdpad.apis.demo_page import page
    seen = []
    monkeypatch.setattr(page, '_outlive_sessions', seen.append)
    built = page.build_page([Model('m', Inferencer())], write_examples(tmp_path, 1), 10**6, 4)
    assert seen == [built._queue]


def test_a_bad_file_is_reported_after_an_example_too(visitor):
    status, told = visitor.post('run/pick', data=[0], session_hash=visitor.session)
    assert status == 200 and b'scene_0.png' in told
    notice, *_ = visitor.ask(visitor.upload(b'no image')[1], 'what?')
    assert 'This file cannot be read as an image' in notice


def test_what_the_page_does_not_use_is_closed(visitor):
    told = visitor.call('POST', '/gradio_api/call/run', form(b'x', 'x.mp4', 'video'), FORM)
    assert told == (404, b'The page does not use this.')


@pytest.mark.parametrize('name, kind', [('x.html', 'attachment'), ('x.svg', 'attachment'),
                                        ('x.png', 'inline')])
def test_what_a_browser_could_run_is_a_download(name, kind, visitor):
    _, path = visitor.upload(b'<script>alert(1)</script>', name)
    line, response = visitor.request('GET', f'/gradio_api/file={path}')
    assert response.headers['Content-Disposition'].startswith(kind)
    line.close()


def test_a_request_without_an_end_is_refused(visitor):
    assert visitor.ask(None, 'x' * 2 * 10**6).startswith('413')
    one = form(bytes(40 * 2**20), 'a')
    files = one.removesuffix(b'--limit--\r\n') + one
    assert visitor.call('POST', '/gradio_api/upload', files, FORM)[0] == 413


@pytest.mark.parametrize('host, share, told', [
    ('127.0.0.1', False, False), ('127.0.0.9', False, False), ('localhost', False, False),
    ('0.0.0.0', False, True), ('192.0.2.1', False, True), ('127.0.0.1', True, True)])
def test_a_page_that_others_reach_says_that_it_has_no_login(host, share, told, capsys):
    from mmdpad.apis.demo_page.page import open_page
    page = SimpleNamespace(launch=lambda **_: (None, 'http://...', None))
    open_page(page, host, 1, share, wait=False)
    assert ('no login' in capsys.readouterr().out) == told
