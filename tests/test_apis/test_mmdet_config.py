# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""mmdet's and mmengine's own interfaces answer as ours does."""
import mmcv
import numpy as np
import pytest
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.hub import get_model
from mmengine.registry import DefaultScope

from mmdpad.apis import ReasonSegInferencer, config_for_mmdet
from mmdpad.datasets.transforms import QuestionFromTextPrompt, read_image
from mmdpad.models import ReasoningSegmentor

QUESTION = 'the red circle'


@pytest.fixture
def config(tiny_config):
    tiny_config.visualizer = dict(type='DetLocalVisualizer', name=tiny_config.experiment_name)
    return config_for_mmdet(tiny_config)


@pytest.fixture
def photo(shapes_data):
    return str(sorted(shapes_data.glob('test/*.jpg'))[0])


def test_inference_detector(config, tiny_config, photo):
    (expected, ) = ReasonSegInferencer(tiny_config)(photo, QUESTION)
    model = init_detector(config, device='cpu', cfg_options={})
    sample = inference_detector(model, photo, text_prompt=QUESTION)
    assert sample.question == QUESTION
    assert sample.reasoning['response'] == expected['response']
    assert np.array_equal(sample.pred_instances.masks.numpy().any(axis=0), expected['mask'])
    with pytest.raises(ValueError, match='should be a question, but got None.*`text_prompt`.*'
                                         'ReasonSegInferencer'):
        inference_detector(model, photo)
    image = np.ascontiguousarray(read_image(photo)[..., ::-1])
    samples = inference_detector(model, [image], text_prompt=QUESTION)
    assert [one.reasoning['response'] for one in samples] == [expected['response']]


def test_det_inferencer(config, photo, tmp_path):
    infer = DetInferencer(config, device='cpu', scope='mmdpad', show_progress=False)
    found = infer([photo, mmcv.imread(photo)], texts=QUESTION, batch_size=2,
                  out_dir=str(tmp_path), no_save_pred=False, return_vis=True)
    assert len(found['predictions']) == len(found['visualization']) == 2
    for answer in found['predictions']:
        assert len(answer['bboxes']) == len(answer['masks']) == len(answer['scores']) == 1
    assert len(list(tmp_path.glob('preds/*.json'))) == len(list(tmp_path.glob('vis/*.jpg'))) == 2


@pytest.mark.parametrize('scope', ['mmdet', 'mmengine'])
def test_steps_that_need_annotations_are_left_out_in_any_scope(tiny_config, scope):
    """Of the first of several data sets, whatever scope an earlier model of mmdet left."""
    dataset = tiny_config.test_dataloader.dataset
    dataset.pipeline[1:1] = [dict(type='QuestionFromLabel'), dict(type='TargetsFromBoxes')]
    tiny_config.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[dataset] * 2)
    with DefaultScope.overwrite_default_scope(scope):
        steps = config_for_mmdet(tiny_config).test_dataloader.dataset.pipeline
    assert [step['type'] for step in steps] == [
        'LoadImageFromFile', 'QuestionFromTextPrompt', 'LoadReasoningImage', 'ModelImageResize',
        'PackReasoningInputs']


def test_get_model():
    with DefaultScope.overwrite_default_scope('mmengine'):
        model = get_model('mmdpad::dpad/tiny_shapes.py')
    assert isinstance(model, ReasoningSegmentor)


def test_an_array_becomes_rgb():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    results = QuestionFromTextPrompt()(dict(img=image, img_path=None, text='what?', img_id=0))
    assert np.array_equal(results['img'], image[..., ::-1]) and 'img_path' not in results
    assert results['question'] == 'what?'
