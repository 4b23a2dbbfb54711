# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The demo page as `mmdpad demo` opens it, in a process of its own, and 20 users at once, some of
whom mean harm. `LOAD_SECONDS` shortens a trial."""
import hashlib
import io
import itertools
import os
import random
import re
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image, PngImagePlugin
from strangers import BAD_FILES, FILE_NAMES, REQUESTS, paths_elsewhere
from visitors import FORM, Visitor, form

from mmdpad.apis.demo_page.asking import answer
from mmdpad.apis.demo_page.loading import load_model
from mmdpad.toy.shapes_world import make_scene
from mmdpad.utils import find_config

pytest.importorskip('gradio')
pytestmark = pytest.mark.slow
FULL = 'told that the queue is full'
SECONDS, USERS, QUEUE = float(os.environ.get('LOAD_SECONDS', 300)), 20, 10
# What gradio prints of requests that no page makes; everything else in the terminal is a fault.
KNOWN = (r'gradio\.exceptions\.InvalidPathError: Cannot move .* because it was not uploaded by',
         r'pydantic_core\._pydantic_core\.ValidationError: 1 validation error for ImageData',
         r'KeyError: (99|-1)$', r'IndexError: list index out of range',
         r'gradio\.exceptions\.ComponentProcessingError: .* \(named "pick"\)',
         r"ValueError: An event handler \(run\) didn't receive enough input values",
         r'ValueError: embedded null byte', r'OSError: .* File name too long',
         r'TypeError: File is not an instance of GradioUploadFile')


def start(folder, *options):
    """The page in a process whose temporary files lie in a folder; its port and address."""
    folder.mkdir()
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
    with open(folder.parent / 'errors', 'w') as errors:
        process = subprocess.Popen(
            [sys.executable, '-m', 'mmdpad', 'demo', '--port', str(port), '--device', 'cpu',
             *options], stdout=subprocess.PIPE, stderr=errors, text=True,
            env=dict(os.environ, TMPDIR=str(folder)))
    told = ''
    for line in process.stdout:
        told += line
        if line.startswith('The page is at'):
            return SimpleNamespace(port=port, process=process, told=told, folder=folder,
                                   about=psutil.Process(process.pid))
    pytest.fail((folder.parent / 'errors').read_text())


def end(site, number):
    """Seconds, at most 60, from the signal to the end, and what is left of the page's folder."""
    began = time.monotonic()
    site.process.send_signal(number)
    site.process.communicate(timeout=60)
    return time.monotonic() - began, list(site.folder.glob('mmdpad_demo_*'))


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    page = start(tmp_path_factory.mktemp('page') / 'tmp', '--queue', str(QUEUE))
    yield page
    page.process.kill()


@pytest.fixture(scope='module')
def scenes():
    """For each user an image, a question, and what the page has to answer."""
    model = load_model(find_config('tiny_shapes'), None, 'cpu')
    found = []
    indices = itertools.count()
    while len(found) < USERS:
        scene = make_scene('test', next(indices))
        *_, shown = answer(model, scene.image, scene.question.text)
        if shown.picture is not None:
            found.append((scene.image, scene.question.text, shown))
    return found


def photo(image):
    """As a file whose bytes nobody has sent before."""
    file, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text('nonce', secrets.token_hex())
    Image.fromarray(image).save(file, 'PNG', pnginfo=info)
    return file.getvalue()


def check(visitor, scene, told):
    """The answer shown is to the user's own question, with their own image."""
    _, _, shown = scene
    notice, status, reasoning, picture, caption, _, response = told
    assert (notice, reasoning, caption, response) == (
        '', shown.reasoning, shown.caption, shown.response)
    assert 'Answered' in status
    fetched, content = visitor.get('/gradio_api/file=' + picture['path'])
    assert fetched == 200
    seen = np.asarray(Image.open(io.BytesIO(content)), int)
    assert seen.shape == shown.picture.shape and np.abs(seen - shown.picture).mean() < 5


def asks(visitor, scene, chance):
    _, path = visitor.upload(photo(scene[0]))
    told = visitor.ask(path, scene[1])
    if isinstance(told, str):
        assert told.startswith('503: Queue is full'), told
        return FULL
    check(visitor, scene, told)
    return 'answered'


def leaves(visitor, scene, chance):
    """Cancels after some messages, or goes away."""
    _, path = visitor.upload(photo(scene[0]))
    status, event = visitor.join(path, scene[1])
    if status != 200:
        return FULL
    messages, left = visitor.messages(), chance.randrange(1, 5)
    for _, message in zip(range(left), messages, strict=False):
        assert message.get('queue_size', 0) <= QUEUE
    if chance.random() < 0.5:
        messages.close()
        return 'gone away'
    assert visitor.cancel(event)[0] == 200
    assert list(messages)[-1]['msg'] == 'close_stream'
    return 'cancelled'


def sends_a_bad_file(visitor, scene, chance):
    name, (content, told) = chance.choice(list(BAD_FILES.items()))
    status, path = visitor.upload(content, chance.choice(FILE_NAMES))
    if status == 200:
        seen = visitor.ask(path, 'what?')
        if isinstance(seen, str):
            assert seen.startswith('503: Queue is full'), seen
            return FULL
        assert told in seen[0] and seen[3] is None, (name, seen)
    else:
        assert told in path, (name, status, path)
    return 'bad files'


def means_harm(visitor, scene, chance):
    path, body, headers, allowed = chance.choice(REQUESTS)
    method = 'GET' if body is None else 'POST'
    status, told = visitor.call(method, path, body, headers)
    assert status in allowed, (path, body and body[:80], status, told[:200])
    return 'odd requests'


def breaks_off(visitor, scene, chance):
    with socket.create_connection(('127.0.0.1', visitor.port)) as line:
        body = form(photo(scene[0]) + bytes(10**6), 'image.png')
        line.sendall(f'POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: '
                     f'{FORM["Content-Type"]}\r\nContent-Length: {10**7}\r\n\r\n'.encode() + body)
    return 'uploads broken off'


@pytest.fixture(scope='module')
def load(site, scenes):
    """What the users met, how often, and what a watcher saw of the process each second."""
    until, met, seen = time.monotonic() + SECONDS, Counter(), []
    lock = threading.Lock()

    def use(number):
        chance, visitor = random.Random(number), Visitor(site.port)
        while time.monotonic() < until:
            if chance.random() < 0.5:
                visitor = Visitor(site.port)
            turn, = chance.choices((asks, leaves, sends_a_bad_file, means_harm, breaks_off),
                                   (60, 15, 15, 15, 2))
            outcome = turn(visitor, scenes[number], chance)
            with lock:
                met[outcome] += 1
            if outcome == FULL:
                time.sleep(2 * chance.random())
            elif outcome == 'gone away':  # who comes back is new: of the old session gradio forgets
                visitor = Visitor(site.port)  # what was asked before it noticed

    def watch():
        while time.monotonic() < until:
            began = time.monotonic()
            status, page = Visitor(site.port).get('/')
            took = time.monotonic() - began
            assert status == 200 and b'mmdpad' in page
            queue = re.search(rb'"queue_size":(\d+)', Visitor(site.port).get(
                '/gradio_api/queue/status')[1])
            files = []
            for here, _, names in os.walk(site.folder):
                for name in names:
                    with suppress(FileNotFoundError):
                        files.append(os.stat(os.path.join(here, name)).st_size)
            with site.about.oneshot():
                seen.append(SimpleNamespace(
                    took=took, queue=int(queue[1]), disk=sum(files), files=len(files),
                    memory=site.about.memory_info().rss, threads=site.about.num_threads(),
                    handles=site.about.num_fds()))
            time.sleep(1)

    with ThreadPoolExecutor(USERS + 1) as pool:
        turns = [pool.submit(use, number) for number in range(USERS)] + [pool.submit(watch)]
    faults = [turn.exception() for turn in turns if turn.exception()]
    assert not faults
    return SimpleNamespace(met=met, seen=seen)


@pytest.mark.promise('Demo page', '20 users at once for 5 minutes',
                     'each question gets an answer about its own image, or is told that the queue '
                     'is full; the queue never exceeds `--queue`; the page itself always loads')
def test_each_gets_an_answer_about_their_own_image(load, tried):
    assert all(load.met[outcome] for outcome in ('answered', 'cancelled', 'gone away'))
    assert max(one.queue for one in load.seen) <= QUEUE
    slowest = max(one.took for one in load.seen)
    assert slowest < 30
    tried(f'{SECONDS:.0f} s: ' + ', '.join(
        f'{count} {outcome}' for outcome, count in load.met.most_common())
        + f'; longest queue {max(one.queue for one in load.seen)} of {QUEUE}; the page loaded '
        f'within {slowest:.1f} s, mostly {statistics.median(one.took for one in load.seen):.2f} s')


def growth(load, name):
    """Of the median, from the first third to the last, once warm."""
    values = [getattr(one, name) for one in load.seen]
    values = values[len(values) // 4:]
    third = max(len(values) // 3, 1)
    return statistics.median(values[-third:]) - statistics.median(values[:third])


@pytest.mark.promise('Demo page', 'Users who come and go',
                     'memory, threads and open files stay constant')
def test_nothing_grows(load, tried):
    memory = growth(load, 'memory') / 2**20
    last = load.seen[-1]
    tried(f'memory {memory:+.1f} MB to {last.memory / 2**20:.0f} MB between the first and the last '
          f'third of the time, threads {growth(load, "threads"):+.0f} to {last.threads}, open files'
          f' {growth(load, "handles"):+.0f} to {last.handles}, folder {last.disk / 2**20:.1f} MB '
          f'in {last.files} files')
    assert memory < 40
    assert growth(load, 'threads') < 30 and growth(load, 'handles') < 20


@pytest.mark.promise('Demo page', 'Paths and addresses that point elsewhere',
                     'only uploads, answer images and examples are read or served, and no address '
                     'is fetched')
def test_nothing_outside_the_folder_is_reached(load, site, scenes, tried):
    with socket.create_server(('127.0.0.1', 0)) as bait:
        bait.settimeout(0)
        image, question, _ = scenes[0]
        _, path = Visitor(site.port).upload(photo(image))
        elsewhere = paths_elsewhere(path, bait.getsockname()[1])
        for other in elsewhere:
            told = Visitor(site.port).ask(other, question)
            assert isinstance(told, str) or told[3] is None and 'alert' in told[0], other
            if isinstance(other, str) and other.isprintable():
                for address in ('file=', 'file/'):
                    status, told = Visitor(site.port).get(
                        f'/gradio_api/{address}{other.replace(" ", "%20")}')
                    assert status in (400, 403, 404), (address, other, told)
        with pytest.raises(BlockingIOError):
            bait.accept()
    tried(f'{len(elsewhere)} paths and addresses, in questions and for download')


@pytest.mark.promise('Demo page', 'Damaged and hostile uploads, odd requests',
                     'refused; the terminal shows only known errors')
def test_only_known_errors_are_in_the_terminal(load, site, tried):
    errors = (site.folder.parent / 'errors').read_text()
    printed = re.findall(r'^[\w.]*(?:Error|Exception|Disconnect)\b.*', errors, re.M)
    tried(f'{load.met["bad files"]} files of {len(BAD_FILES)} kinds, {load.met["odd requests"]} '
          f'requests of {len(REQUESTS)} kinds, {load.met["uploads broken off"]} uploads broken off')
    assert not [line for line in printed if not re.match('|'.join(KNOWN), line)]
    assert set(re.findall(r'File ".*/mmdpad/(.*)"', errors)) <= {'apis/demo_page/gate.py'}


def test_names_of_files_do_not_tell_where_they_are(site):
    """Of the content, with a secret of the installation: the same content has the same name."""
    one, two = (Visitor(site.port).upload(content)[1] for content in (b'one', b'two'))
    assert re.fullmatch('[0-9a-f]{64}', one.split('/')[-2])
    assert hashlib.sha256(b'one').hexdigest() not in one and one != two
    for folder in (one.rpartition('/')[0], str(site.folder)):
        assert Visitor(site.port).get(f'/gradio_api/file={folder}')[0] == 403


@pytest.mark.promise('Demo page', 'A network',
                     'listens on 127.0.0.1 only unless told otherwise, and then says that there '
                     'is no login')
def test_only_this_machine_is_listened_to(site, tmp_path, tried):
    def listening(page):
        return {line.laddr.ip for line in page.about.net_connections('inet')
                if line.status == psutil.CONN_LISTEN}
    assert listening(site) == {'127.0.0.1'} and 'login' not in site.told
    other = start(tmp_path / 'tmp', '--host', '0.0.0.0')
    assert listening(other) == {'0.0.0.0'} and 'no login' in other.told
    seconds, left = end(other, signal.SIGINT)
    assert not left
    tried(f'sockets of the process; Ctrl-C ended it in {seconds:.1f} s')


@pytest.mark.promise('Demo page', 'SIGTERM and Ctrl-C',
                     'it ends within seconds and removes its folder')
def test_it_ends_and_leaves_nothing(load, site, scenes, tried):
    assert asks(Visitor(site.port), scenes[0], None) == 'answered'
    waiting = [Visitor(site.port) for _ in range(3)]
    for visitor, (image, question, _) in zip(waiting, scenes, strict=False):
        assert visitor.join(visitor.upload(photo(image))[1], question)[0] == 200
    seconds, left = end(site, signal.SIGTERM)
    tried(f'{seconds:.1f} s, with questions in the queue')
    assert not left
