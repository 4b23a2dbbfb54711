# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import pytest
from PIL import Image

from mmdpad.datasets.transforms import ProbeReasoningImage, read_image, without_pixels


def test_pipelines_without_pixels():
    steps = [dict(type=name) for name in ('LoadReasoningImage', 'LoadInstanceMasks',
                                          'ModelImageResize', 'PackReasoningInputs')]
    config = dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', dataset=dict(
        type='X', pipeline=steps))])
    inner = without_pixels(config)['datasets'][0]['dataset']
    assert inner['pipeline'] == [dict(type=ProbeReasoningImage), dict(type='LoadInstanceMasks')]
    assert config['datasets'][0]['dataset']['pipeline'] == steps, 'the config is left as it is'
    for wrong in (steps[1:], steps[:2], [steps[0], *steps[2:]]):
        with pytest.raises(ValueError, match='use a data set with masks'):
            without_pixels(dict(type='X', pipeline=wrong))


def test_the_shape_of_an_image_comes_from_its_header(tmp_path):
    path, exif = tmp_path / 'turned.jpg', Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(np.zeros((50, 80, 3), np.uint8)).save(path, exif=exif)
    shape = read_image(path).shape[:2]
    assert shape == (80, 50)
    probe = ProbeReasoningImage()
    assert probe(dict(img_path=str(path)))['ori_shape'] == shape
    found = probe(dict(img_path='row 3', img_bytes=path.read_bytes()))
    assert found['ori_shape'] == found['img_shape'] == shape and 'img_bytes' not in found
    with pytest.raises(ValueError, match='row 3 cannot be decoded as an image'):
        probe(dict(img_path='row 3', img_bytes=b'no image'))
