# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What the demo page lets through, without gradio."""
import asyncio
import os
import time

import pytest

pytest.importorskip('starlette')
from starlette.applications import Starlette  # noqa: E402
from starlette.requests import ClientDisconnect  # noqa: E402
from starlette.responses import Response  # noqa: E402

from mmdpad.apis.demo_page import gate  # noqa: E402
from mmdpad.apis.demo_page.gate import Gate, delete_oldest  # noqa: E402

API = '/gradio_api/'


def send(app, method, path, *chunks):
    return asyncio.run(request(app, method, path, *chunks))


async def request(app, method, path, *chunks):
    """Status of a request whose body comes in chunks; None if it was not answered."""
    came = [dict(type='http.request', body=chunk, more_body=True) for chunk in chunks]
    came.append(dict(type='http.request', body=b'', more_body=False))
    sent = []

    async def receive():
        return came.pop(0)

    async def answer(message):
        sent.append(message)

    scope = dict(type='http', method=method, path=path, raw_path=path.encode(), headers=[],
                 query_string=b'', root_path='', scheme='http', http_version='1.1')
    await app(scope, receive, answer)
    return sent[0]['status'] if sent else None


def behind(folder, reply, **limits):
    app = Starlette()
    app.router.default = None

    async def read(scope, receive, send):
        size = 0
        while True:
            message = await receive()
            size += len(message['body'])
            if not message['more_body']:
                break
        await reply(size)
        await Response()(scope, receive, send)

    app.mount('/', read)
    app.add_middleware(Gate, folder=folder, **limits)
    return app


async def nothing(size):
    pass


@pytest.mark.parametrize('method, path, status', [
    ('GET', '/', 200), ('GET', f'{API}file=/folder/image.png', 200), ('POST', f'{API}upload', 200),
    ('POST', f'{API}queue/join', 200), ('POST', f'{API}run/predict', 200),
    ('GET', f'{API}file=http://example.org/', 403), ('GET', f'{API}file/file://x', 403),
    ('GET', f'{API}other=https://example.org/', 403), ('POST', f'{API}other', 404),
    ('POST', f'{API}call/run', 404), ('POST', '/x', 404),
    ('PUT', '/x', 404), ('HEAD', '/', 200)])
def test_only_what_the_page_needs_is_let_through(method, path, status, tmp_path):
    assert send(behind(tmp_path, nothing), method, path) == status


@pytest.mark.parametrize('path, most', [('queue/join', 1), ('upload', 65), ('upload/', 65)])
def test_a_request_that_is_too_large_is_refused_while_it_comes(path, most, tmp_path):
    app, part = behind(tmp_path, nothing), bytes(most * 2**18)
    assert send(app, 'POST', API + path, *[part] * 4) == 200
    assert send(app, 'POST', API + path, *[part] * 4, b'x') == 413


@pytest.mark.parametrize('path, most', [('upload', 2), ('upload/', 2), ('queue/join', 5)])
def test_more_uploads_than_may_come_at_once_wait(path, most, tmp_path, monkeypatch):
    monkeypatch.setattr(gate, 'MOST_UPLOADS', 2)
    numbers = [0]

    async def busy(size):
        numbers.append(numbers[-1] + 1)
        await asyncio.sleep(0.01)
        numbers.append(numbers[-1] - 1)

    async def five():
        app = behind(tmp_path, busy)
        await asyncio.gather(*(request(app, 'POST', API + path) for _ in range(5)))

    asyncio.run(five())
    assert max(numbers) == most and len(numbers) == 11


def test_who_leaves_in_the_middle_is_no_error(tmp_path):
    async def leave(size):
        raise ClientDisconnect
    app = behind(tmp_path, leave)
    assert send(app, 'POST', f'{API}upload') is None


def write(path, size, age=0.0):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(os.urandom(size))
    os.utime(path, (time.time() - age, ) * 2)
    return path


@pytest.mark.parametrize('limits, left', [
    ((10**9, 9, 99), 'abc'), ((10**9, 2, 99), 'ab'), ((9000, 9, 99), 'ab'),
    ((10**9, 9, 15), 'ab'), ((0, 9, 99), ''), ((10**9, 9, 0), '')])
def test_the_oldest_files_go(limits, left, tmp_path):
    for age, name in enumerate('abc'):
        write(tmp_path / name / 'image.png', 4096, 10 * age)
        os.utime(tmp_path / name, (time.time() - 100, ) * 2)
    delete_oldest(tmp_path.rglob('*'), *limits)
    assert sorted(path.parent.name for path in tmp_path.rglob('*.png')) == list(left)
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - 100, ) * 2)
    delete_oldest(tmp_path.rglob('*'), *limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == list(left)


def test_a_folder_that_went_away_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, '_EVERY', 0)
    app = behind(tmp_path / 'folder', nothing)
    write(tmp_path / 'folder' / 'image.png', 9)
    assert send(app, 'GET', '/') == 200
    (tmp_path / 'folder').rename(tmp_path / 'away')
    assert send(app, 'GET', '/') == 200


@pytest.mark.promise('Demo page', 'Uploads without end',
                     'the folder stays within 1 GiB and 2000 files, the oldest are deleted; a '
                     'request may have 65 MiB, or 1 MiB if it is not an upload')
def test_the_folder_is_bounded(tmp_path, monkeypatch, tried):
    example = write(tmp_path / 'scene.png', 4096, 10**6)
    app = behind(tmp_path, nothing, most_bytes=100_000)
    send(app, 'GET', '/')  # as the page's server starts
    monkeypatch.setattr(gate, '_EVERY', 0)
    for number in range(100):
        write(tmp_path / f'tmp{number}' if number % 2 else tmp_path / str(number) / 'image.png',
              10_000, 100 - number)
        assert send(app, 'POST', f'{API}upload') == 200
        files = [path.stat().st_size for path in tmp_path.rglob('*') if path.is_file()]
        assert sum(files) <= 100_000 + 4096
    assert example.exists() and (tmp_path / 'tmp99').exists()
    tried('100 uploads of 10 kB to a folder of 100 kB, broken off ones among them')
