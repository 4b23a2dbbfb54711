# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
from mmdet.models import BaseDetector
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from mmdpad.models import DetectorDecoder
from mmdpad.registry import MODELS
from mmdpad.structures import AnsweredObject

MASK_RCNN = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
SMALL_IMAGES = {'test_dataloader.dataset.pipeline.1.scale': (64, 64)}
DETECTORS = {
    'rtmdet_ins': ('mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py', {
        'model.test_cfg.score_thr': 0.0, 'model.test_cfg.max_per_img': 5,
        'test_dataloader.dataset.pipeline.2.size': (64, 64)}),
    'mask2former': ('mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', {
        'model.backbone.depth': 18, 'model.panoptic_head.in_channels': [64, 128, 256, 512],
        'model.panoptic_head.num_queries': 8, 'model.test_cfg.max_per_image': 8,
        'model.panoptic_head.transformer_decoder.num_layers': 3}),
}
BOXES = torch.tensor([[5., 5., 40., 30.], [0., 0., 79., 47.]])
POINTS = torch.tensor([[[10., 10.], [30., 20.]], [[40., 24.], [41., 24.]]])


class GivenInstances(BaseDetector):
    """Finds what it was told to, and counts its images."""

    def __init__(self, masks, scores, with_masks=True, **kwargs):
        super().__init__(**kwargs)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.masks = torch.tensor([[[pixel == '#' for pixel in row] for row in mask.split()]
                                   for mask in masks]).reshape(-1, 3, 5)
        self.scores, self.with_masks, self.seen = torch.tensor(scores), with_masks, []

    def predict(self, inputs, data_samples, rescale=True):
        self.seen.append(inputs[0])
        found = InstanceData(scores=self.scores, bboxes=torch.zeros(len(self.scores), 4))
        if self.with_masks:
            found.masks = self.masks
        data_samples[0].pred_instances = found
        return data_samples

    loss = _forward = extract_feat = None


@pytest.fixture
def build():
    """A decoder with a detector that finds given masks (3, 5)."""
    MODELS.register_module(module=GivenInstances)

    def build(*found, score_thr=0.05, cache_size=16, **kwargs):
        masks, scores = zip(*found, strict=True) if found else ((), ())
        return DetectorDecoder(
            dict(default_scope='mmdpad',
                 model=dict(type='GivenInstances', masks=masks, scores=list(scores), **kwargs,
                            data_preprocessor=dict(type='DetDataPreprocessor')),
                 test_dataloader=dict(dataset=dict(pipeline=[
                     dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]))),
            allow_random=True, score_thr=score_thr, cache_size=cache_size)

    yield build
    MODELS._module_dict.pop('GivenInstances')


LEFT, RIGHT, ROW = '##... ##... .....', '...## ...## .....', '##### ..... .....'
IMAGE = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)


def pick(decoder, box, *points):
    masks, scores = decoder(IMAGE, torch.tensor([box], dtype=torch.float),
                            torch.tensor([points], dtype=torch.float).reshape(1, -1, 2))
    return (' '.join(''.join('.#'[p] for p in row) for row in masks[0].int()),
            round(scores[0].item(), 4))


@pytest.mark.parametrize('box, points, expected', [
    ((0, 0, 1, 1), [(0, 0), (1, 1)], (LEFT, 0.5)),  # 1 + 1
    ((3, 0, 4, 1), [(3, 0), (4, 1)], (RIGHT, 0.6)),
    ((0, 0, 2, 1), [(3, 1), (4, 1)], (RIGHT, 0.6)),  # 4/6 + 0 < 0 + 2/2
    ((0, 0, 2, 1), [(1, 1), (4, 1)], (LEFT, 0.5)),  # 4/6 + 1/2 > 0 + 1/2
    ((0, 0, 1, 1), [(2, 2), (2, 2)], (LEFT, 0.5)),  # by the box alone
    ((0, 2, 1, 2), [(1.4, 0.6), (2, 2)], (LEFT, 0.5)),  # by a point alone, in pixel (1, 1)
    ((0, 2, 1, 2), [(2.4, 0), (2, 2)], ('..... ..... .....', 0.0)),  # nothing overlaps
    ((-9, -9, 1, 1), [(-5, -5), (0, 0)], (LEFT, 0.5)),  # clipped into the image
    ((3, 0, 4, 1), [], (RIGHT, 0.6)),  # no points
])
def test_the_best_match_is_picked(build, box, points, expected):
    decoder = build((LEFT, 0.5), (RIGHT, 0.6))
    assert pick(decoder, box, *points) == expected


def test_ties_go_to_the_more_confident(build):
    for order in (1, -1):
        decoder = build(*[(LEFT, 0.4), (LEFT, 0.7), (LEFT, 0.6)][::order])
        assert pick(decoder, (0, 0, 1, 1), (0, 0)) == (LEFT, 0.7)
    # A perfect box and all points weigh alike: 1 + 0 = 0 + 1.
    decoder = build((LEFT, 0.5), (RIGHT, 0.6))
    assert pick(decoder, (0, 0, 1, 1), (3, 0), (4, 1)) == (RIGHT, 0.6)


def test_instances_below_the_threshold_are_not_considered(build):
    found = (LEFT, 0.2), (ROW, 0.3)
    assert pick(build(*found, score_thr=0.2), (0, 0, 1, 1), (0, 1)) == (LEFT, 0.2)
    assert pick(build(*found, score_thr=0.25), (0, 0, 1, 1), (0, 0)) == (ROW, 0.3)
    assert pick(build(*found, score_thr=0.5), (0, 0, 1, 1), (0, 0))[1] == 0
    assert pick(build(), (0, 0, 1, 1), (0, 0)) == ('..... ..... .....', 0.0)


def test_an_instance_without_pixels_matches_nothing(build):
    assert pick(build(('..... ..... .....', 0.9)), (0, 0, 1, 1), (0, 0))[1] == 0


def test_the_detector_sees_each_image_once_and_as_bgr(build):
    decoder = build((LEFT, 0.5), (RIGHT, 0.6))
    boxes, points = torch.zeros(2, 4), torch.zeros(2, 1, 2)
    decoder(IMAGE, boxes, points)
    decoder(IMAGE.copy(), boxes[:1], points[:1])
    decoder(IMAGE, boxes[:0], points[:0])
    (seen, ) = decoder.detector.seen
    assert seen[:, 0, 1].tolist() == IMAGE[0, 1].tolist()[::-1]
    decoder(IMAGE + 1, boxes, points)
    assert len(decoder.detector.seen) == 2
    again = build((LEFT, 0.5), cache_size=0)
    for _ in range(2):
        again(IMAGE, boxes, points)
    assert len(again.detector.seen) == 2


def test_a_detector_without_masks_is_refused(build):
    with pytest.raises(TypeError, match=r'a GivenInstances predicts no masks, only \[.bboxes., '
                                        r'.scores.\].*BoxDecoder'):
        pick(build((LEFT, 0.5), with_masks=False), (0, 0, 1, 1), (0, 0))


@pytest.mark.parametrize('name', ['mask_rcnn', *DETECTORS])
def test_detectors_of_mmdet_from_a_checkpoint(name, tiny_mask_rcnn, tmp_path):
    path, options = (DETECTORS | {'mask_rcnn': (MASK_RCNN, tiny_mask_rcnn)})[name]
    arguments = dict(type='DetectorDecoder', config=path, cfg_options=SMALL_IMAGES | options,
                     score_thr=0.0)
    torch.manual_seed(0)
    random = MODELS.build(dict(arguments, allow_random=True))
    state = dict(random.detector.state_dict(), **{'data_preprocessor.mean': torch.zeros(3)})
    torch.save(dict(meta=dict(dataset_meta=dict(classes=('a', ))), state_dict=state),
               tmp_path / 'detector.pth')
    decoder = MODELS.build(dict(arguments, checkpoint=str(tmp_path / 'detector.pth')))
    assert DefaultScope.get_current_instance().scope_name == 'mmdpad'
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    masks, scores = decoder(image, BOXES, POINTS)
    assert masks.shape == (2, 48, 80) and masks.dtype == torch.bool and scores.shape == (2, )
    assert masks.any() and scores.max() > 0
    expected = random(image, BOXES, POINTS)
    assert torch.equal(masks, expected[0]) and torch.equal(scores, expected[1])
    assert not any(p.requires_grad for p in decoder.parameters())
    assert not any(module.training for module in decoder.train().modules())


def test_what_cannot_be_built(tiny_mask_rcnn, tmp_path):
    with pytest.raises(ValueError, match='got None.*allow_random=True'):
        DetectorDecoder(MASK_RCNN)
    with pytest.raises(FileNotFoundError, match='a.pth. does not exist. Download the checkpoint'):
        DetectorDecoder(MASK_RCNN, str(tmp_path / 'a.pth'))
    with pytest.raises(FileNotFoundError):
        DetectorDecoder(str(tmp_path / 'a.py'), allow_random=True)
    with pytest.raises(ValueError, match='no `model` and no `test_dataloader`'):
        DetectorDecoder(dict(type='MaskRCNN'), allow_random=True)
    torch.save(dict(state_dict=dict(weight=torch.zeros(1))), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='do not fit the model.*missing'):
        DetectorDecoder(MASK_RCNN, str(tmp_path / 'other.pth'), tiny_mask_rcnn)


def test_as_a_part_of_the_segmentor(tiny_config, tiny_mask_rcnn):
    tiny_config.model.decoder = dict(
        type='DetectorDecoder', config=MASK_RCNN, allow_random=True, score_thr=0.0,
        cfg_options=SMALL_IMAGES | tiny_mask_rcnn)
    torch.manual_seed(0)
    model = MODELS.build(tiny_config.model)
    assert all(key.startswith('policy.') for key in model.state_dict())
    assert not model.train().decoder.detector.training
    answer = AnsweredObject((0., 0., 111., 111.), ((56., 56.), (60., 60.)))
    image = torch.zeros(3, 48, 80, dtype=torch.uint8)
    found = model.decode_masks([answer, answer], image, (112, 112))
    assert found.masks.shape == (2, 48, 80) and torch.equal(*found.masks)
    assert found.scores.shape == (2, )


@pytest.mark.gpu
@pytest.mark.parametrize('name', ['mask_rcnn', *DETECTORS])
def test_on_a_gpu(name, tiny_mask_rcnn):
    """mmcv with CUDA operators; random weights find much the same everywhere."""
    path, options = (DETECTORS | {'mask_rcnn': (MASK_RCNN, tiny_mask_rcnn)})[name]
    torch.manual_seed(0)
    decoder = DetectorDecoder(path, cfg_options=SMALL_IMAGES | options, score_thr=0.0,
                              allow_random=True)
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    masks, scores = decoder(image, BOXES, POINTS)
    there, there_scores = decoder.to('cuda')(image, BOXES, POINTS)
    assert there.device.type == there_scores.device.type == 'cuda'
    torch.testing.assert_close(there_scores.cpu(), scores, atol=1e-3, rtol=1e-2)
    assert (there.cpu() == masks).float().mean() > 0.97
