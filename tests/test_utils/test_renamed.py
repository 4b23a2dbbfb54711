# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Every name from before 0.1.0, in a config: the dry run and the start of a run say the new one."""
from contextlib import suppress
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import pytest

from mmdpad.engine.build import UnsuitableConfig, build_runner
from mmdpad.preflight import dry_run
from mmdpad.registry import HOOKS, REWARDS, TRANSFORMS
from mmdpad.rl import GRPOLoss
from mmdpad.utils import KeyValueError, open_config, override
from mmdpad.utils.configs import UnreadableConfig, import_names
from mmdpad.utils.renamed import RENAMED, advice, advice_in

ROOT = Path(__file__).parents[2]


def use_old_types(config):
    config.train_cfg.rewards.length = dict(type='ChainLengthReward')
    config.train_dataloader.dataset.pipeline.append(dict(type='PromptResize'))
    config.custom_hooks += [dict(type='mmdpad.PlainCheckpointHook'), dict(type='AnswerStoreHook'),
                            dict(type='AnswerPictureHook')]


def use_old_arguments(config):
    config.train_cfg.updates_per_rollout = 1
    config.default_hooks.alarms.chain_share = 0.5
    config.model.rollout_engine = dict(type='SharedPrefixRollout', compile=True)


def use_old_metrics(config):
    for name in ('dataloader', 'cfg', 'evaluator'):
        config[f'val_{name}'] = config[f'test_{name}']
    config.default_hooks.checkpoint.save_best = [f'reasonseg/{old}' for old in RENAMED['metric']]


USE_OLD = {
    'type': use_old_types, 'argument': use_old_arguments, 'metric': use_old_metrics,
    'sampling': lambda config: config.model.train_cfg.update(
        dict.fromkeys(RENAMED['sampling'], 1)),
    'default hook': lambda config: config.default_hooks.update(
        dict.fromkeys(RENAMED['default hook'])),
    'log': lambda config: config.log_processor.update(custom_cfg=[
        dict(data_src=old, method_name='max', window_size=1) for old in RENAMED['log']]),
    'alarm': lambda config: config.custom_hooks.extend(
        dict(type='AlarmHook', stop=[old]) for old in RENAMED['alarm']),
    'module': lambda config: config.update(custom_imports=dict(
        imports=[*RENAMED['module']], allow_failed_imports=True))}
# A metric is compared with those of the evaluator only if every value can be read.
AT_ONCE = [[kind for kind in USE_OLD if kind != 'metric'], ['metric']]


@pytest.mark.parametrize('kinds', AT_ONCE, ids=' '.join)
def test_the_dry_run_and_the_start_of_a_run_say_every_new_name(tiny_config, kinds):
    assert {*RENAMED} - {'variable'} == {kind for some in AT_ONCE for kind in some}
    for kind in kinds:
        USE_OLD[kind](tiny_config)
    with pytest.raises(UnsuitableConfig) as refusal:
        build_runner(tiny_config)
    lines = str(refusal.value).splitlines()
    assert [(kind, old) for kind in kinds for old, new in RENAMED[kind].items() if not any(
        old in line and f'{new} now; write that' in line for line in lines)] == []
    assert set(lines) <= set(dry_run(tiny_config)[0])


@pytest.mark.parametrize('text', [
    'import mmdpad.testing', 'from mmdpad.testing.sam import build_sam_shapes',
    "custom_imports = dict(imports=['mmdpad.testing'], allow_failed_imports=False)"])
def test_an_old_module_ends_the_reading_of_a_config(tmp_path, text):
    path = tmp_path / 'config.py'
    path.write_text(f"_base_ = '{ROOT}/configs/dpad/tiny_shapes.py'\n{text}\n")
    with pytest.raises(UnreadableConfig, match=r'is called mmdpad\.toy(\.sam)? now; write that$'):
        open_config(str(path))


def test_an_old_class_that_a_config_imports(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text('from mmengine.config import read_base\n'
                    'from mmdpad.datasets.transforms import PromptResize\n'
                    'pipeline = [dict(type=PromptResize)]\n')
    with pytest.raises(UnreadableConfig, match='called ModelImageResize now; write that$'):
        import_names(open_config(str(path))._cfg_dict)


def test_an_old_variable_of_a_base_config(tmp_path):
    path = tmp_path / 'config.py'
    base = f"_base_ = '{ROOT}/configs/dpad/tiny_shapes.py'\n"
    path.write_text(base + 'size = _base_.prompt_size\n')
    with pytest.raises(UnreadableConfig, match='called model_image_size now; write that$'):
        open_config(str(path))
    path.write_text(base + 'size = _base_.somebodys_size\n')
    with pytest.raises(AttributeError, match='somebodys_size'):
        open_config(str(path))


def test_an_old_class_in_the_path_of_an_option(tiny_config):
    with pytest.raises(KeyValueError, match='it is called SafeCheckpointHook now; write that$'):
        override(tiny_config, {'custom_hooks.PlainCheckpointHook.priority': 'LOW'})


def test_new_names_exist_and_old_ones_do_not():
    for old, new in RENAMED['module'].items():
        assert find_spec(new), new
        with suppress(ModuleNotFoundError):  # of its parent
            assert not find_spec(old), old
    for old, new in RENAMED['type'].items():
        found = [(old in place.module_dict, new in place.module_dict)
                 for place in (HOOKS, REWARDS, TRANSFORMS)]
        assert sorted(found)[-1] == (False, True), new
    names = {new.partition(' ')[0].rpartition('.')[2] for new in RENAMED['sampling'].values()}
    assert names <= signature(GRPOLoss).parameters.keys()


@pytest.mark.parametrize('kind, old, new', [
    ('type', 'mmdpad.PlainCheckpointHook', 'mmdpad.SafeCheckpointHook'),
    ('type', 'mmdpad.models.decoders.sam2_decoder.SAM2Decoder',
     'mmdpad.models.decoders.hf_sam_decoder.SAM2Decoder'),
    ('module', 'mmdpad.engine.trial.dry_run', 'mmdpad.preflight.dry_run'),
    ('module', 'mmdpad.engine.trial.made_data', 'mmdpad.preflight.synthetic_data'),
    ('metric', 'reasonseg/think_tokens', 'reasonseg/reasoning_tokens'),
    ('module', 'mmdpad.testings', None), ('type', 'SafeCheckpointHook', None),
    ('argument', 'answers', None)])
def test_names_with_a_path_or_a_prefix(kind, old, new):
    assert advice(kind, old) == (new and f'it is called {new} now; write that')
    if kind == 'type':
        assert advice_in(f'cannot import {old} here') == (
            new and f'{old}: it is called {new} now; write that')
