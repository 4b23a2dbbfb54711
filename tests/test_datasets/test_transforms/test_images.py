# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mmdpad.datasets import DatasetError
from mmdpad.datasets.transforms import probe_image, probe_image_bytes, read_image, to_rgb

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
    grey = Image.fromarray(np.array([[[40, 255], [40, 0]]], np.uint8), mode='LA')
    assert to_rgb(grey).tolist() == [[[40] * 3, [255] * 3]]
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
    with pytest.raises(ValueError, match='should have up to 16 bits a channel, but got mode'):
        to_rgb(image)
    image.save(tmp_path / 'a.tif')
    with pytest.raises(DatasetError, match=r'a\.tif cannot be decoded .*up to 16 bits'):
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
