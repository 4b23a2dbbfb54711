# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import io
import os
import random
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mmdpad.datasets import DatasetError
from mmdpad.datasets.images import FORMATS, MAX_PIXELS
from mmdpad.datasets.transforms import (
    LoadReasoningImage,
    ProbeReasoningImage,
    probe_image,
    probe_image_bytes,
    read_image,
    to_rgb,
)
from mmdpad.geometry.masks import MOST_PIXELS

ORIENTATION = 0x0112


def probe_content(path):
    return probe_image_bytes(path.read_bytes(), str(path))


def test_rgb_stays_as_it_is():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    result = to_rgb(Image.fromarray(pixels))
    assert result.dtype == np.uint8 and result.flags.writeable
    np.testing.assert_array_equal(result, pixels)


@pytest.mark.parametrize(('orientation', 'corner', 'shape'), [
    (1, (0, 0), (4, 6)),
    (2, (0, 5), (4, 6)),
    (3, (3, 5), (4, 6)),
    (4, (3, 0), (4, 6)),
    (5, (0, 0), (6, 4)),
    (6, (0, 3), (6, 4)),
    (7, (5, 3), (6, 4)),
    (8, (5, 0), (6, 4)),
])
def test_exif_orientations(orientation, corner, shape, tmp_path):
    """``corner`` is the (row, column) at which the stored first pixel is shown."""
    stored = np.zeros((4, 6, 3), np.uint8)
    stored[0, 0] = 200, 100, 50
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for suffix in ('.png', '.jpg'):
        path = tmp_path / f'a{suffix}'
        Image.fromarray(stored).save(path, exif=exif)
        assert probe_image(path) == probe_content(path) == shape
        assert read_image(path).shape == (*shape, 3)
    assert read_image(tmp_path / 'a.png')[corner].tolist() == [200, 100, 50]


def test_a_png_may_say_behind_its_pixels_how_it_is_turned(tmp_path):
    exif, path = Image.Exif(), tmp_path / 'a.png'
    exif[ORIENTATION] = 6
    Image.new('RGB', (6, 4)).save(path, exif=exif)
    raw = path.read_bytes()
    start = raw.index(b'eXIf') - 4
    end = start + 12 + int.from_bytes(raw[start:start + 4], 'big')
    path.write_bytes(raw[:start] + raw[end:-12] + raw[start:end] + raw[-12:])
    assert probe_image(path) == probe_content(path) == read_image(path).shape[:2] == (6, 4)


@pytest.mark.parametrize('keyword', ['Raw profile type exif', 'XML:com.adobe.xmp'])
def test_a_png_may_say_in_text_how_it_is_turned(keyword, tmp_path):
    exif, info, path = Image.Exif(), PngImagePlugin.PngInfo(), tmp_path / 'a.png'
    exif[ORIENTATION] = 6
    if keyword.startswith('XML'):
        info.add_itxt(keyword, '<x tiff:Orientation="6"/>', zip=True)
    else:
        info.add_text(keyword, f'\nexif\n32\n{exif.tobytes().hex()}', zip=True)
    Image.new('RGB', (6, 4)).save(path, pnginfo=info)
    assert probe_image(path) == probe_content(path) == read_image(path).shape[:2] == (6, 4)


def test_the_pixels_of_other_pngs_are_not_decoded_for_their_size(tmp_path):
    path = tmp_path / 'a.png'
    Image.new('RGB', (6, 4)).save(path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b'IDAT') + 8] ^= 255
    path.write_bytes(raw)
    assert probe_image(path) == probe_content(path) == (4, 6)
    with pytest.raises(DatasetError, match='cannot be decoded'):
        read_image(path)


def test_transparency_is_laid_over_white():
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    shown = to_rgb(Image.fromarray(pixels))
    # 51 of 255 is a fifth of black on white.
    assert shown.tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]


def test_grey_with_alpha_and_palettes_with_a_clear_colour(tmp_path):
    gray = Image.fromarray(np.array([[[40, 255], [40, 0]]], np.uint8), mode='LA')
    assert to_rgb(gray).tolist() == [[[40] * 3, [255] * 3]]
    palette = Image.new('P', (2, 1))
    palette.putpalette([1, 2, 3, 4, 5, 6])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / 'a.png', transparency=0)
    assert read_image(tmp_path / 'a.png').tolist() == [[[255] * 3, [4, 5, 6]]]


def test_grey_becomes_three_equal_channels():
    assert to_rgb(Image.fromarray(np.array([[7]], np.uint8))).tolist() == [[[7, 7, 7]]]
    assert to_rgb(Image.new('1', (1, 1), 1)).tolist() == [[[255, 255, 255]]]


def test_16_bit_grey_is_scaled_not_cut_off():
    # Divided by 257: 200 gives 0.78, 32768 gives 127.5 and a little.
    values = np.array([[0, 200, 32768, 65535]], np.uint16)
    expected = [[[v] * 3 for v in (0, 1, 128, 255)]]
    assert to_rgb(Image.fromarray(values)).tolist() == expected
    assert to_rgb(Image.fromarray(values.astype(np.int32))).tolist() == expected


def test_cmyk_is_converted():
    pixel = to_rgb(Image.new('CMYK', (1, 1), (0, 255, 255, 0)))[0, 0]
    assert pixel.tolist() == [255, 0, 0]


@pytest.mark.parametrize('image', [
    Image.new('F', (2, 2), 0.5), Image.new('I', (2, 2), 70000)
])
def test_values_of_unknown_range_are_refused(image, tmp_path):
    with pytest.raises(ValueError, match='should have at most 16 bits per channel, but got mode'):
        to_rgb(image)
    image.save(tmp_path / 'a.tif')
    with pytest.raises(DatasetError, match=r'a\.tif cannot be decoded .*at most 16 bits'):
        read_image(tmp_path / 'a.tif')


@pytest.mark.parametrize('name', ['cat.jpeg', 'coins.png', 'flower.png'])
@pytest.mark.parametrize('kept', [0, 30, 0.5, 0.98])
def test_truncated_files_are_named_by_both(name, kept, photos, tmp_path):
    raw = (photos / 'val' / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(raw[:kept if isinstance(kept, int) else int(len(raw) * kept)])
    for function in (read_image, probe_image, probe_content):
        with pytest.raises(DatasetError, match=f'{name} cannot be decoded as an image .*intact'):
            function(path)


@pytest.mark.parametrize('name', ['cat.jpeg', 'coins.png'])
def test_bytes_after_the_image_do_no_harm(name, photos, tmp_path):
    path = tmp_path / name
    path.write_bytes((photos / 'val' / name).read_bytes() + b'\0' * 50)
    assert probe_image(path) == probe_content(path) == read_image(path).shape[:2]


def test_a_missing_file_is_named(tmp_path):
    for function in (read_image, probe_image):
        with pytest.raises(DatasetError, match=r'gone\.jpg does not exist; correct the path'):
            function(tmp_path / 'gone.jpg')


def png(width: int, height: int) -> bytes:
    """A gray PNG whose header says its size, and that has no pixels."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return (struct.pack('>I', len(data)) + name + data
                + struct.pack('>I', zlib.crc32(name + data)))
    return (b'\x89PNG\r\n\x1a\n'
            + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b''))


@pytest.mark.promise('Files', 'An image of more pixels than the limit (a decompression bomb)',
                     'an error by its header that names file, size, limit and config field; '
                     'nothing is decoded')
@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('width, height, limit, told', [
    (30, 21, 600, '0.0006 megapixels, but is 30 x 21'), (10000, 8948, None, 'is 10000 x 8948'),
    (60000, 60000, None, 'is far larger'), (2**31 - 1, 2**31 - 1, MOST_PIXELS, 'is far larger')])
def test_a_bomb_is_not_decoded(width, height, limit, told, tmp_path, monkeypatch, tried):
    monkeypatch.setattr('PIL.ImageFile.ImageFile.load', lambda self: pytest.fail('decoded'))
    path, limits = tmp_path / 'a.png', {} if limit is None else dict(max_pixels=limit)
    path.write_bytes(png(width, height))
    readers = (lambda: read_image(path, **limits), lambda: probe_image(path, **limits),
               lambda: LoadReasoningImage(**limits)(dict(img_path=path)),
               lambda: ProbeReasoningImage(**limits)(dict(img_path='a.png',
                                                          img_bytes=path.read_bytes())))
    tracemalloc.start()
    for read in readers:
        with pytest.raises(DatasetError, match=f'a.png should have at most .*{told}; make it '
                           'smaller, or set `LoadReasoningImage.max_pixels') as caught:
            read()
        assert caught.value.kind == 'too large image'
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()
    tried('sizes up to the largest that the format can state, by path and by bytes')


@pytest.mark.parametrize('limit', [0, -1, MOST_PIXELS + 1, 1e6, '9', True, None])
def test_a_limit_is_an_integer_that_pillow_can_hold(limit):
    for step in (LoadReasoningImage, ProbeReasoningImage):
        with pytest.raises(ValueError, match='`max_pixels` should be an integer from 1 to'):
            step(limit)
    assert LoadReasoningImage().max_pixels == MAX_PIXELS == Image.MAX_IMAGE_PIXELS


@pytest.mark.promise('Files', 'An image of extreme shape: 1 x 1, or a side of 20,000',
                     'it is read as it is')
@pytest.mark.parametrize('size', [(1, 1), (20000, 1), (1, 20000), (20000, 40)])
def test_odd_shapes_are_read(size, tmp_path, tried):
    for suffix in ('png', 'jpg', 'tif', 'bmp'):
        path = tmp_path / f'a.{suffix}'
        Image.new('RGB', size, (200, 200, 200)).save(path)
        assert probe_image(path) == size[::-1] and read_image(path).shape == (*size[::-1], 3)
    tried('4 shapes in 4 formats')


@pytest.mark.promise('Files',
                     'A format whose reader runs a program (EPS), or that is not supported',
                     'not opened; the error names the file and the supported formats')
def test_other_formats_are_not_even_looked_at(tmp_path, monkeypatch, tried):
    """For an EPS file Pillow calls `gs`."""
    ghost = tmp_path / 'bin' / 'gs'
    ghost.parent.mkdir()
    ghost.write_text(f'#!/bin/sh\ntouch {tmp_path}/fired\n')
    ghost.chmod(0o755)
    monkeypatch.setenv('PATH', f'{ghost.parent}:{os.environ["PATH"]}')
    monkeypatch.setattr('PIL.EpsImagePlugin.gs_binary', None)
    path = tmp_path / 'photo.jpg'
    Image.new('RGB', (4, 4)).save(path, 'EPS')
    others = {'EPS': path.read_bytes()}
    for name in ('PCX', 'SGI', 'TGA', 'ICO', 'IM', 'PDF', 'DDS'):
        Image.new('RGB', (16, 16)).save(path, name)
        others[name] = path.read_bytes()
    for content in others.values():
        path.write_bytes(content)
        for read in (read_image, probe_image, probe_content):
            with pytest.raises(DatasetError, match='photo.jpg cannot be decoded.*JPEG, PNG, WEBP'):
                read(path)
    assert not (tmp_path / 'fired').exists()
    path.write_bytes(others['EPS'])
    with pytest.raises(OSError), Image.open(path) as image:
        image.load()
    assert (tmp_path / 'fired').exists()
    tried(', '.join(others))


def test_the_content_decides_not_the_suffix(tmp_path):
    for name in FORMATS:
        Image.new('RGB', (6, 4), 'white').save(tmp_path / 'a.jpg', name)
        assert read_image(tmp_path / 'a.jpg').shape == (4, 6, 3), name


@pytest.mark.parametrize('name', ['GIF', 'PNG', 'WEBP', 'TIFF'])
def test_of_an_animation_the_first_frame_is_read(name, tmp_path):
    frames = [Image.new('RGB', (6, 4), color) for color in ('white', 'black')]
    frames[0].save(tmp_path / 'a.img', name, save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / 'a.img') == 255).all()
    assert probe_image(tmp_path / 'a.img') == (4, 6)


@pytest.mark.promise('Files', 'A damaged image, in any format',
                     'it is read, or one kind of error names it')
@pytest.mark.parametrize('count', [60, pytest.param(20000, marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', FORMATS)
@pytest.mark.filterwarnings('ignore')
def test_damage_anywhere_is_one_kind_of_error(name, count, tried):
    buffer, rng = io.BytesIO(), random.Random(count)
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010e], exif[0x011a] = 6, 'a text', 72.0
    Image.fromarray(pixels).save(buffer, name, **(
        dict(exif=exif) if name in ('JPEG', 'PNG', 'WEBP', 'TIFF') else {}))
    good, refused = buffer.getvalue(), 0
    for i in range(count):
        content = bytearray(good)
        if i % 3:
            # Most of what can go wrong stands at the start.
            last = rng.choice((60, 300, len(content)))
            for _ in range(1 + i % 4):
                content[rng.randrange(min(last, len(content)))] = rng.randrange(256)
        else:
            del content[rng.randrange(len(content)):]
        for read in (probe_image_bytes, _decode_bytes):
            try:
                read(bytes(content), 'shard, row 3')
            except DatasetError as error:
                refused += 1
                assert 'shard, row 3' in str(error)
    assert refused
    tried(f'{count} damaged files of each of {len(FORMATS)} formats')


def _decode_bytes(data: bytes, name: str) -> None:
    LoadReasoningImage(10**6)(dict(img_bytes=data, img_path=name))
