# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""However a config is written, it means the same: names with and without scope, paths, classes,
`_base_` by path and by package, MMEngine's pure Python style, and other packages' scopes."""
import sys
from pathlib import Path

import pytest
from mmdet.evaluation import RefSegMetric
from mmdet.registry import MODELS as MODELS_OF_MMDET
from mmengine.config import Config
from mmengine.config.lazy import LazyObject
from mmengine.registry import HOOKS as HOOKS_OF_MMENGINE
from mmengine.registry import METRICS as METRICS_OF_MMENGINE
from mmengine.registry import DefaultScope, Registry
from mmengine.runner import Runner

from mmdpad.analysis.caption_scores import find_reward
from mmdpad.apis.reason_seg_inferencer import build_pipeline
from mmdpad.cli.run import main as run
from mmdpad.datasets.transforms import without_pixels
from mmdpad.engine.check_config import check_config
from mmdpad.engine.config_nodes import find_nodes
from mmdpad.evaluation.provenance import hash_config
from mmdpad.models import SAMDecoder
from mmdpad.preflight import dry_run, make_smoke_config, run_smoke
from mmdpad.preflight.cost import read_config_cost
from mmdpad.preflight.smoke import copy_config
from mmdpad.registry import LOOPS, METRICS, MODELS, REWARDS, is_kind, resolve
from mmdpad.rewards import BoxIoUReward, RewardComposition
from mmdpad.utils import config_parser, load_config

ROOT = Path(__file__).parents[1]
TINY = ROOT / 'configs/dpad/tiny_shapes.py'
PURE = """
from mmengine.config import read_base

with read_base():
    from mmdpad.configs.dpad.tiny_shapes import *

from mmdpad.datasets.transforms import (LoadReasoningImage, LoadReasonSegMask, PackReasoningInputs,
                                        ModelImageResize, TargetsFromMask)
from mmdpad.engine.hooks import DiscriminativeRewardHook
from mmdpad.engine.runner import GRPOTrainLoop
from mmdpad.evaluation.metrics import ReasonSegMetric
from mmdpad.models import CLIPDiscriminator, ReasoningSegmentor, SAMDecoder, SharedPrefixRollout
from mmdpad.rewards import (BoxIoUReward, BoxL1Reward, PointL1Reward, SegmentationFormatReward,
                            ThinkingFormatReward)
from torch.optim import AdamW

model.update(type=ReasoningSegmentor, decoder=dict(type=SAMDecoder),
             rollout_engine=dict(type=SharedPrefixRollout))
discriminator.update(type=CLIPDiscriminator)
custom_hooks = [dict(type=DiscriminativeRewardHook, discriminator=discriminator, form='binary')]
rewards = dict(
    thinking_format=dict(type=ThinkingFormatReward),
    segmentation_format=dict(type=SegmentationFormatReward),
    box_iou=dict(type=BoxIoUReward, threshold=0.5),
    box_l1=dict(type=BoxL1Reward, threshold=2), point_l1=dict(type=PointL1Reward, threshold=13))
train_cfg.update(type=GRPOTrainLoop, rewards=rewards)
optim_wrapper.update(optimizer=dict(type=AdamW))
pipeline = [dict(type=LoadReasoningImage), dict(type=LoadReasonSegMask),
            dict(type=ModelImageResize, size=model_image_size), dict(type=TargetsFromMask),
            dict(type=PackReasoningInputs)]
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader.dataset.update(pipeline=pipeline)
del loader
test_evaluator = [dict(type=ReasonSegMetric, ignore_regions='target', save_masks=True)]
custom_imports = dict(imports=['imported_by_a_pure_config'])
"""


def load(path, *options) -> Config:
    options = ['--cfg-options', *options] if options else []
    return load_config(config_parser('', 'a=1').parse_args([str(path), *options]))


@pytest.fixture
def inherited(tmp_path) -> Path:
    """A config that inherits ours by name, and a variable of it."""
    path = tmp_path / 'mine.py'
    path.write_text("_base_ = 'mmdpad::dpad/tiny_shapes.py'\n"
                    "train_cfg = dict(rewards=dict(_delete_=True, **_base_.rewards))\n")
    return path


@pytest.fixture
def pure(tmp_path, monkeypatch) -> Path:
    """The toy model's config with classes as types, in MMEngine's pure Python style."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'imported_by_a_pure_config.py').touch()
    path = tmp_path / 'pure.py'
    path.write_text(PURE)
    yield path
    sys.modules.pop('imported_by_a_pure_config', None)


@pytest.mark.parametrize('name', [
    'SAMDecoder', 'mmdpad.SAMDecoder', 'mmdet.mmdpad.SAMDecoder', 'mmdpad.models.SAMDecoder',
    'mmdpad.models.decoders.sam_decoder.SAMDecoder', SAMDecoder,
    LazyObject('mmdpad.models', 'SAMDecoder')], ids=str)
def test_every_way_to_name_a_class(name):
    assert resolve(dict(type=name), MODELS) is SAMDecoder
    assert is_kind(dict(type=name), SAMDecoder, MODELS)


def test_a_name_means_what_a_build_would_take():
    assert resolve(dict(type='RefSegMetric'), METRICS) is not RefSegMetric
    for scoped in (dict(type='RefSegMetric', _scope_='mmdet'), dict(type='mmdet.RefSegMetric')):
        assert resolve(scoped, METRICS) is RefSegMetric
    assert resolve(dict(type='RefSegMetric'), METRICS, 'mmdet') is RefSegMetric
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert resolve(dict(type='RefSegMetric'), METRICS) is RefSegMetric
        assert resolve(dict(type='SAMDecoder'), MODELS) is None  # a build would not find it
        assert resolve(dict(type='mmdpad.SAMDecoder'), MODELS) is SAMDecoder
        assert resolve(dict(type='BoxIoUReward'), REWARDS) is BoxIoUReward
    for nothing in (dict(), dict(type=None), dict(type=3), dict(type=''), dict(type='Nope'),
                    dict(type='mmdpad.Nope'), dict(type='no.such.Thing')):
        assert resolve(nothing, MODELS) is None


def test_a_subclass_is_of_the_kind():
    @LOOPS.register_module(name='LoopOfATest')
    class Loop(LOOPS.get('GRPOTrainLoop')):
        pass

    try:
        assert is_kind(dict(type='LoopOfATest'), LOOPS.get('GRPOTrainLoop'), LOOPS)
    finally:
        del LOOPS.module_dict['LoopOfATest']


def named_otherwise(config: Config, write) -> Config:
    """A config whose names of ours are written in another way."""
    config = copy_config(config)
    for node in list(find_nodes(config)):
        kind = node.kind
        if (getattr(kind, '__module__', None) or '').startswith('mmdpad.'):
            node.entry['type'] = write(kind)
    return config


@pytest.mark.parametrize('write', [
    lambda kind: f'mmdpad.{kind.__name__}', lambda kind: f'{kind.__module__}.{kind.__qualname__}',
    lambda kind: kind], ids=['scope', 'path', 'class'])
def test_checks_and_estimates_do_not_depend_on_how_a_type_is_written(write, shapes_data, tmp_path):
    config = load(TINY, *(f'{name}_dataloader.dataset.data_root={shapes_data}'
                          for name in ('train', 'val', 'test')))
    other = named_otherwise(config, write)
    assert other.train_cfg.type != config.train_cfg.type
    assert check_config(other).problems == []
    assert read_config_cost(other) == read_config_cost(config)
    assert 'SAM' in read_config_cost(other).frozen
    assert dry_run(other)[0] == []
    for read in (build_pipeline,
                 lambda config: build_pipeline(dict(inference_pipeline=without_pixels(
                     config.test_dataloader.dataset)['pipeline']))):
        assert [type(step) for step in read(other).transforms] == [
            type(step) for step in read(config).transforms]
    weights = tmp_path / 'weights'
    told = [make_smoke_config(some, str(tmp_path), tmp_path / 'smoke', weights)[1]
            for some in (config, other)]
    assert len(told[0]) == len(told[1])


def test_what_is_inherited_by_name_has_no_key_that_plain_mmengine_hands_on(inherited, shapes_data):
    config = Config.fromfile(inherited)
    loader = config.train_dataloader
    loader.dataset.data_root = str(shapes_data)
    loader.update(num_workers=0, persistent_workers=False, batch_size=2)
    assert len(next(iter(Runner.build_dataloader(loader, seed=0)))['data_samples']) == 2
    assert len(RewardComposition(config.train_cfg.rewards).weights) == 5


def test_our_tools_read_what_is_inherited_by_name_as_what_is_inherited_by_path(inherited, tmp_path):
    by_path = tmp_path / 'by_path.py'
    by_path.write_text(inherited.read_text().replace('mmdpad::dpad/tiny_shapes.py', str(TINY)))
    assert load(inherited).to_dict() == load(by_path).to_dict()
    hook = Config.fromfile(inherited)  # as plain mmengine reads it
    assert find_reward(hook).keys() == {'discriminator', 'form'}


def test_a_scope_that_means_something_stays(tmp_path):
    (tmp_path / 'mine.py').write_text(
        "_base_ = 'mmdet::_base_/datasets/coco_instance.py'\ndefault_scope = 'mmdpad'\n"
        "test_dataloader = dict(collate_fn=dict(type='pseudo_collate', _scope_='mmdet'))\n")
    config = load(tmp_path / 'mine.py')
    assert config.test_evaluator['_scope_'] == 'mmdet'
    assert config.test_dataloader.collate_fn == dict(type='pseudo_collate')


def test_the_pure_python_style_is_read_as_the_classical_one(pure, shapes_data):
    config, classical = load(pure), load(TINY)
    assert 'imported_by_a_pure_config' in sys.modules
    assert config.model.type.__name__ == 'ReasoningSegmentor'
    assert check_config(config).problems == []
    assert read_config_cost(config) == read_config_cost(classical)
    assert [type(step) for step in build_pipeline(config).transforms] == [
        type(step) for step in build_pipeline(classical).transforms]
    assert len(RewardComposition(config.train_cfg.rewards).weights) == 5
    changed = load(pure, 'train_cfg=dict(max_iters=3)',
                   'custom_hooks.DiscriminativeRewardHook.form=margin',
                   'train_cfg.rewards.box_iou.threshold=0.7')
    assert changed.train_cfg.max_iters == 3 and changed.custom_hooks[0].form == 'margin'
    assert changed.train_cfg.rewards.box_iou == dict(type=BoxIoUReward, threshold=0.7)


def test_a_dump_of_the_pure_python_style_means_the_same(pure, tmp_path):
    config = load(pure, 'train_cfg.max_iters=3')
    for some in (config, copy_config(config)):
        some.dump(tmp_path / 'dumped.py')
        dumped = load(tmp_path / 'dumped.py')
        assert dumped.to_dict() == config.to_dict()
        assert 'BoxIoUReward' not in dumped and 'BoxIoUReward' not in copy_config(config)
        assert {node.path: node.kind for node in find_nodes(dumped)} == {
            node.path: node.kind for node in find_nodes(config)}
    assert hash_config(config) == hash_config(copy_config(config))


def test_a_smoke_run_tries_the_classes_that_run(pure, tmp_path):
    config, _ = make_smoke_config(load(pure), str(tmp_path / 'run'), tmp_path)
    assert config.train_cfg.rewards.box_iou.type is BoxIoUReward
    config.experiment_name = f'smoke_{tmp_path.name}'
    run_smoke(config)
    dumped = sorted((tmp_path / 'run').glob('*.py'))
    assert dumped and all(Config.fromfile(path).train_cfg.rewards.box_iou.type
                          == 'mmdpad.rewards.BoxIoUReward' for path in dumped)


def test_our_configs_are_offered_in_the_pure_python_style(tmp_path):
    configs, offered = ROOT / 'configs', ROOT / 'mmdpad/configs'
    names = {path.relative_to(configs) for path in configs.rglob('*.py')}
    names = {name for name in names if all(map(str.isidentifier, name.with_suffix('').parts))}
    assert {path.relative_to(offered) for path in offered.rglob('*.py')} - names == {
        Path('_load.py')}
    for name in names:
        assert (offered / name).samefile(offered / '_load.py'), name
    for name in ('dpad/tiny_shapes', 'dpad/qwen7b_lora_reasonseg', 'study/caption'):
        path = tmp_path / 'child.py'
        path.write_text('from mmengine.config import read_base\n\nwith read_base():\n'
                        f'    from mmdpad.configs.{name.replace("/", ".")} import *\n')
        classical = Config.fromfile(ROOT / f'mmdpad/.mim/configs/{name}.py').to_dict()
        assert Config.fromfile(path).to_dict() == classical
        assert Config.fromfile(offered / f'{name}.py').to_dict() == classical


def test_a_missing_base_is_reported_in_a_line(tmp_path):
    path = tmp_path / 'child.py'
    for base, hint in {'mmdpad.configs.dpad.nope': 'nope.py not found.*; correct it$',
                         'mmdet.configs.nope': 'wheels of mmdet have no'}.items():
        path.write_text('from mmengine.config import read_base\n\nwith read_base():\n'
                        f'    from {base} import *\n')
        with pytest.raises(SystemExit, match=f'child.py.*{hint}'):
            load(path)


@pytest.fixture
def third_scope():
    """What mmseg and others have: children of mmengine's registries."""
    parents = HOOKS_OF_MMENGINE, METRICS_OF_MMENGINE, MODELS_OF_MMDET.parent
    children = [Registry(parent.name, parent=parent, scope='third') for parent in parents]
    with DefaultScope.overwrite_default_scope('third'):
        yield children
    for parent in parents:
        del parent.children['third']


def test_a_third_scope_finds_our_parts_by_their_prefix(third_scope):
    hooks, metrics, models = third_scope
    for name in ('mmdpad.SafeCheckpointHook', 'mmdet.mmdpad.SafeCheckpointHook'):
        for registry in (hooks, HOOKS_OF_MMENGINE):
            assert type(registry.build(dict(type=name))).__name__ == 'SafeCheckpointHook'
    assert METRICS_OF_MMENGINE.build(dict(type='mmdpad.ReasonSegMetric')).default_prefix
    assert models.get('mmdpad.SAMDecoder') is SAMDecoder
    assert resolve(dict(type='mmdpad.SAMDecoder'), MODELS) is SAMDecoder
    assert resolve(dict(type='SAMDecoder'), MODELS) is None


def test_tools_of_mmdet_run_where_ours_are_known(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', sys.argv)
    with pytest.raises(SystemExit) as end:
        run(['mmdet::train', '--help'])
    assert end.value.code == 0 and 'Train a detector' in capsys.readouterr().out
    for name, message in {'mmdet::trian': 'no trian.py in', 'no_such::train': "'no_such'"}.items():
        with pytest.raises(SystemExit, match=message):
            run([name])
