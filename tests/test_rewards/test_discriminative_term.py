# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch import nn, tensor

from mmdpad.datasets import ReasonSegDataset
from mmdpad.geometry.coordinates import scale_boxes
from mmdpad.prompts import parse_response
from mmdpad.registry import MODELS
from mmdpad.rewards import DiscriminativeOptions, DiscriminativeReward
from mmdpad.rewards.discriminative import DISCRIMINATIVE_FORMS
from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput, RolloutBatch
from mmdpad.toy import CLIP_WEIGHTS
from mmdpad.toy.shapes_world import SHAPES_IMAGE_SIZE, make_scene

NAN = math.nan
# A dark image of 4 rows and 10 columns with three bright stripes; mean 110.
STRIPES = np.zeros((4, 10, 3), np.uint8)
STRIPES[:, 0:2], STRIPES[:, 4:6], STRIPES[:, 7:9] = 200, 100, 250
TARGET, OTHERS = [0., 0., 2., 4.], [[4., 0., 6., 4.], [7., 0., 9., 4.]]


class Brightness(nn.Module):
    """A discriminator by which every caption fits bright images: mean value / 1000."""

    def forward(self, images, captions):
        self.images = images
        row = tensor([[NAN if caption is None else 1. for caption in captions]])
        return tensor([[float(p.mean()) / 1000] for p in images]).reshape(-1, 1) * row


@MODELS.register_module(force=True)
class Tinted(nn.Module):
    """A discriminator of its own opinion: the mean value of the left part / 1000; no long text."""

    def __init__(self, columns=10, longest=9):
        super().__init__()
        self.columns, self.longest = columns, longest

    def forward(self, images, captions):
        row = tensor([[1. if caption and len(caption) <= self.longest else NAN
                       for caption in captions]])
        return tensor([[float(p[:, :self.columns].mean()) / 1000] for p in images]) * row


def stripes(parsed, prompts=1, negatives=OTHERS, target=TARGET):
    """``parsed`` responses to each of ``prompts`` questions about the stripes."""
    sample = SimpleNamespace(model_targets=SimpleNamespace(bboxes=tensor([target])))
    if negatives is not None:
        boxes = tensor(negatives).reshape(-1, 4)
        sample.model_negatives = SimpleNamespace(bboxes=boxes)
    image = torch.from_numpy(STRIPES).permute(2, 0, 1)
    return RolloutBatch([sample] * prompts, [image] * prompts, len(parsed),
                        ['t'] * len(parsed) * prompts, parsed * prompts)


def answer(caption='c', box=(4, 0, 6, 4)):
    return ReasoningOutput(None, caption, (AnsweredObject(box, ((0, 0), (1, 1))), ))


@pytest.fixture
def score(monkeypatch):
    """Score a rollout by brightness; rewards, S1 and S2 of the first prompt, and the images."""

    def run(rollout, **options):
        model = Brightness()
        monkeypatch.setattr(MODELS, 'build', lambda config: model)
        reward = DiscriminativeReward(dict(type='Brightness'), device='cpu', **options)(rollout)
        signals = rollout.signals
        torch.testing.assert_close(signals['s_margin'], signals['s_roi'] - signals['s_image'],
                                   equal_nan=True)
        return (reward[0].tolist(), signals['s_roi'][0].tolist(), signals['s_image'][0].tolist(),
                model.images)

    return run


@pytest.mark.parametrize('options, s1, s2', [
    ({}, 0.2, 0.11),
    (dict(contrast='others'), 0.2, 0.25),  # the brightest of the others
    # Columns 0..2 become 110: (3 * 110 + 2 * 100 + 2 * 250) / 10 = 103.
    (dict(contrast='masked'), 0.2, 0.103),
    (dict(region='predicted'), 0.1, 0.11),
    (dict(region='predicted', contrast='others'), 0.1, 0.25),
    # Columns 4..6 become 110: (2 * 200 + 3 * 110 + 2 * 250) / 10 = 123.
    (dict(region='predicted', contrast='masked'), 0.1, 0.123),
    # Columns 0..2 (half of 2 to the right, the rest is outside): 2 * 200 / 3.
    (dict(region_margin=0.5), 0.4 / 3, 0.11),
    # Columns 3..6: 2 * 100 / 4; the others' columns 3..6 and 6..9: 2 * 250 / 4.
    (dict(region='predicted', region_margin=0.5, contrast='others'), 0.05, 0.125),
    # Columns 0..3 become 110: (4 * 110 + 2 * 100 + 2 * 250) / 10 = 114.
    (dict(region_margin=0.5, contrast='masked'), 0.4 / 3, 0.114),
])
def test_hand_computed_similarities(score, options, s1, s2):
    reward, roi, contrast, _ = score(stripes([answer(), answer(None)]), **options)
    assert roi == pytest.approx([s1, NAN], nan_ok=True)
    assert contrast == pytest.approx([s2, NAN], nan_ok=True)
    assert reward == [float(s1 > s2), 0]


def test_the_own_region_where_the_data_have_no_box(score):
    options = dict(region='target_or_predicted')
    assert score(stripes([answer()]), **options)[1] == pytest.approx([0.2])
    unknown = stripes([answer(), answer(box=(0, 0, 2, 4)), answer(box=(20, 0, 22, 4))])
    unknown.data_samples[0].model_targets.bboxes = torch.zeros(0, 4)
    reward, roi, *_ = score(unknown, **options)
    assert roi == pytest.approx([0.1, 0.2, NAN], nan_ok=True) and reward == [0, 1, 0]


def test_a_predicted_region_above_the_limit_scores_nothing(score):
    """The box covers columns 0..4, half of the image; the part outside does not count."""
    boxes = [(0, 0, 5, 4), (-50, 0, 5, 40), (0, 0, 5.1, 4), (0, 0, 2, 4)]
    rollout = stripes([answer(box=box) for box in boxes])
    roi = score(rollout, region='predicted', max_region=0.5)[1]
    assert [math.isnan(value) for value in roi] == [False, False, True, False]
    assert not any(map(math.isnan, score(rollout, region='predicted')[1]))
    assert not any(map(math.isnan, score(rollout, max_region=0.01)[1]))  # the data's box


def test_the_margin_counts_toward_the_limit(score):
    """With half its width on each side, a box of 3 of 10 columns in the middle covers 6."""
    rollout = stripes([answer(box=(4, 0, 7, 4))])
    options = dict(region='predicted', region_margin=0.5)
    found = [score(rollout, max_region=limit, **options)[1][0] for limit in (0.5, 0.6)]
    assert [math.isnan(value) for value in found] == [True, False]


@pytest.mark.parametrize('options, problem', [
    (dict(max_region=0), 'share of the image'), (dict(max_region=1.1), 'share of the image'),
    (dict(per_instance=True, region='target_or_predicted'), 'with `per_instance`')])
def test_bad_options_of_the_region(options, problem):
    with pytest.raises(ValueError, match=problem):
        DiscriminativeOptions(**options)


@pytest.mark.parametrize('region', ['target', 'predicted'])
def test_several_objects_have_one_region_around_them_and_no_object_none(score, region):
    parsed = ReasoningOutput(None, 'c', tuple(
        AnsweredObject(box, ((0, 0), )) for box in ((0, 0, 2, 2), (4, 2, 6, 4))))
    rollout = stripes([parsed, ReasoningOutput(None, 'c', ())])
    rollout.data_samples[0].model_targets.bboxes = tensor([[0, 0, 2, 2], [4, 2, 6, 4]])
    reward, roi, _, _ = score(rollout, region=region)
    own = float(STRIPES[:4, :6].mean()) / 1000
    assert roi == pytest.approx([own, own if region == 'target' else NAN], nan_ok=True)
    rollout.data_samples[0].model_targets.bboxes = torch.zeros(0, 4)
    if region == 'target':
        assert score(rollout)[0] == [0, 0]


@pytest.mark.parametrize('target, options, rank', [
    # The stripes' mean values are 200, 100 and 250, the image's is 110.
    ([0., 0., 2., 4.], dict(contrast='others'), 2),
    ([4., 0., 6., 4.], dict(contrast='others'), 3),
    ([7., 0., 9., 4.], dict(contrast='others'), 1),
    ([0., 0., 2., 4.], {}, 1),
    ([4., 0., 6., 4.], {}, 2),
    ([0., 0., 10., 4.], {}, 2),  # the region is the image: as good a fit counts against it
])
def test_the_rank_counts_the_contrasts_that_fit_as_well(score, target, options, rank):
    others = [box for box in (TARGET, *OTHERS) if box != target]
    rollout = stripes([answer(), answer(None)], target=target, negatives=others)
    reward, *_ = score(rollout, **options)
    assert rollout.signals['s_rank'][0].tolist() == pytest.approx([rank, NAN], nan_ok=True)
    assert reward == [float(rank == 1), 0]


def test_the_rank_is_missing_where_the_margin_is(score):
    rollout = stripes([answer(box=(2, 0, 2, 4)), answer(None)])
    score(rollout, region='predicted')
    assert rollout.signals['s_rank'].isnan().all()


# S1, the stripe of columns 0..2, is 0.2 for all; S2 is the mean of so many columns of the
# image: 3: 0.4 / 3, 2: 0.2 and no win, 10: 0.11, of which the last reads short captions only.
MEMBERS = [dict(type='Tinted', columns=3), dict(type='Tinted', columns=2),
           dict(type='Tinted', longest=2)]


@pytest.mark.parametrize('combine, form, long, short', [
    ('mean', 'binary', 1 / 3, 2 / 3), ('min', 'binary', 0, 0), ('vote', 'binary', 0, 1),
    ('mean', 'margin', 0.2 / 9, (0.2 / 3 + 0.09) / 3), ('min', 'roi', 0, 0.2),
    ('mean', dict(binary=1, margin=3), (1 + 0.2) / 3, (2 + 0.2 + 0.27) / 3)])
def test_several_discriminators_make_one_reward(combine, form, long, short):
    rollout = stripes([answer('long'), answer('c'), answer(None)])
    reward = DiscriminativeReward(MEMBERS, device='cpu', combine=combine, form=form)(rollout)
    assert reward[0].tolist() == pytest.approx([long, short, 0])
    assert rollout.signals['s_roi'][0].tolist() == pytest.approx([NAN, 0.2, NAN], nan_ok=True)
    assert rollout.signals['s_image'][0, 1].item() == pytest.approx((0.4 / 3 + 0.2 + 0.11) / 3)


def test_half_of_the_votes_are_not_enough():
    reward = DiscriminativeReward(MEMBERS[:2], device='cpu', combine='vote')
    assert reward(stripes([answer()])).item() == 0
    assert DiscriminativeReward(MEMBERS[:1], combine='vote')(stripes([answer()])).item() == 1


def test_the_form_and_its_parameters_are_passed_on(score):
    margin = score(stripes([answer()]), form='margin')[0]
    assert margin == pytest.approx([0.09])
    softmax = score(stripes([answer()]), form='softmax', temperature=0.09)[0]
    assert softmax == pytest.approx([1 / (1 + math.exp(-1))])


@pytest.mark.parametrize('form', DISCRIMINATIVE_FORMS)
def test_a_response_without_a_readable_box_earns_nothing_by_its_own_region(score, form):
    failure = ParseFailure('no_answer', 'nothing there', caption='c')
    boxes = [(2, 0, 2, 4), (6, 0, 4, 4), (10, 0, 12, 4), (-1e9, -1e9, 0, 0)]
    rollout = stripes([failure, *(answer(box=box) for box in boxes)])
    reward, roi, contrast, images = score(rollout, region='predicted', form=form)
    assert reward == [0] * 5 and not images
    assert all(map(math.isnan, roi + contrast))
    assert score(rollout, form='binary')[0] == [1] * 5  # by the target's region they count


def test_a_readable_box_of_an_unusable_answer_counts(score):
    parsed = parse_response('<answer>{"bbox": [7, 0, 9, 4]}</answer><caption>c</caption>')
    assert isinstance(parsed, ParseFailure)
    assert score(stripes([parsed]), region='predicted')[:2] == ([1], pytest.approx([0.25]))


def test_what_is_alike_is_looked_at_once(score):
    rollout = stripes([answer()] * 3 + [answer(box=(7, 0, 9, 4))], prompts=2)
    assert len(score(rollout)[3]) == 2 * 2  # a region and an image for each prompt
    assert len(score(rollout, region='predicted')[3]) == 2 * 2 * 2


@pytest.mark.parametrize('negatives', [[], None])
def test_without_other_boxes_the_contrast_is_the_image(score, negatives):
    assert score(stripes([answer()], negatives=negatives), contrast='others')[2] == [
        pytest.approx(0.11)]


@pytest.mark.parametrize('contrast', ['image', 'masked'])
@pytest.mark.parametrize('region', ['target', 'predicted'])
def test_a_region_that_covers_the_image_is_no_discrimination(score, contrast, region):
    whole = [-1., 0., 10., 99.]
    rollout = stripes([answer(box=tuple(whole))], target=whole)
    reward, roi, against, _ = score(rollout, contrast=contrast, region=region)
    assert reward == [0] and roi == against


def test_defaults_are_the_papers():
    assert DiscriminativeOptions() == DiscriminativeOptions(
        form='binary', region='target', region_margin=0.0, contrast='image')


@pytest.mark.parametrize('options, message', [
    (dict(form='binry'), "`form` should be one of .* but got 'binry'"),
    (dict(alpha=0), 'positive, but got 0.1 and 0'),
    (dict(region='box'), "`region` should be one of .*, but got 'box'"),
    (dict(contrast='none'), "`contrast` should be one of .*'others'.*, but got 'none'"),
    (dict(region_margin=-0.1), '`region_margin` should be .* 0 or more, but got -0.1'),
    (dict(combine='median'), "`combine` should be one of .*'vote'.*, but got 'median'"),
    (dict(combine='vote', form='margin'), "`combine` should .* 'margin', but got 'vote'.*binary"),
    (dict(region_margin=NAN), '`region_margin` should be .* but got nan'),
])
def test_a_wrong_option_is_found_before_the_model_is_built(options, message):
    with pytest.raises(ValueError, match=message):
        DiscriminativeReward(dict(type='NoSuchModel'), **options)


def test_no_discriminator_is_an_error():
    with pytest.raises(ValueError, match='`discriminator` should .* got an empty list'):
        DiscriminativeReward([])


def test_an_unknown_option_is_named():
    with pytest.raises(TypeError, match="'regoin'"):
        DiscriminativeReward(dict(type='NoSuchModel'), regoin='target')


@pytest.fixture(scope='module')
def clip():
    return dict(type='CLIPDiscriminator', model_name=CLIP_WEIGHTS, pretrained=None)


SCENES = [make_scene('val', 1000 + i) for i in range(24)]


def scene_rollout(kind, region=None):
    """The scenes that have a caption of this kind, each with its first one.

    ``region`` replaces the target's box, XYXY in pixels of the model image.
    """
    samples, images, parsed = [], [], []
    width, height = SHAPES_IMAGE_SIZE
    for scene in SCENES:
        def in_prompt(items, shape=scene.image.shape[:2]):
            boxes = tensor([item.box for item in items], dtype=torch.float32)
            return SimpleNamespace(bboxes=scale_boxes(boxes, shape, (height, width)))
        if captions := scene.captions()[kind]:
            target = in_prompt([scene.target])
            if region is not None:
                target.bboxes = tensor([region])
            samples.append(SimpleNamespace(
                model_targets=target,
                model_negatives=in_prompt(o for o in scene.objects if o is not scene.target)))
            image = cv2.resize(scene.image, SHAPES_IMAGE_SIZE, interpolation=cv2.INTER_AREA)
            images.append(torch.from_numpy(image).permute(2, 0, 1))
            parsed.append(answer(captions[0], tuple(target.bboxes[0].tolist())))
    return RolloutBatch(samples, images, 1, ['t'] * len(parsed), parsed)


@pytest.mark.parametrize('region', ['target', 'predicted'])
@pytest.mark.parametrize('contrast', ['image', 'masked', 'others'])
def test_true_descriptions_win_and_wrong_ones_lose(clip, contrast, region):
    reward = DiscriminativeReward(clip, device='cpu', contrast=contrast, region=region)
    assert reward(scene_rollout('specific')).mean() > 0.9
    assert reward(scene_rollout('other')).mean() < 0.1


def test_another_objects_description_loses_by_more_against_the_others(clip):
    """Measured on 443 captions of 180 scenes: no win either way, mean margin -0.63 and -0.83."""
    margins = {}
    for contrast in ('image', 'others'):
        rollout = scene_rollout('other')
        DiscriminativeReward(clip, device='cpu', contrast=contrast)(rollout)
        margins[contrast] = rollout.signals['s_margin'].mean().item()
    assert margins['others'] < margins['image'] - 0.1


def test_other_objects_come_from_the_data(clip, shapes_data):
    pipeline = [dict(type='LoadReasoningImage'), dict(type='LoadReasonSegMask'),
                dict(type='ModelImageResize', size=SHAPES_IMAGE_SIZE), dict(type='TargetsFromMask'),
                dict(type='PackReasoningInputs')]
    batch = pseudo_collate(list(ReasonSegDataset(shapes_data, 'val', pipeline=pipeline)))
    scenes = [make_scene('val', i) for i in range(4)]
    captions = [next(o for o in scene.objects if o is not scene.target).name for scene in scenes]
    rollout = RolloutBatch(batch['data_samples'], batch['inputs']['model_image'], 1, ['t'] * 4,
                           [answer(f'a {caption}') for caption in captions])
    assert [len(boxes) for boxes in rollout.negative_boxes] == [
        len(scene.objects) - 1 for scene in scenes]
    contrasts = {}
    for contrast in ('image', 'others'):
        DiscriminativeReward(clip, device='cpu', contrast=contrast)(rollout)
        contrasts[contrast] = rollout.signals['s_image']
    assert (contrasts['others'] > contrasts['image']).all()  # the captions are those of others


def test_the_whole_image_as_region_is_exactly_no_discrimination(clip):
    rollout = scene_rollout('specific', region=[0., 0., *map(float, SHAPES_IMAGE_SIZE)])
    reward = DiscriminativeReward(clip, device='cpu', form='binary+margin')(rollout)
    assert not reward.any() and not rollout.signals['s_margin'].any()


@pytest.mark.parametrize('form', DISCRIMINATIVE_FORMS)
def test_text_that_the_model_cannot_read_is_data(clip, form):
    rollout = scene_rollout('specific')
    bad = [None, '', ' \n', 'red ' * 500, 'x' * 5000]
    rollout.parsed[:len(bad)] = [answer(text) for text in bad]
    reward = DiscriminativeReward(clip, device='cpu', form=form)(rollout)
    assert not reward[:len(bad)].any() and reward[len(bad):].any()
    assert rollout.signals['s_margin'].isnan().flatten().tolist() == [
        row < len(bad) for row in range(len(SCENES))]
