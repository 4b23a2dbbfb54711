# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The discriminative term of answers that describe each object."""
import math

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from mmdpad.registry import MODELS
from mmdpad.rewards import DiscriminativeReward
from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput, RolloutBatch

NAN = math.nan
# Three squares of one color each on black.
IMAGE = np.zeros((10, 40, 3), np.uint8)
RED, GREEN, BLUE = (0., 0., 10., 10.), (12., 0., 22., 10.), (30., 0., 40., 10.)
for channel, (x1, _, x2, _) in enumerate((RED, GREEN, BLUE)):
    IMAGE[:, int(x1):int(x2), channel] = 200
COLORS = dict(red=0, green=1, blue=2)
SHOWN = 200 / 255


class ColorModel(nn.Module):
    """A caption fits an image by how much it shows of its color, in [0, 1]; NaN without one."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale, self.seen = scale, []

    def forward(self, images, captions):
        self.seen = images
        return torch.tensor([[
            self.scale * float(image[..., COLORS[caption]].mean()) / 255
            if caption in COLORS else NAN for caption in captions] for image in images]).reshape(
            len(images), len(captions))


def make_sample(targets=((RED, 0), (GREEN, 0), (BLUE, 1)), labels=True, **fields):
    sample = DetDataSample(metainfo=dict(question='q', classes=('square', 'cup'),
                                         class_labels=(0, 1)))
    sample.model_targets = InstanceData(
        bboxes=torch.tensor([box for box, _ in targets]).reshape(-1, 4),
        **dict(labels=torch.tensor([label for _, label in targets], dtype=torch.long))
        if labels else {})
    for name, boxes in fields.items():
        setattr(sample, name, InstanceData(bboxes=torch.tensor(boxes)))
    return sample


def answer(*objects):
    return ReasoningOutput('t', None, tuple(
        AnsweredObject(box, None, label, text) for box, label, text in objects))


ALL = (RED, 'square', 'red'), (GREEN, 'square', 'green'), (BLUE, 'cup', 'blue')


@pytest.fixture
def score(monkeypatch):
    """The values of answers to one question, their signals and the images that were compared."""

    def run(sample, *answers, scales=(1.0, ), **options):
        models = iter([ColorModel(scale) for scale in scales])
        built = []
        monkeypatch.setattr(MODELS, 'build', lambda config: built.append(next(models)) or built[-1])
        rollout = RolloutBatch([sample], [torch.from_numpy(IMAGE).permute(2, 0, 1)], len(answers),
                               ['t'] * len(answers), list(answers))
        term = DiscriminativeReward([dict(type='ColorModel', scale=s) for s in scales],
                                    device='cpu', per_instance=True, **options)
        run.values = term(rollout)[0].tolist()
        run.signals = {name: value[0].tolist() for name, value in rollout.signals.items()}
        run.seen = built[0].seen
        return run.values
    return run


@pytest.mark.parametrize('region', ['target', 'predicted'])
@pytest.mark.parametrize('contrast', ['image', 'masked', 'others'])
def test_each_description_is_compared_with_its_own_box(score, region, contrast):
    """All right; two swapped; all the same; one without a description."""
    swapped = (RED, 'square', 'green'), (GREEN, 'square', 'red'), ALL[2]
    same = [(box, label, 'red') for box, label, _ in ALL]
    missing = (*ALL[:2], (BLUE, 'cup', None))
    assert score(make_sample(), *(answer(*some) for some in (ALL, swapped, same, missing)),
                 region=region, contrast=contrast) == pytest.approx([1, 1 / 3, 1 / 3, 2 / 3])


def test_others_are_all_boxes_and_the_image(score):
    score(make_sample(), answer(ALL[0]), contrast='others')
    assert sorted(view.shape[:2] for view in score.seen) == [(10, 10)] * 3 + [(10, 40)]
    score(make_sample(model_negatives=[[0., 0., 4., 4.]]), answer(ALL[0]), contrast='others')
    assert [view.shape[:2] for view in score.seen].count((4, 4)) == 1
    score(make_sample(), answer(*ALL[:2]), contrast='others', region='predicted')
    assert len(score.seen) == 3  # both boxes of the answer and the image, each once


def test_leaving_out_and_inventing_objects_cost(score):
    more = (*ALL, (RED, 'unicorn', 'red'), (RED, 'square', 'red'))
    assert score(make_sample(), answer(*ALL), answer(*ALL[:1]), answer(*more), answer(),
                 ParseFailure('bad_value', '', objects=(
                     *answer(*ALL).objects, AnsweredObject(None, None, 'cup', 'blue')))
                 ) == pytest.approx([1, 1 / 3, 3 / 5, 0, 3 / 4])


def test_objects_need_a_match_of_their_label(score):
    """Also with their own boxes as regions: a policy cannot choose where it is judged."""
    elsewhere = (13., 0., 40., 10.)
    answers = answer((RED, 'cup', 'red')), answer((elsewhere, 'square', 'green'))
    for region in ('target', 'predicted'):
        assert score(make_sample(), *answers, region=region) == [0, 0]
    assert score(make_sample(), answers[1], match_iou=0.3) == pytest.approx([1 / 3])


def test_without_targets_each_predicted_box_in_the_image_counts(score):
    sample = DetDataSample(metainfo=dict(question='q'))
    found = answer(ALL[0], ((50., 0., 60., 10.), 'square', 'red'))
    assert score(sample, found, answer(), region='predicted') == [0.5, 0]
    with pytest.raises(ValueError, match='need `model_targets`'):
        score(sample, found)
    whole = answer(((0., 0., 40., 10.), 'x', 'red'))
    assert score(sample, whole, region='predicted') == [0]  # its contrast is itself


def test_a_question_without_targets_gives_no_signal(score):
    assert score(make_sample(()), answer(), answer(*ALL)) == [0, 0]
    assert all(math.isnan(value) for values in score.signals.values() for value in values)


def test_targets_without_labels_match_by_their_boxes(score):
    objects = [(box, None, text) for box, _, text in ALL]
    assert score(make_sample(labels=False), answer(*objects)) == [1]


def test_objects_on_a_crowd_do_not_count(score):
    sample = make_sample()
    sample.model_ignored = InstanceData(bboxes=torch.tensor([[22., 0., 30., 10.]]),
                                        labels=torch.tensor([0]), crowds=torch.tensor([True]))
    assert score(sample, answer(*ALL, ((24., 2., 28., 8.), 'square', 'red'))) == [1]


def test_forms_discriminators_and_signals(score):
    """A red square: S1 = 200 / 255, and a quarter of it in the whole image."""
    single = make_sample([(RED, 0)])
    s1, s2 = SHOWN, SHOWN / 4
    assert score(single, answer(ALL[0]), form='binary+margin') == pytest.approx([1 + s1 - s2])
    assert score.signals == dict(s_roi=pytest.approx([s1]), s_image=pytest.approx([s2]),
                                 s_margin=pytest.approx([s1 - s2]), s_rank=[1])
    assert score(single, answer(ALL[0]), scales=(1, -1)) == [0.5]
    assert score(single, answer(ALL[0]), scales=(1, -1), combine='min') == [0]
    twice = answer((RED, 'square', 'red'), (GREEN, 'square', 'blue'), (BLUE, 'cup', None))
    score(make_sample(), twice, form='margin')
    assert score.signals['s_margin'] == pytest.approx([(s1 - s2 + 0 - s2) / 2])


def test_a_threshold_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r'`match_iou` should be an IoU in \[0, 1\)'):
        DiscriminativeReward(dict(type='x'), match_iou=1)
