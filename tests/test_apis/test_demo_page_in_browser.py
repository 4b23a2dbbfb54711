# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The demo page in a headless Chromium, with the toy model and with a model that writes markup."""
import itertools
import json
import shutil
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mmdpad.apis import Answer
from mmdpad.apis.demo_page.asking import Model
from mmdpad.apis.demo_page.examples import write_examples
from mmdpad.apis.demo_page.loading import load_model
from mmdpad.utils import find_config

pytest.importorskip('gradio')
playwright = pytest.importorskip('playwright.sync_api')
CHROMIUM = next(filter(None, map(shutil.which, (
    'chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(CHROMIUM is None, reason='there is no Chromium')]
OPTIONS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
           '--disable-background-networking', '--disable-component-update', '--disable-sync']
MARKUP = '<img src=x onerror=alert(1)> {{7*7}} ${1+1} **bold** \ud800'
READABLE = MARKUP.replace('\ud800', '\N{REPLACEMENT CHARACTER}')
PAUSE = 0.05  # seconds a token
WRITTEN = "document.querySelector('#model_0 .reasoning textarea').value"


class MarkupInferencer:
    """A model that writes what a page must not render."""

    model = SimpleNamespace(tasks={})

    def stream(self, image, question, task=None):
        yield Answer(image, response=MARKUP, reasoning=MARKUP, caption=MARKUP,
                     failure=f'bad_value: {MARKUP}', objects=[], mask=np.zeros((1, 1), bool),
                     seconds={})


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The page's address, its toy model, how many tokens that wrote, and examples. While `gate` is
    closed it writes no more than a few tokens, see `held`."""
    from mmdpad.apis.demo_page.page import build_page, open_page
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp('demo')
        patch.setenv('GRADIO_TEMP_DIR', str(folder / 'cache'))
        toy = load_model(find_config('tiny_shapes'), None, 'cpu')
        found = SimpleNamespace(address='', tokens=0, gate=threading.Event(),
                                examples=write_examples(folder), infer=toy.infer)
        found.gate.set()
        engine = toy.infer.model.rollout_engine
        streaming = engine.streaming

        @contextmanager
        def slowly(streamer):
            count = itertools.count()

            def stream(tokens):
                found.tokens += 1
                if next(count) == 5:
                    found.gate.wait(60)
                time.sleep(PAUSE)
                streamer(tokens)
            with streaming(stream):
                yield

        patch.setattr(engine, 'streaming', slowly)
        page = build_page([toy, Model('hostile', MarkupInferencer(), note='none')],
                          found.examples, 10**6, 4)
        found.address = open_page(page, '127.0.0.1', None, wait=False)
        yield found
        page.close()


@pytest.fixture(scope='module')
def browser(site):
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, site):
    """Opens the page as another user."""
    contexts = []

    def open_one(width=1280, height=900):
        contexts.append(browser.new_context(viewport=dict(width=width, height=height)))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.seen = SimpleNamespace(hosts=set(), dialogs=[])
        page.on('request', lambda request: page.seen.hosts.add(request.url.split('/')[2]))
        page.on('dialog', lambda dialog: (page.seen.dialogs.append(dialog), dialog.dismiss()))
        page.goto(site.address)
        page.wait_for_selector('#ask')
        return page

    yield open_one
    for context in contexts:
        context.close()


def ask(page, path, question):
    with page.expect_response(lambda response: '/upload' in response.url):
        page.set_input_files('#image input[type=file]', path)
    page.wait_for_selector('#image img')
    page.fill('#question textarea', question)
    page.click('#ask')


def see(page, selector, text):
    """Waits until a part of the page has a text."""
    playwright.expect(page.locator(selector).first).to_contain_text(text, timeout=60_000)


def value(page, box, model=0):
    return page.locator(f'#model_{model} .{box} textarea').input_value()


def expected(site, path, question):
    answer, = site.infer(path, question)
    assert answer['failure'] is None
    return answer


@contextmanager
def held(site):
    """While this lasts, no response gets beyond its first tokens."""
    site.gate.clear()
    try:
        yield
    finally:
        site.gate.set()


def tokens_until_rest(site, before):
    """How many tokens were written since, once no more are."""
    seen = -1
    while seen != site.tokens:
        seen = site.tokens
        time.sleep(20 * PAUSE)
    return seen - before


def test_upload_ask_text_result(site, visit):
    page = visit()
    path, question = site.examples[3]
    with held(site):
        ask(page, path, question)
        see(page, '#model_0 [role=status]', 'Writing')
        see(page, '#model_1 [role=status]', 'Waiting for its turn')
        page.wait_for_function(WRITTEN)
        assert not page.locator('#model_0 .facts').count()
    see(page, '#model_0 [role=status]', 'Answered in')
    see(page, '#model_1 [role=status]', 'The response cannot be used')
    truth = expected(site, path, question)
    assert value(page, 'reasoning') == truth['reasoning']
    assert value(page, 'caption') == truth['caption']
    see(page, '#model_0 .details', f'{truth["score"]:.3f}')
    assert page.locator('#model_0 .bars .bar').count() == 2
    picture = page.locator('#model_0 .picture img')
    playwright.expect(picture).to_be_visible()
    assert picture.evaluate('image => image.naturalWidth') == 512
    # What the second model writes is text, wherever it stands.
    assert value(page, 'reasoning', 1) == value(page, 'caption', 1) == READABLE
    see(page, '#model_1 [role=status]', f'bad_value: {READABLE}')
    assert not page.locator('img[src="x"]').count() and not page.seen.dialogs
    assert page.seen.hosts == {site.address.split('/')[2]}


def test_an_example_can_be_picked(site, visit):
    page = visit()
    page.get_by_text(site.examples[2][1]).click()
    page.wait_for_selector('#image img')
    page.click('#ask')
    see(page, '#model_0 [role=status]', 'Answered in')


@pytest.mark.parametrize('content, message', [
    (b'\x89PNG\r\n\x1a\nbroken', 'This file cannot be read as an image'),
    (b'no image at all', 'This file cannot be read as an image'),
    (None, 'at most 1 megapixels, but is 1001 x 1000')])
def test_a_file_that_cannot_be_used(content, message, site, visit, tmp_path):
    path = tmp_path / 'image.png'
    if content is None:
        Image.new('1', (1001, 1000)).save(path)
    else:
        path.write_bytes(content)
    page = visit()
    ask(page, path, 'the star')
    see(page, '#problem', message)
    assert not page.locator('#model_0 [role=status]').inner_text().strip()


def test_questions_that_cannot_be_used(site, visit):
    page = visit()
    page.click('#ask')
    see(page, '#problem', 'Choose an image first')
    ask(page, site.examples[0][0], '  ')
    see(page, '#problem', 'Type a question first')
    page.fill('#question textarea', 'x' * 501)
    page.click('#ask')
    see(page, '#problem', 'at most 500 characters')


def test_cancel_ends_the_sampling(site, visit):
    page, before = visit(), site.tokens
    with held(site):
        ask(page, *site.examples[3])
        page.wait_for_function(WRITTEN)
        with page.expect_request(lambda request: request.url.endswith('/cancel')):
            page.click('#cancel')
        see(page, '#problem', 'Cancelled')
    cancelled = tokens_until_rest(site, before)
    assert not page.locator('#model_0 .facts').count()
    page.click('#ask')  # nothing is stuck
    see(page, '#model_0 [role=status]', 'Answered in')
    assert cancelled < (site.tokens - before - cancelled) / 2


def test_a_user_who_goes_away_ends_the_sampling(site, visit):
    page, before = visit(), site.tokens
    with held(site):
        ask(page, *site.examples[3])
        page.wait_for_function(WRITTEN)
        page.context.close()
        time.sleep(1)  # the server looks every 0.05 s
    assert tokens_until_rest(site, before) < 15  # of 29


def test_two_users_at_once_get_each_their_own_answer(site, visit):
    asked = [site.examples[3], site.examples[4]]
    pages = [visit() for _ in asked]
    with held(site):
        ask(pages[0], *asked[0])
        see(pages[0], '#model_0 [role=status]', 'Writing')
        ask(pages[1], *asked[1])
        see(pages[1], '#problem', 'queue: 1/1')
    for page, (path, question) in zip(pages, asked, strict=True):
        see(page, '#model_0 [role=status]', 'Answered in')
        truth = expected(site, path, question)
        assert value(page, 'reasoning') == truth['reasoning']
        assert value(page, 'caption') == truth['caption']


def test_a_phone_shows_all_without_scrolling_sideways(site, visit):
    page = visit(390, 844)
    width = 'document.documentElement.scrollWidth'
    assert page.evaluate(width) <= 390
    ask(page, *site.examples[3])
    see(page, '#model_1 [role=status]', 'The response cannot be used')
    assert page.evaluate(width) <= 390
    for part in ('#ask', '#model_0 .picture', '#model_0 .bars', '#model_1 [role=status]'):
        box = page.locator(part).first.bounding_box()
        assert box['x'] >= 0 and box['x'] + box['width'] <= 390


def test_files_of_the_machine_are_out_of_reach(site, visit):
    request = visit().request
    assert request.get(f'{site.address}gradio_api/file=/etc/hostname').status == 403
    call = dict(fn_index=1, session_hash='stranger', data=[
        dict(path='/etc/hostname', meta=dict(_type='gradio.FileData')), 'the star'])
    joined = request.post(f'{site.address}gradio_api/queue/join', data=json.dumps(call),
                          headers={'content-type': 'application/json'})
    assert joined.ok
    answer = request.get(f'{site.address}gradio_api/queue/data?session_hash=stranger').text()
    assert '"success":false' in answer and 'process_generating' not in answer
