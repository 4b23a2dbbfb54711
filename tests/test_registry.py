# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Names resolve in both directions, each in a fresh interpreter with nothing imported before."""
import inspect
import subprocess
import sys

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmdpad.registry import scope_of

OURS = '''
from mmengine.registry import DATA_SAMPLERS, HOOKS, LOOPS, MODELS, init_default_scope
init_default_scope('mmdpad')
for registry, name in ((MODELS, 'ReasoningSegmentor'), (MODELS, 'MaskRCNN'),
                       (LOOPS, 'IterBasedTrainLoop'), (HOOKS, 'DiscriminativeRewardHook'),
                       (DATA_SAMPLERS, 'LengthSortedSampler'),
                       (DATA_SAMPLERS, 'DefaultSampler')):
    with registry.switch_scope_and_registry(None) as ours:
        print(ours.get(name).__module__)
'''
THEIRS = '''
import sys
from mmengine.config import Config
from mmengine.registry import HOOKS, METRICS, init_default_scope
config = Config.fromfile(sys.argv[1])
init_default_scope(config.default_scope)
print(config.default_scope)
print(type(HOOKS.build(config.custom_hooks[0])).__name__)
print(type(METRICS.build(config.val_evaluator)).__name__)
'''


def printed(code: str, *arguments) -> list[str]:
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, *map(str, arguments)],
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_in_our_scope_no_name_needs_a_prefix():
    assert printed(OURS) == [
        'mmdpad.models.segmentors.reasoning_segmentor', 'mmdet.models.detectors.mask_rcnn',
        'mmengine.runner.loops', 'mmdpad.engine.hooks.discriminative_reward_hook',
        'mmdpad.datasets.samplers.length_sorted_sampler', 'mmengine.dataset.sampler']


def test_the_scope_of_a_config_is_that_of_its_run():
    assert scope_of(dict(default_scope='mmdet')) == 'mmdet'
    default = inspect.signature(Runner).parameters['default_scope'].default
    assert scope_of({}) == scope_of(dict(default_scope=None)) == default
    assert scope_of({}, 'mmdpad') == 'mmdpad'


@pytest.mark.slow
def test_a_config_of_mmdet_takes_our_parts(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("""
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmdpad.engine.hooks'])
custom_hooks = [dict(type='mmdpad.SafeCheckpointHook')]
val_evaluator = dict(_delete_=True, type='mmdpad.ReasonSegMetric')
""")
    assert printed(THEIRS, config) == ['mmdet', 'SafeCheckpointHook', 'ReasonSegMetric']


def test_our_config_inherits_from_mmdet(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text("_base_ = 'mmdet::_base_/schedules/schedule_1x.py'\n"
                    "train_cfg = dict(max_epochs=3)\n")
    assert Config.fromfile(path).train_cfg.max_epochs == 3
