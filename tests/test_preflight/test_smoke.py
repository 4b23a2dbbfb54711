# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Every config passes a smoke run and then a dry run; `tools/train.py --smoke`."""
import itertools
import math
from pathlib import Path

import pytest
import torch
from mistral3_folder import make_mistral3_folder
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mostly_slow import mostly_slow
from transformers import Mistral3ForConditionalGeneration

from mmdpad import datasets
from mmdpad.datasets.checking import check_dataset
from mmdpad.datasets.transforms import ModelImageResize
from mmdpad.engine.config_nodes import find_nodes
from mmdpad.models.heads import PolicyFamily
from mmdpad.models.heads.families import FAMILIES
from mmdpad.preflight import dry_run, make_smoke_config, run_smoke
from mmdpad.preflight.synthetic_data import write_synthetic_data
from mmdpad.registry import DATASETS, MODELS, REWARDS

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path for path in ROOT.glob('configs/**/*.py') if '_base_' not in path.parts)
MAIN = ROOT / 'configs/dpad/qwen7b_reasonseg.py'
numbers = itertools.count()


@pytest.fixture(scope='session')
def weights(tmp_path_factory) -> Path:
    """Small random models, made once for all configs."""
    return tmp_path_factory.mktemp('tiny_replacements')


@pytest.fixture
def smoke_config(weights, tmp_path):
    """The smoke's version of a config file, or of a config, and what it replaced."""
    def make(config: Path | Config) -> tuple[Config, list[str]]:
        if isinstance(config, Path):
            config = Config.fromfile(config)
        config, notes = make_smoke_config(config, str(tmp_path / 'run'), tmp_path, weights)
        config.experiment_name = f'smoke_{next(numbers)}'
        config.default_hooks.pop('curves', None)  # half a second for each run
        return config, notes
    return make


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / 'configs'))


# The slow tests run them, as all others.
@pytest.mark.parametrize('name', ['glm4_5v_lora_reasonseg', 'qwen3b_refcoco_testA',
                                  'qwen7b_vllm_servers_reasonseg', 'tiny_shapes_loose_boxes'])
def test_configs_pass_the_checks(name, smoke_config):
    config, _ = smoke_config(ROOT / f'configs/dpad/{name}.py')
    with DefaultScope.overwrite_default_scope(config.default_scope):
        assert dry_run(config)[0] == []


@pytest.mark.parametrize('path', mostly_slow(CONFIGS, fast=[
    ROOT / f'configs/{name}.py' for name in (
        'dpad/tiny_shapes', 'dpad/tiny_shapes_sft', 'dpad/tiny_shapes_ovd', 'dpad/tiny_shapes_vqa',
        'dpad/tiny_shapes_zoom', 'dpad/qwen7b_reasonseg', 'dpad/internvl3_5_8b_reasonseg',
        'study/discriminative')]), ids=name_of)
def test_every_config_passes(path, smoke_config):
    if 'qlora' in path.stem:
        pytest.importorskip('bitsandbytes')
    if 'lvis' in path.stem:
        pytest.importorskip('lvis')
    config, notes = smoke_config(path)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        problems, _ = dry_run(config)
        assert problems == []
        with_small_images(config)
        runner = run_smoke(config)
    original = Config.fromfile(path)
    assert type(unwrapped(runner.model)) is MODELS.get(original.model.type)
    for part in ('policy', 'decoder'):
        assert (config.model.get(part) or {}).get('type') == (
            original.model.get(part) or {}).get('type')
    assert not any('kept as it is' in note for note in notes)
    values = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(values) == 2 and all(map(math.isfinite, values))
    validated = any(name.startswith('val/') for name in runner.message_hub.log_scalars)
    assert validated == bool(original.get('val_dataloader'))
    assert runner.iter == 2 and runner._resume and runner._load_from is None
    # With a decoder that takes captions, some objects have an instance; an agent gets to verdicts.
    found = {name.rpartition('/')[2]: log.current()
             for name, log in runner.message_hub.log_scalars.items() if name.startswith('val/')}
    assert found.get('fallback_rate', 0) < 1 and found.get('vlm_calls', 2) > 1
    assert ('fallback_rate' in found) == path.stem.endswith('sam3_concept_reasonseg')
    assert ('vlm_calls' in found) == path.stem.startswith('sam3_agent')
    if 'rewards' in config.train_cfg:
        # Half of the responses are right, but for questions about several objects or none.
        name = next(name for name in ('box_iou', 'detection_f1', 'answer')
                    if name in config.train_cfg.rewards)
        rewards, norms = (runner.message_hub.get_scalar(f'train/{name}').data[0]
                          for name in (f'reward/{name}', 'grad_norm'))
        # The IoU itself, of a box in whole pixels of the model image, is a little below 1.
        is_share = config.train_cfg.rewards[name].get('threshold', 0.5) is None
        assert max(rewards) == pytest.approx(0.5, abs=0.03 if is_share else 1e-6) or (
            'grefcoco' in path.stem or 'ovd' in path.stem)
        assert max(rewards) > 0 and max(norms) > 0


def with_small_images(config: Config) -> None:
    """Most of the time would go into their attention; the command, tested below, keeps the size."""
    for node in find_nodes(config):
        if node.is_kind(ModelImageResize) and min(node.entry['size']) > 448:
            node.entry['size'] = (448, 448)  # every family takes these


def unwrapped(model):
    return getattr(model, 'module', model)


# Arguments of data sets, where the defaults do not do.
DATA = {
    'ReasonSegDataset': dict(split='val'), 'SegZeroDataset': dict(several_objects=True),
    'JsonLinesDataset': dict(ann_file='mine/data.jsonl'),
    'MaskFolderDataset': dict(ann_file='table.json'),
    'ReferringSegDataset': dict(ann_file='a/instances.json', split_file='a/refs(unc).p',
                                data_prefix=dict(img_path='train2014/'), split='testA'),
    'CocoDataset': dict(ann_file='annotations/x.json', data_prefix=dict(img='train2017/')),
    'RoboflowDataset': dict(ann_file='valid/_annotations.coco.json',
                            data_prefix=dict(img='valid/')),
    'ODVGDataset': dict(ann_file='x.jsonl', data_prefix=dict(img='a/'), return_classes=True),
    'QuestionDataset': dict(questions=dict(type='QuestionFromLabel'), source=dict(
        type='ODVGDataset', ann_file='x.jsonl', label_map_file='map.json',
        data_prefix=dict(img='a/'), return_classes=True)),
    'GQADataset': dict(ann_file='q.json', scene_graph_file='s.json',
                       data_prefix=dict(img_path='images/')),
    'VQADataset': dict(ann_file='a.json', question_file='b/q.json',
                       data_prefix=dict(img_path='val2014/')),
    'TextVQADataset': dict(ann_file='a.json', data_prefix=dict(img_path='images/')),
    'Visual7WDataset': dict(ann_file='a.json', split='val', data_prefix=dict(img_path='images/')),
    'VisualCoTDataset': dict(ann_file='metadata/a.jsonl', data_prefix=dict(img_path='images/')),
    'AnswerLinesDataset': dict(ann_file='mine/a.jsonl')}


OURS = [name for name in datasets.__all__ if name.endswith('Dataset')
        and name not in ('ReasoningDataset', 'QuestionAnsweringDataset')]


@pytest.mark.parametrize('name', sorted({*DATA, *OURS}))
def test_synthetic_data_in_every_format(name, tmp_path):
    entry = dict(DATA.get(name, {}), type=name, pipeline=[])
    changes = write_synthetic_data(entry, tmp_path / 'made')
    assert changes, 'nothing in mmdpad/preflight/synthetic_data.py writes this format'
    entry.update(changes)
    assert check_dataset(entry, load=-1).startswith('ok: 2 items, 2 images')


def test_synthetic_data_of_no_and_several_objects(tmp_path):
    entry = dict(DATA['ReferringSegDataset'], type='ReferringSegDataset', pipeline=[],
                 several_objects=True, split_file='grefs(unc).json')
    entry.update(write_synthetic_data(entry, tmp_path / 'made'))
    built = DATASETS.build(entry)
    assert [item['num_targets'] for item in built] == [1, 1, 2, 0]


def test_wrapped_data_sets_and_foreign_classes(smoke_config, tmp_path):
    config = Config.fromfile(MAIN)
    own = dict(type='ReasonSegDataset', data_root='data/mine', pipeline=[])
    config.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[
        dict(type='RepeatDataset', times=2, dataset=own), dict(own, data_root='data/other'),
        dict(type='mmdet.VOCDataset', data_root='data/voc')])
    made, notes = smoke_config(config)
    repeated, other, foreign = made.train_dataloader.dataset.datasets
    assert repeated.dataset.data_root != other.data_root
    assert all(Path(part.data_root).is_dir() for part in (repeated.dataset, other))
    assert foreign.data_root == 'data/voc'
    assert any('VOCDataset): kept as it is' in note for note in notes)
    assert config.train_dataloader.dataset.datasets[1].data_root == 'data/other'  # left alone


def test_a_term_that_keeps_its_weights_is_reported(smoke_config, monkeypatch):
    monkeypatch.setitem(REWARDS.module_dict, 'WeightedTerm', lambda rollout, checkpoint: None)
    config = Config.fromfile(MAIN)
    config.train_cfg.rewards.custom = dict(type='WeightedTerm', checkpoint='custom.pth')
    made, notes = smoke_config(config)
    assert made.train_cfg.rewards.custom.checkpoint == 'custom.pth'
    assert any(note.startswith('train_cfg.rewards.custom (WeightedTerm): kept as it is, with its '
                               'own weights') for note in notes)


def test_a_policy_of_another_family_stays(smoke_config, monkeypatch, tmp_path):
    monkeypatch.setitem(FAMILIES, 'mistral3', PolicyFamily(
        'Mine', Mistral3ForConditionalGeneration, 'pixels'))
    config = Config.fromfile(MAIN)
    config.model.policy.pretrained = make_mistral3_folder(tmp_path)
    made, notes = smoke_config(config)
    assert made.model.policy.pretrained == str(tmp_path)
    assert any(note.startswith('model.policy (VLMReasoningHead): kept as it is') for note in notes)


def test_what_is_replaced_is_reported(smoke_config):
    _, notes = smoke_config(MAIN)
    told = '\n'.join(notes)
    for part in ('model.policy (VLMReasoningHead): a random qwen2_5_vl',
                 'in place of checkpoints/Qwen2.5-VL-7B-Instruct', 'a random vit_shapes in place '
                 'of vit_h', 'custom_hooks.0.discriminator', 'in place of data/refCOCOg_9k_840/',
                 'every second response', 'train_dataloader.batch_size: 2 in place of 16',
                 'train_cfg.max_iters: 2 in place of 187'):
        assert part in told
    if not torch.cuda.is_available():
        assert 'OptimWrapper, in float32, in place of AmpOptimWrapper' in told


def test_the_command_writes_nothing_of_its_own(run_here, tmp_path):
    done = run_here(ROOT / 'tools/train.py', MAIN, '--smoke', folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'which is deleted at the end' in done.stdout
    assert ('smoke: 2 steps, a checkpoint, a resume from it and a validation succeeded'
            in done.stdout)
    assert list(tmp_path.iterdir()) == []


def test_a_work_dir_in_use_is_refused(run_here, tmp_path):
    (tmp_path / 'iter_1.pth').touch()
    refused = run_here('tools/train.py', MAIN, '--smoke', '--work-dir', tmp_path)
    assert refused.returncode == 1 and 'should be empty or missing' in refused.stderr


def test_an_engine_with_a_model_of_its_own_is_replaced(smoke_config):
    made, notes = smoke_config(ROOT / 'configs/dpad/qwen7b_vllm_reasonseg.py')
    assert made.model.rollout_engine.engine == dict(type='SharedPrefixRollout',
                                                    records_log_probs=True)
    told = '\n'.join(notes)
    assert 'SharedPrefixRollout in place of VLLMRollout' in told
    assert made.model.loss.importance_cap == 2.0


def test_a_calibration_of_other_weights_is_left_out(smoke_config):
    config = Config.fromfile(ROOT / 'configs/dpad/qwen7b_ovd_coco.py')
    config.model.box_scorer.calibration = 'c.json'
    config, notes = smoke_config(config)
    assert config.model.box_scorer == dict(type='LikelihoodScorer', calibration=None)
    assert ('model.box_scorer.calibration: none, in place of c.json, which belongs to other weights'
            in notes)


def test_pass_rates_of_other_questions_are_left_out(smoke_config):
    config = Config.fromfile(ROOT / 'configs/dpad/tiny_shapes.py')
    config.train_dataloader.dataset.difficulty = dict(file='rates.jsonl', max=0.9)
    config.train_dataloader.sampler = dict(type='VarianceSampler', file='rates.jsonl')
    config, notes = smoke_config(config)
    assert 'difficulty' not in config.train_dataloader.dataset
    assert config.train_dataloader.sampler == dict(type='InfiniteSampler', shuffle=True)
    assert 'train_dataloader.dataset: without `difficulty`, which knows other questions' in notes


def test_the_clip_of_a_selector_is_replaced(smoke_config):
    config = Config.fromfile(ROOT / 'configs/dpad/qwen7b_reasonseg.py')
    config.model.test_cfg.update(temperature=1.0, num_samples=8, select='discrimination')
    config, notes = smoke_config(config)
    assert config.model.test_cfg.num_samples == 4
    discriminator = config.model.test_cfg.select.discriminator
    assert discriminator == config.custom_hooks[0].discriminator != dict(type='CLIPDiscriminator')
    assert any(note.startswith('model.test_cfg.select.discriminator') for note in notes)
