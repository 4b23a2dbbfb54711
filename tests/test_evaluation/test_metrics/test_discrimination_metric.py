# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import math

import numpy as np
import pytest
import torch
from PIL import Image

from mmdpad.evaluation.metrics import DiscriminationMetric
from mmdpad.registry import METRICS, MODELS
from mmdpad.toy import CLIP_WEIGHTS
from mmdpad.toy.shapes_world import make_scene

# A dark image of 4 rows and 10 columns with three bright stripes; mean 110.
STRIPES = np.zeros((4, 10, 3), np.uint8)
STRIPES[:, 0:2], STRIPES[:, 4:6], STRIPES[:, 7:9] = 200, 100, 250


class Brightness(torch.nn.Module):
    """Every caption fits bright images, by mean value / 1000; an empty one cannot be used."""

    def forward(self, images, captions):
        self.captions = list(captions)
        row = torch.tensor([[1.0 if caption else math.nan for caption in captions]])
        return torch.tensor([[float(p.mean()) / 1000] for p in images]) * row


@pytest.fixture
def build():
    MODELS.register_module(module=Brightness)

    def build(**options):
        metric = METRICS.build(dict(type='DiscriminationMetric',
                                    discriminator=dict(type='Brightness'), **options))
        metric.dataset_meta = dict(classes=('cat', 'dog'))
        return metric

    yield build
    MODELS._module_dict.pop('Brightness')


@pytest.fixture
def sample(tmp_path):
    """A detector's prediction for the stripes, as metrics get it."""
    Image.fromarray(STRIPES).save(tmp_path / 'stripes.png')

    def sample(*boxes, scores=None, labels=None, ori_shape=(4, 10), **predicted):
        return dict(img_path=str(tmp_path / 'stripes.png'), ori_shape=ori_shape,
                    pred_instances=dict(
                        bboxes=torch.tensor(boxes, dtype=torch.float).reshape(-1, 4),
                        scores=torch.tensor(scores or [1.0] * len(boxes)),
                        labels=torch.tensor(labels or [0] * len(boxes), dtype=torch.long),
                        **predicted))

    return sample


BRIGHT, DIM, OUTSIDE = (0, 0, 2, 4), (4, 0, 6, 4), (20, 0, 30, 4)


def test_means_over_the_boxes_of_all_images(build, sample):
    metric = build()
    metric.process({}, [sample(BRIGHT, DIM), sample((7, 0, 9, 4), DIM, scores=[0.3, 0.29])])
    metric.process({}, [sample()])
    # S1 0.2, 0.1 and 0.25; S2 0.11
    assert metric.evaluate(3) == pytest.approx({
        'discrimination/s_roi': 0.55 / 3, 'discrimination/s_image': 0.11,
        'discrimination/s_margin': 0.22 / 3, 'discrimination/discriminated': 2 / 3,
        'discrimination/num_boxes': 3, 'discrimination/num_unusable': 0})


def test_unusable_boxes_are_counted_and_count_as_not_discriminated(build, sample):
    metric = build(prefix='d')
    metric.process({}, [sample(BRIGHT, OUTSIDE, BRIGHT, captions=['a', 'b', ''])])
    assert metric.evaluate(1) == pytest.approx({
        'd/s_roi': 0.2, 'd/s_image': 0.11, 'd/s_margin': 0.09, 'd/discriminated': 1 / 3,
        'd/num_boxes': 3, 'd/num_unusable': 2})


def test_without_boxes_there_is_nothing_to_average(build, sample):
    metric = build(score_thr=0.5)
    metric.process({}, [sample(), sample(BRIGHT, scores=[0.4])])
    result = metric.evaluate(2)
    assert result['discrimination/num_boxes'] == result['discrimination/num_unusable'] == 0
    assert all(math.isnan(result[f'discrimination/{name}'])
               for name in ('s_roi', 's_image', 's_margin', 'discriminated'))


@pytest.mark.parametrize('options, predicted, captions', [
    ({}, {}, ['a photo of a dog', 'a photo of a cat']),
    (dict(template='{label}!', captions=dict(dog='a puppy')), {}, ['a puppy', 'cat!']),
    ({}, dict(label_names=['red dog', 'owl']), ['a photo of a red dog', 'a photo of a owl']),
    (dict(captions=dict(dog='a puppy')), dict(captions=['x', 'y']), ['x', 'y']),
])
def test_captions(build, sample, options, predicted, captions):
    metric = build(**options)
    metric.process({}, [sample(BRIGHT, DIM, labels=[1, 0], **predicted)])
    assert metric.reward.discriminators[0].captions == captions


def test_a_caption_stays_with_its_box_where_others_are_left_out(build, sample):
    metric = build()
    metric.process({}, [sample(DIM, BRIGHT, DIM, scores=[0.1, 0.9, 0.8],
                               captions=['low', 'high', 'middle'])])
    assert metric.reward.discriminators[0].captions == ['high', 'middle']


def test_the_options_of_the_reward(build, sample):
    metric = build(contrast='masked', region_margin=0.5)
    metric.process({}, [sample(BRIGHT)])
    # Columns 0 to 2: (200 + 200 + 0) / 3. Painted over with 110 is one column more; the rest as is.
    assert metric.results[0]['s_roi'] == pytest.approx([0.4 / 3])
    assert metric.results[0]['s_image'] == pytest.approx([(4 * 110 + 2 * 100 + 2 * 250) / 10000])


def test_what_is_refused(build, sample):
    with pytest.raises(ValueError, match='`template` should contain "{label}".*got .a photo'):
        build(template='a photo')
    with pytest.raises(ValueError, match='`contrast` should be one of'):
        build(contrast='none')
    with pytest.raises(ValueError, match=r"name classes of the data set, but got \['dgo'\]"):
        build(captions=dict(dgo='a puppy')).process({}, [sample(BRIGHT)])
    with pytest.raises(ValueError, match='label 2 was predicted and there are 2 names'):
        build().process({}, [sample(BRIGHT, labels=[2])])
    with pytest.raises(ValueError, match=r'`ori_shape` \(10, 4\), but got \(4, 10\)'):
        build().process({}, [sample(BRIGHT, ori_shape=(10, 4))])


def test_the_toy_clip_tells_objects_apart(tmp_path):
    """True boxes with their names, against the same names in another order."""
    metric = DiscriminationMetric(dict(type='CLIPDiscriminator', model_name=CLIP_WEIGHTS,
                                       pretrained=None))
    margins = []
    for shift in (0, 1):
        for seed in range(6):
            scene = make_scene('test', seed)
            path = str(tmp_path / f'{seed}.png')
            Image.fromarray(scene.image).save(path)
            names = [shape.name for shape in scene.objects]
            metric.process({}, [dict(img_path=path, pred_instances=dict(
                bboxes=torch.tensor([shape.box for shape in scene.objects]),
                scores=torch.ones(len(names)), captions=names[shift:] + names[:shift]))])
        margins.append(metric.evaluate(6)['discrimination/s_margin'])
    assert margins[0] > margins[1] + 0.05
