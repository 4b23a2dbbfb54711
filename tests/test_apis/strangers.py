# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What people send to a page who do not mean well, or do not know better."""
import io
import json
import struct
import zlib
from pathlib import Path

from PIL import Image
from visitors import ASK, FORM, JSON, form

from mmdpad.toy import POLICY_WEIGHTS

NO_IMAGE = 'cannot be read as an image'


def header_only(width, height):
    """A PNG file that promises pixels and has none."""
    def chunk(name, data):
        return (struct.pack('>I', len(data)) + name + data
                + struct.pack('>I', zlib.crc32(name + data)))
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0,
                                                              0, 0))
            + chunk(b'IDAT', zlib.compress(b'0')) + chunk(b'IEND', b''))


def encoded(kind, **options):
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, kind, **options)
    return file.getvalue()


BAD_FILES = {
    'empty': (b'', NO_IMAGE), 'text': (b'hello', NO_IMAGE),
    'truncated PNG': (encoded('PNG')[:1000], NO_IMAGE),
    'truncated JPEG': (encoded('JPEG')[:500], NO_IMAGE),
    'PNG without pixels': (header_only(30, 20), NO_IMAGE),
    '41 megapixels': (header_only(8200, 5000), 'should have at most 40 megapixels'),
    'bomb': (header_only(60000, 60000), 'far larger'),
    'EPS': (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', NO_IMAGE),
    'SVG': (b'<svg xmlns="http://www.w3.org/2000/svg"/>', NO_IMAGE),
    'HTML': (b'<html><script>alert(1)</script></html>', NO_IMAGE),
    'PDF': (b'%PDF-1.4\n', NO_IMAGE), 'zip': (b'PK\x03\x04', NO_IMAGE),
    'TGA': (encoded('TGA'), NO_IMAGE),
    '65 MB': (bytes(65 * 2**20), 'exceeded maximum allowed size')}
FILE_NAMES = ['image.png', '../../x.png', '/etc/cron.d/x', '.', '', 'a\0b.png', '..\\..\\x.png',
              'x' * 300 + '.png', 'C:\\x.png', '%2e%2e%2fx.png', '<script>.html', 'x.svg',
              '~/.bashrc', '.hidden', 'CON', '日本.png', ' ', '/', b'\xed\xa0\x80.png']


def body(**items):
    return json.dumps(items).encode()


def question(*data, fn_index=ASK, session='nobody'):
    return body(fn_index=fn_index, session_hash=session, data=data)


API = '/gradio_api/'
NOT_THERE = {403, 404}
# Path, body (None for GET), headers, status; 500 is gradio's own answer to functions, examples and
# parts of forms that are not there.
REQUESTS = [
    *((API + 'queue/join', text, JSON, {400, 422}) for text in (
        b'', b'{', b'[]', b'null', b'\xff\xfe', question(None, '', session=None),
        question(None, '', fn_index='x'))),
    *((API + 'queue/join', question(None, '', fn_index=number), JSON, {500, 503})
      for number in (99, -1)),
    *((API + 'queue/join', text, JSON, {200, 503}) for text in (
        question(), question(1, 2, 3), question(dict(path=5), 'x'), question([], {}))),
    (API + 'queue/join', question(None, 'x' * 2 * 10**6), JSON, {413}),
    (API + 'run/predict', question(None, ''), JSON, {404}),
    (API + 'run/pick', body(data=[99]), JSON, {500}),
    *((API + path, body(data=[None, '']), JSON, NOT_THERE) for path in (
        'call/run', 'call/v2/run', 'login', 'something_else')),
    (API + 'something_else', form(b'x', 'x.mp4', 'video'), FORM, NOT_THERE),
    (API + 'cancel', body(session_hash='nobody', fn_index=ASK, event_id='x'), JSON, {200}),
    (API + 'upload', b'x', {}, {400}), (API + 'upload', b'x', FORM, {400}),
    (API + 'upload', form(b'x', '..'), FORM, {400}),
    (API + 'upload', form(b'x', 'x', 'other'), FORM, {200}),
    (API + 'upload', form(b'x', 'x')[:-20], FORM, {200}),
    (API + 'upload', form(b'x', 'a\r\nb'), FORM, {400, 413}),
    *((path, None, {}, NOT_THERE) for path in (
        '/etc/passwd', '/../../etc/passwd', '/static/%2e%2e/x', '/monitoring/summary', API + 'runs',
        API + 'upload_progress?upload_id=x', API + 'file=http://127.0.0.1/'))]


def paths_elsewhere(upload, port):
    """What a question may name in place of an upload and must not read.

    Args:
        upload: Somebody's, by its full path.
        port: Of this machine, which nobody may be made to connect to.
    """
    folder = upload.rsplit('/', 2)[0]
    return [
        '/etc/passwd', '../../../../etc/passwd', '~/.bashrc', 'setup.py', str(Path.cwd()),
        __file__, POLICY_WEIGHTS, f'{folder}/../../../../../../../etc/passwd', folder,
        f'{folder}/', f'{folder}x/image.png', f'{upload}x',
        '/dev/null', f'http://127.0.0.1:{port}/image.png',
        f'http://localhost:{port}/', f'https://127.0.0.1:{port}/', f'HTTP://127.0.0.1:{port}/',
        f'//127.0.0.1:{port}/', f'http:/127.0.0.1:{port}/', 'file:///etc/passwd',
        f'ftp://127.0.0.1:{port}/', 'data:image/png;base64,AA', '', 'a\0b', 'x' * 5000, 5, [], {}]
