# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Mask files as Pillow, OpenCV, annotation tools and data sets write them, written at run time."""
from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from PIL.PngImagePlugin import PngInfo

from mmdpad.datasets import DatasetError
from mmdpad.datasets.mask_images import MaskImage, read_mask_image

HEIGHT, WIDTH = 40, 60
SHAPE = np.zeros((HEIGHT, WIDTH), bool)
SHAPE[10:20, 10:30] = True  # 200 of 2,400 pixels
WHITE = SHAPE * np.uint8(255)


def voc_palette() -> np.ndarray:
    """Pascal VOC's colors: bit 3i + c of an index is bit 7 - i of channel c."""
    index = np.arange(256)
    return np.stack([sum((index >> 3 * i + channel & 1) << 7 - i for i in range(8))
                     for channel in range(3)], axis=1)


VOC = voc_palette()
DAVIS = np.where(np.arange(256)[:, None] < 22, VOC, np.arange(256)[:, None])
YOUTUBE_VOS = np.array([[0, 0, 0], [236, 95, 103], [249, 145, 87], [250, 200, 99]])


def palette(values: np.ndarray, colors: np.ndarray | list) -> Image.Image:
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(np.array(colors, np.uint8).ravel().tolist())
    return image


def rgba(colors: int | np.ndarray, alpha: np.ndarray) -> Image.Image:
    gray = np.broadcast_to(np.uint8(colors), alpha.shape)
    return Image.fromarray(np.stack([gray] * 3 + [alpha], axis=2))


def polygon(scale: int = 1, seed: int = 1) -> Image.Image:
    """A white polygon in 320 x 240 pixels; larger scales give smoother edges."""
    rng = np.random.default_rng(seed)
    angles, radii = np.sort(rng.uniform(0, 2 * np.pi, 12)), rng.uniform(40, 90, (12, 1))
    points = [160, 120] + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    image = Image.new('L', (320 * scale, 240 * scale))
    ImageDraw.Draw(image).polygon([tuple(point * scale) for point in points], fill=255)
    return image.resize((320, 240), Image.Resampling.BOX)


@pytest.fixture
def read(tmp_path) -> Callable[..., MaskImage]:
    """Save an image as a PNG file, or in another format under that name, and read it."""
    def read(image: Image.Image | np.ndarray | bytes, index_masks: bool = False,
             format: str = 'PNG', **options) -> MaskImage:
        path = tmp_path / 'a.png'
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
            image.save(path, format, **options)
        with Image.open(path) as stored:
            width, height = stored.size
        return read_mask_image(path, height, width, index_masks)
    return read


@pytest.fixture
def refusal(read) -> Callable[..., str]:
    def refusal(*args, **kwargs) -> str:
        with pytest.raises(DatasetError) as caught:
            read(*args, **kwargs)
        return str(caught.value)
    return refusal


RED = np.stack([WHITE, WHITE * 0, WHITE * 0], axis=2)
BY_PILLOW = {
    'L': Image.fromarray(WHITE), 'L of 1': Image.fromarray(WHITE // 255),
    '1': Image.fromarray(SHAPE), 'RGB': Image.fromarray(RED),
    'LA': Image.merge('LA', [Image.fromarray(WHITE), Image.new('L', (WIDTH, HEIGHT), 255)]),
    'I;16': Image.fromarray(WHITE.astype(np.uint16) * 257),
    'I;16 of 255': Image.fromarray(WHITE.astype(np.uint16)),
    'P': Image.fromarray(WHITE).convert('P'), 'web palette': Image.fromarray(RED).convert('P'),
    'quantize, L': Image.fromarray(WHITE).quantize(2),
    'quantize, RGB': Image.fromarray(RED).quantize(2),
    'adaptive': Image.fromarray(RED).convert('P', palette=Image.Palette.ADAPTIVE, colors=2),
    'entry 0 is unused': palette(SHAPE * 2 + 1, [[9, 9, 9], [0, 0, 0], [9, 9, 9], [255, 0, 0]]),
    'two black entries last': palette(np.where(SHAPE, 0, 1 + np.indices(SHAPE.shape)[1] % 2),
                                      [[255, 255, 255], [0, 0, 0], [0, 0, 0]]),
    'constant alpha': rgba(WHITE, WHITE * 0 + 128),
    'alpha alone, white': rgba(255, WHITE), 'alpha alone, black': rgba(0, WHITE),
    'alpha alone, half': rgba(255, WHITE // 2), 'colors under alpha 0': rgba(
        np.random.default_rng(0).integers(1, 255, SHAPE.shape), WHITE),
    'both': rgba(WHITE, WHITE),
}


@pytest.mark.parametrize('name', BY_PILLOW)
def test_what_pillow_writes(read, name):
    mask = read(BY_PILLOW[name])
    np.testing.assert_array_equal(mask.marked, SHAPE)
    assert not mask.void.any()


@pytest.mark.parametrize('name, options', [
    ('transparent entry', dict(transparency=0)),
    ('transparent gray', dict(transparency=0)), ('transparent color', dict(transparency=(0, 0, 9))),
    ('transparent 16 bits', dict(transparency=0))])
def test_a_transparent_value_is_background(read, name, options):
    image = {'transparent entry': palette(SHAPE, [[90, 90, 90], [255, 0, 0]]),
             'transparent gray': Image.fromarray(WHITE),
             'transparent color': Image.fromarray(np.where(SHAPE[..., None], 99, [0, 0, 9]).astype(
                 np.uint8)),
             'transparent 16 bits': Image.fromarray(WHITE.astype(np.uint16))}[name]
    np.testing.assert_array_equal(read(image, **options).marked, SHAPE)


@pytest.mark.parametrize('name, array, options', [
    ('gray', WHITE, []), ('three channels', np.stack([WHITE] * 3, axis=2), []),
    ('16 bits', WHITE.astype(np.uint16) * 256, []), ('bilevel', WHITE, [cv2.IMWRITE_PNG_BILEVEL,
                                                                              1]),
    ('BGRA', np.stack([WHITE, WHITE, WHITE, WHITE * 0 + 255], axis=2), [])])
def test_what_opencv_writes(read, name, array, options):
    ok, data = cv2.imencode('.png', array, options)
    assert ok
    np.testing.assert_array_equal(read(data.tobytes()).marked, SHAPE)


OBJECT_2 = np.zeros_like(SHAPE)
OBJECT_2[30:35, 40:50] = True
INDEX = SHAPE + OBJECT_2 * np.uint8(2)
BY_TOOLS = {
    'labelme2voc': palette(INDEX, VOC), 'VOC SegmentationObject': palette(INDEX, VOC),
    'DAVIS': palette(INDEX, DAVIS), 'YouTube-VOS': palette(INDEX, YOUTUBE_VOS),
    'DAVIS, stored in 4 bits': palette(INDEX, DAVIS[:16]),
    'Supervisely, machine masks': Image.fromarray(np.stack([INDEX] * 3, axis=2)),
    'Label Studio, gray numbers': Image.fromarray(INDEX),
    'gray palette': palette(INDEX, [[0] * 3, [100] * 3, [200] * 3]),
    'pngquant, rarest last': palette(np.array([2, 1, 0])[INDEX],
                                     [[0, 99, 0], [128, 0, 0], [0, 0, 0]]),
    'instance numbers, 16 bits': Image.fromarray(INDEX.astype(np.uint16) * 13001),
}


@pytest.mark.parametrize('name', BY_TOOLS)
def test_what_annotation_tools_number(read, name):
    np.testing.assert_array_equal(read(BY_TOOLS[name]).marked, INDEX > 0)
    found = list(read(BY_TOOLS[name], index_masks=True).objects())
    expected = [SHAPE, OBJECT_2] if 'rarest' not in name else [OBJECT_2, SHAPE]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('colors', [
    [[250, 50, 83], [51, 221, 255]],  # CVAT
    [[128, 0, 0], [0, 128, 0]],  # CVAT and Datumaro, VOC's colors
    [[120, 10, 1], [120, 10, 2]],  # ADE20K: class in red and green, object in blue
])
def test_colors_of_annotation_tools(read, refusal, colors):
    image = Image.fromarray(np.array([[0, 0, 0], *colors], np.uint8)[INDEX])
    np.testing.assert_array_equal(read(image).marked, INDEX > 0)
    assert 'has colors; save it as a gray or palette image' in refusal(image, index_masks=True)


def test_void_of_voc_is_neither_object_nor_background(read):
    border = np.zeros_like(SHAPE)
    border[8:22, 8:32] = True
    border &= ~SHAPE
    numbers = SHAPE * np.uint8(15) + border * np.uint8(255)
    for image in (palette(numbers, VOC), Image.fromarray(VOC.astype(np.uint8)[numbers])):
        mask = read(image)
        np.testing.assert_array_equal(mask.marked, SHAPE)
        np.testing.assert_array_equal(mask.void, border)
    mask = read(palette(numbers, VOC), index_masks=True)
    np.testing.assert_array_equal(list(mask.objects()), [SHAPE])
    np.testing.assert_array_equal(mask.void, border)
    alone = read(palette(WHITE, VOC))  # an object saved as 255
    assert (alone.marked == SHAPE).all() and not alone.void.any()


def test_void_of_voc_beside_transparency(read):
    border = np.zeros_like(SHAPE)
    border[8:22, 8:32] = True
    border &= ~SHAPE
    numbers = SHAPE * np.uint8(15) + border * np.uint8(255)
    colored = VOC.astype(np.uint8)[numbers]
    clear = Image.fromarray(np.dstack([colored, np.where(numbers, 255, 0).astype(np.uint8)]))
    for image, index_masks, options in (
            (palette(numbers, VOC), False, dict(transparency=0)),
            (palette(numbers, VOC), True, dict(transparency=bytes([0, *[255] * 255]))),
            (clear, False, {})):
        mask = read(image, index_masks, **options)
        np.testing.assert_array_equal(mask.marked, SHAPE)
        np.testing.assert_array_equal(mask.void, border)
    photo = np.random.default_rng(0).integers(1, 255, (*SHAPE.shape, 3), dtype=np.uint8)
    photo[12, 12] = 224, 224, 192  # a color of a photograph that is cut out
    mask = read(Image.fromarray(np.dstack([photo, WHITE])))
    np.testing.assert_array_equal(mask.marked, SHAPE)


def test_voids_color_at_another_entry_of_a_palette_is_void(read):
    colors = [[0, 0, 0], [128, 0, 0], [224, 224, 192]]
    mask = read(palette(INDEX, colors))
    np.testing.assert_array_equal(mask.marked, SHAPE)
    np.testing.assert_array_equal(mask.void, OBJECT_2)


def test_both_readings_are_in_the_message(refusal):
    assert refusal(palette(SHAPE, [[120, 120, 120], [6, 230, 230]])).endswith(
        'a.png can be read in several ways, since it uses no black entry of its palette: '
        'of its 2,400 pixels the object would have 200 by "all entries of its palette but 0", '
        '2,400 by "everything not black"; save the numbers, '
        '`Image.fromarray(np.asarray(image))`, or the colors, `image.convert("L")`, with 0 for '
        'the background')


@pytest.mark.parametrize('image, message', [
    (palette(SHAPE * 0, [[255, 0, 0]]), '0 by "all entries of its palette but 0", 2,400 by'),
    (palette(INDEX, [[0, 0, 0], [255, 0, 0], [0, 0, 0]]),
     'entries 0, 2 of its palette are black: of its 2,400 pixels the object would have 250 by "all '
     'entries of its palette but 0", 200 by'),
    (Image.fromarray(SHAPE * np.uint8(15) + OBJECT_2 * np.uint8(255)),
     '255 next to 15 may be void, an object or a bright pixel next to noise'),
    (Image.fromarray(SHAPE * np.uint8(255) + OBJECT_2 * np.uint8(128)),  # a trimap: 128 is unknown
     '255 next to 128 may be'),
    (Image.fromarray(INDEX + np.uint8(1)), 'none of its pixels is black'),  # Oxford pets' trimaps
    (Image.fromarray(np.array([[9, 9, 9], [255, 0, 0]], np.uint8)[SHAPE * 1]), 'none of its pixels '
     'is black'),
    (rgba(WHITE, 255 - WHITE), '2,200 by "everything visible", 0 by "everything visible '
     'and not black", 200 by "everything not black"'),
    (rgba(WHITE, WHITE | INDEX * 100), '250 by "everything visible", 200 by'),
    (rgba(WHITE, WHITE * 0), '0 by "everything visible", 0 by "everything visible and not '
     'black", 200'),
    (Image.fromarray(SHAPE.astype(np.float32)), 'has floating-point values'),
    (Image.fromarray(-SHAPE.astype(np.int32)), 'has -1 to 0'),
    (Image.fromarray(SHAPE * np.int32(70000)), 'has 0 to 70000'),
])
def test_what_can_be_read_in_several_ways_is_refused(refusal, image, message):
    assert message in refusal(image, format='TIFF' if image.mode in 'FI' else 'PNG')


def test_colors_of_16_bits_are_refused(refusal):
    """Pillow keeps their upper 8 bits, so that numbers become 0."""
    ok, data = cv2.imencode('.png', np.stack([SHAPE.astype(np.uint16)] * 3, axis=2))
    assert ok and 'has 16-bit colors' in refusal(data.tobytes())


@pytest.mark.parametrize('quality', [30, 75, 95, 100])
@pytest.mark.parametrize('mode', ['L', 'RGB', 'CMYK'])
def test_a_jpeg_under_the_name_of_a_png(read, refusal, quality, mode):
    image = polygon()
    truth = np.asarray(image) > 0
    stored = image.convert('RGB').convert(mode)
    mask = read(stored, format='JPEG', quality=quality)
    assert (mask.marked != truth).sum() <= 2 and not mask.void.any()
    assert 'as in a mask with soft edges' in refusal(stored, index_masks=True, format='JPEG',
                                                     quality=quality)


def test_jpeg_does_not_keep_numbers(refusal):
    assert 'JPEG does not preserve values' in refusal(Image.fromarray(INDEX), format='JPEG')


SOFT = {
    'anti-aliased': lambda: polygon(4),
    'blurred': lambda: polygon().filter(ImageFilter.GaussianBlur(2)),
    'enlarged': lambda: polygon().resize((80, 60), Image.Resampling.BOX).resize(
        (320, 240), Image.Resampling.BICUBIC),
    'dim': lambda: polygon(4).point(lambda value: value * 100 // 255),
    '16 bits': lambda: Image.fromarray(np.asarray(polygon(4)).astype(np.uint16) * 257),
    'red': lambda: Image.merge('RGB', [polygon(4), Image.new('L', (320, 240)),
                                       Image.new('L', (320, 240))]),
    'palette': lambda: polygon(4).quantize(16),
    'alpha': lambda: Image.merge('LA', [Image.new('L', (320, 240), 255), polygon(4)]),
}


@pytest.mark.parametrize('name', SOFT)
def test_soft_edges_are_cut_at_half(read, refusal, name):
    """All that is not 0 would be a pixel larger on every side, about 200 of 10,000 here."""
    image = SOFT[name]()
    shown = {'alpha': lambda: image.getchannel('A'), 'red': lambda: image.getchannel('R'),
             'palette': lambda: image.convert('L')}.get(name, lambda: image)()
    soft = np.asarray(shown).astype(int)
    expected = soft > soft.max() // 2
    assert (soft > 0).sum() > expected.sum() + 100
    np.testing.assert_array_equal(read(image).marked, expected)
    if name == 'red':
        assert 'has colors' in refusal(image, index_masks=True)
    elif name != 'alpha':
        assert 'as in a mask with soft edges' in refusal(image, index_masks=True)


def test_a_photograph_is_no_mask(refusal):
    photo = Path(__file__).parents[1] / 'data/photos/val/cat.jpeg'
    with Image.open(photo) as image:
        assert 'several ways' in refusal(image.convert('RGB'))
        assert 'several ways' in refusal(image.convert('L'))
        assert 'several ways' in refusal(image.convert('RGB').quantize(64), index_masks=True)


def test_soft_edges_enlarged_by_copies_are_refused(refusal):
    """Their values fill squares as objects do, but nobody draws so many shades."""
    small = polygon(4).resize((80, 60), Image.Resampling.BOX)
    assert 'may be objects or shades of one' in refusal(
        small.resize((320, 240), Image.Resampling.NEAREST))


def test_shades_of_gray_are_objects(read):
    image = Image.fromarray(INDEX * np.uint8(85) + np.uint8(85) * (INDEX > 0))  # 170 and 255
    image.putpixel((0, 0), 85)
    assert read(image).marked.sum() == 251
    assert [mask.sum() for mask in read(image, index_masks=True).objects()] == [1, 200, 50]


def test_objects_may_be_thin(read):
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number in range(1, 8):
        numbers[5 * number] = number  # one pixel high
    for image in (Image.fromarray(numbers), palette(numbers, VOC)):
        assert read(image).marked.sum() == 7 * WIDTH
        assert len(list(read(image, index_masks=True).objects())) == 7


def test_a_mask_that_fills_its_image_and_one_of_background(read):
    for image in (Image.new('L', (60, 40), 255), Image.new('L', (60, 40), 1),
                  Image.new('RGB', (60, 40), 'red'), palette(SHAPE * 0 + 3, VOC)):
        assert read(image).marked.all()
    for image in (Image.new('1', (60, 40)), palette(SHAPE * 0, VOC), rgba(0, WHITE * 0),
                  Image.new('RGB', (60, 40)).quantize(2)):
        assert not read(image).marked.any()
        assert not list(read(image, index_masks=True).objects())


def test_a_mask_is_turned_by_its_own_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is on the right
    Image.fromarray(WHITE).save(tmp_path / 'a.png', exif=exif)
    mask = read_mask_image(tmp_path / 'a.png', WIDTH, HEIGHT)
    np.testing.assert_array_equal(mask.marked, np.rot90(SHAPE, -1))


def test_text_and_animation_do_not_matter(read):
    about = PngInfo()
    about.add_text('Software', 'x')
    np.testing.assert_array_equal(read(Image.fromarray(WHITE), pnginfo=about).marked, SHAPE)
    buffer = io.BytesIO()
    Image.fromarray(WHITE).save(buffer, 'GIF')
    np.testing.assert_array_equal(read(buffer.getvalue()).marked, SHAPE)
