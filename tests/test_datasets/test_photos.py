# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Real photographs through the full pipeline: whatever the file format, frames must agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image

from mmdpad.datasets import ReasonSegDataset
from mmdpad.geometry.coordinates import scale_boxes, scale_points

# Upright (height, width), and what the file is: its mode (of 16 bits: I) and EXIF orientation.
FILES = {
    'astronaut.jpg': ((512, 340), 'RGB', None),
    'cameraman.jpg': ((512, 512), 'L', None),
    'cat.jpeg': ((100, 150), 'RGB', None),
    'coffee.jpg': ((400, 600), 'RGB', None),
    'coins.png': ((152, 384), 'I', None),
    'flower.png': ((214, 320), 'RGBA', None),
    'helmet.jpg': ((177, 242), 'CMYK', None),
    'masts.jpg': ((427, 640), 'RGB', None),
    'pagoda.jpg': ((205, 640), 'RGB', None),
    'rocket.jpg': ((320, 180), 'RGB', 6),
}
NAMES = sorted(name.split('.')[0] for name in FILES)
SIZES = (840, 112)


def load(root, size: int) -> dict[str, dict]:
    pipeline = [
        dict(type='LoadReasoningImage'),
        dict(type='LoadReasonSegMask'),
        dict(type='ModelImageResize', size=(size, size)),
        dict(type='TargetsFromMask'),
        dict(type='PackReasoningInputs'),
    ]
    with DefaultScope.overwrite_default_scope('mmdpad'):
        dataset = ReasonSegDataset(root, split='val', pipeline=pipeline)
    return {item['data_samples'].img_id: item for item in dataset}


@pytest.fixture(scope='module')
def items(request) -> dict[int, dict[str, dict]]:
    root = request.path.parents[1] / 'data/photos'
    return {size: load(root, size) for size in SIZES}


def test_the_files_are_what_their_tests_take_them_for(photos):
    found = {}
    for path in (photos / 'val').iterdir():
        if path.suffix != '.json':
            with Image.open(path) as image:
                shape = FILES[path.name][0]
                assert image.size in (shape, shape[::-1])
                found[path.name] = (shape, image.mode.split(';')[0], image.getexif().get(0x0112))
    assert found == FILES
    assert sum(path.stat().st_size for path in photos.rglob('*')) < 2.5e6
    licences = (photos / 'LICENSES.md').read_text(encoding='utf-8')
    assert all(f'`{name}`' in licences for name in FILES)


@pytest.mark.parametrize('size', SIZES)
def test_every_photo_has_its_shapes(items, size):
    assert sorted(items[size]) == NAMES
    for name, (shape, _, _) in FILES.items():
        item = items[size][name.split('.')[0]]
        sample = item['data_samples']
        assert sample.ori_shape == shape and sample.model_shape == (size, size)
        assert item['inputs']['image'].shape == (3, *shape)
        assert item['inputs']['model_image'].shape == (3, size, size)
        assert sample.gt_instances.masks.shape == (1, *shape)
        assert sample.ignored_instances.masks.shape == (1, *shape)
        assert not (sample.gt_instances.masks & sample.ignored_instances.masks).any()


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('name', NAMES)
def test_targets_lie_on_the_object_in_both_frames(items, name, size):
    sample = items[size][name]['data_samples']
    shape, model_shape = sample.ori_shape, sample.model_shape
    mask = sample.gt_instances.masks[0]
    targets = sample.model_targets
    # Half a pixel of the model frame, in pixels of the original, is what rounding may cost.
    slack = 0.5 * torch.tensor([shape[1] / size, shape[0] / size]) + 1e-4

    box = scale_boxes(targets.bboxes, model_shape, shape)
    top_left, bottom_right = (box - sample.gt_instances.bboxes).abs().view(2, 2)
    assert (top_left <= slack).all()
    assert (bottom_right <= 2 * slack).all()  # the last column or row may be clipped by one

    for point in scale_points(targets.points, model_shape, shape)[0]:
        low, high = (point - slack).ceil().long(), (point + slack).floor().long() + 1
        assert mask[max(low[1], 0):high[1], max(low[0], 0):high[0]].any(), point
    x1, y1, x2, y2 = targets.bboxes[0]
    for x, y in targets.points[0]:
        assert x1 <= x <= x2 and y1 <= y <= y2


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('name', NAMES)
def test_the_model_image_shows_the_same_content(items, name, size):
    inputs = items[size][name]['inputs']
    image, prompt = (inputs[key].float()[None] for key in ('image', 'model_image'))
    small = [torch.nn.functional.interpolate(i, (20, 20), mode='area') for i in (image, prompt)]
    assert (small[0] - small[1]).abs().mean() < 4


@pytest.mark.parametrize(('name', 'x', 'y', 'color'), [
    ('astronaut', 50, 300, (223, 108, 71)),  # orange suit
    ('pagoda', 320, 30, (212, 232, 254)),  # blue sky
    ('flower', 155, 105, (200, 73, 29)),  # red heart of the flower
    ('flower', 2, 2, (255, 255, 255)),  # transparent corner, dark below
    ('rocket', 92, 250, (219, 198, 157)),  # the white rocket, low in the upright image
    ('rocket', 100, 20, (40, 55, 88)),  # sky above it
    ('coins', 335, 43, (178, 178, 178)),  # 16-bit gray, not cut off
])
def test_colours_are_rgb_at_known_places(items, name, x, y, color):
    item = items[112][name]
    height, width = item['data_samples'].ori_shape
    shown = item['inputs']['image'][:, max(y - 2, 0):y + 3, max(x - 2, 0):x + 3].float()
    np.testing.assert_allclose(shown.mean(dim=(1, 2)), color, atol=3)
    prompt = item['inputs']['model_image'][:, y * 112 // height, x * 112 // width].float()
    # One pixel of a smaller image: close to the color, and its channels in the same order.
    np.testing.assert_allclose(prompt, color, atol=45)
    assert (prompt[0] > prompt[2]).item() == (color[0] > color[2])


def test_cmyk_comes_back_in_its_colours(items):
    suit = items[840]['helmet']['inputs']['image'][:, 100:120, 8:12].float().mean(dim=(1, 2))
    assert suit[0] > 2 * suit[2]


def test_grey_photographs_get_three_equal_channels(items):
    for name in ('cameraman', 'coins'):
        for image in items[840][name]['inputs'].values():
            assert (image == image[:1]).all()
            assert image.max() > 150 and image.min() < 60


def test_the_exif_rotation_brings_image_and_polygon_together(items):
    item = items[840]['rocket']
    image, mask = item['inputs']['image'].float(), item['data_samples'].gt_instances.masks[0]
    # The white rocket is far brighter than the evening sky around it.
    assert image[:, mask].mean() > image[:, ~mask].mean() + 60
    x1, y1, x2, y2 = item['data_samples'].gt_instances.bboxes[0]
    assert (y2 - y1) > 10 * (x2 - x1)


def test_ignored_regions_and_flags(items):
    samples = {name: item['data_samples'] for name, item in items[840].items()}
    ignored = {name: sample.ignored_instances.masks[0] for name, sample in samples.items()}
    assert {name for name, mask in ignored.items() if mask.any()} == {'astronaut', 'coffee'}
    # The badge is listed first, yet lies on top of the person; the flag on the cup leaves no mark.
    assert ignored['astronaut'][385, 161]
    assert samples['astronaut'].gt_instances.masks[0, 385, 121]
    assert not (samples['coffee'].gt_instances.masks[0, 150, 290] | ignored['coffee'][150, 290])


def test_texts_keep_their_letters_and_questions_are_normalised(items, photos):
    coffee = items[840]['coffee']['data_samples']
    with pytest.raises(UnicodeDecodeError):
        (photos / 'val/coffee.json').read_text(encoding='utf-8')
    assert coffee.question == 'avec quoi pourrait-on remuer ce café crème ?'
    assert coffee.texts[1] == 'something to stir the drink with'
    assert items[840]['pagoda']['data_samples'].question == (
        'the parts of the yíhéyuán tower that keep the rain out')
    sentences = {name for name, i in items[840].items() if i['data_samples'].is_sentence}
    assert sentences == {'astronaut', 'coffee', 'flower', 'rocket', 'coins'}


def test_all_texts_mode_asks_both_texts_of_two_photos(photos):
    dataset = ReasonSegDataset(photos, split='val', texts='all')
    asked = [item['img_id'] for item in dataset if item['text_index'] == 1]
    assert len(dataset) == 12 and asked == ['astronaut#1', 'coffee#1']
