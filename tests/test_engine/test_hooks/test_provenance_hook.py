# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
from pathlib import Path
from unittest.mock import patch

import pytest
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdpad.engine.hooks import provenance_hook, response_cache_hook
from mmdpad.engine.hooks.response_cache_hook import digest_weights
from mmdpad.evaluation.provenance import hash_image, published
from mmdpad.models import BoxDecoder, Calibration, LikelihoodScorer
from mmdpad.utils import read_jsonl


def test_a_decoder_without_variants_is_its_class():
    assert provenance_hook._kind(BoxDecoder()) == 'BoxDecoder'


@pytest.fixture
def hashed(monkeypatch):
    """The modules whose weights were hashed."""
    modules = []

    def spy(module):
        modules.append(module)
        return digest_weights(module)

    for hooks in (response_cache_hook, provenance_hook):
        monkeypatch.setattr(hooks, 'digest_weights', spy)
    return modules


@pytest.fixture
def config(tiny_config):
    """Two samples, answered in a few tokens, with one metric."""
    tiny_config.merge_from_dict({
        'test_dataloader.dataset.indices': 2, 'test_evaluator': [tiny_config.test_evaluator[0]],
        'model.test_cfg.max_new_tokens': 3, 'model.train_cfg.max_new_tokens': 3,
        'model.train_cfg.group_size': 2})
    return tiny_config


def result_of(runner, name='reasonseg'):
    return json.loads(Path(runner.log_dir, f'{name}.json').read_text())


def test_a_test_says_what_it_is_and_hashes_weights_once(config, hashed):
    config.test_dataloader.dataset.split = 'val'
    config.train_dataloader.dataset.data_root = 'not/there'  # a test needs no training data
    runner = Runner.from_cfg(config)
    runner.test()
    result = result_of(runner)
    assert result['protocol'] == dict(
        ignore_regions='target', failed_samples='IoU 0, union = target area',
        dataset='ReasonSegDataset', split='val', texts='first', num_samples=None, sample_seed=9,
        several_objects=False, model_image_size=[112, 112], decoder='SAMDecoder(vit_shapes)',
        reference_compatible=False, prompt_template='find "{question}"',
        coordinates='pixels', test_cfg=dict(temperature=0.0, max_new_tokens=3))
    about = result['provenance']
    assert about.keys() == {'checkpoint', 'iter', 'weights', 'config', 'data_root', 'data',
                            'versions', 'device', 'seed', 'command'}
    assert (about['checkpoint'], about['iter'], about['seed']) == (None, 0, 0)
    assert about['data']['items'] == 2 and len(about['config']) == 64
    model = runner.model
    assert about['weights'] == dict(policy=digest_weights(model.policy),
                                    decoder=digest_weights(model.decoder))
    assert hashed == [model.decoder, model.policy]
    (answers, ) = Path(runner.log_dir).glob('answers.jsonl')
    assert next(read_jsonl(str(answers)))['weights'] == about['weights']['policy']
    assert published() == {}, 'it holds for this test only'


def test_a_validation_names_the_weights_of_its_iteration(config, hashed):
    config.val_cfg = dict(type='ReasonSegValLoop')
    config.val_dataloader = config.test_dataloader
    config.val_evaluator = config.test_evaluator
    config.train_cfg.update(max_iters=2, val_interval=1)
    runner = Runner.from_cfg(config)
    runner.train()
    first, second = (result_of(runner, f'reasonseg_iter_{i}')['provenance'] for i in (1, 2))
    assert (first['iter'], second['iter']) == (1, 2)
    assert first['weights']['policy'] != second['weights']['policy']
    assert first['weights']['decoder'] == second['weights']['decoder']
    assert hashed.count(runner.model.decoder) == 1 and len(hashed) == 3
    assert first['config'] == second['config'] and first['data'] == second['data']


def test_scorer_and_calibration_are_named(config, tmp_path):
    """With warnings for images that the calibration was fitted on, and for another policy."""
    image = next(iter(Runner.build_dataloader(config.test_dataloader).dataset))['data_samples']
    fitted = Calibration(
        'isotonic', ('score', ), dict(x=[0.0], y=[0.5]), 0.5, LikelihoodScorer().options(),
        dict(images=[hash_image(image.img_path, image.img_id), 'another'], policy='other'))
    config.merge_from_dict({
        'model.tasks': dict(detection=dict(type='DetectionTask', template='find "{question}"')),
        'model.policy.prompt_template': 'default',
        'model.box_scorer': dict(type='LikelihoodScorer',
                                 calibration=fitted.write(str(tmp_path / 'c.json')))})
    runner = Runner.from_cfg(config)
    seen = []
    runner.register_hook(type('Look', (Hook, ), dict(
        before_test_iter=lambda self, runner, *args, **kwargs: seen.append(published())))())
    runner.test_evaluator.metrics.clear()
    with patch.object(runner.logger, 'warning') as warn:
        runner.test()
    images, policy = (call.args[0] for call in warn.call_args_list)
    assert 'was fitted on 1 of the 2 images' in images
    assert 'was fitted to the boxes of a policy with other weights' in policy
    fitted.fitted_on.update(images=[], policy=digest_weights(runner.model.policy))
    runner.model.box_scorer.calibration = fitted
    with patch.object(runner.logger, 'warning') as warn:
        provenance_hook.ProvenanceHook().before_test(runner)
    warn.assert_not_called()
    scorer = seen[0]['protocol']['box_scorer']
    assert scorer.pop('calibration') == dict(fitted.read(str(tmp_path / 'c.json')).describe(),
                                             common_images=1)
    assert scorer == dict(type='LikelihoodScorer', of='label', reduce='mean')
