# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The site is built without a warning, from what is here."""
import re
import socket
from pathlib import Path

import pytest
from sphinx.cmd.build import build_main

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def refuse(*arguments):
    raise AssertionError(f'The build should need no network, but asked for {arguments}')


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, 'getaddrinfo', refuse)
        status = build_main(['-qWE', '--keep-going', '-d', str(folder / 'doctrees'),
                             str(ROOT / 'docs'), str(folder / 'html')])
    assert status == 0
    return folder / 'html'


def test_pages_show_what_docstrings_say(site):
    page = (site / 'api/models.html').read_text()
    assert 'id="mmdpad.models.decoders.BoxDecoder"' in page
    assert 'Fill the boxes of N objects of one image' in page


def test_pages_take_in_the_readmes_of_configs(site):
    page = (site / 'configs.html').read_text()
    assert 'qwen7b_sam3_reasonseg.py' in page and 'href="decoders.html"' in page
    assert '{include}' not in page


def test_no_page_loads_anything_from_elsewhere(site):
    for page in site.rglob('*.html'):
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"|'
                            r'<link [^>]*rel="(?:stylesheet|preload|icon)"[^>]*href="([^"]+)"',
                            page.read_text())
        assert not any('//' in ''.join(address) for address in loaded), page.name


def test_every_image_is_in_the_site(site):
    for page in site.rglob('*.html'):
        for path in re.findall(r'<img[^>]* src="([^":]+)"', page.read_text()):
            assert (page.parent / path).is_file(), f'{page.name}: {path}'
