# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Every config parses; the published recipe is what the paper says and builds with tiny weights."""
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation import RefSegMetric
from mmengine.config import Config
from mmengine.runner import Runner
from policy_families import FACTS

from mmdpad.datasets.checking import as_built, find_datasets
from mmdpad.engine.check_config import check_config
from mmdpad.engine.strategies import FSDP2Strategy
from mmdpad.models import HFSAMDecoder, ReasoningSegmentor, VLLMRollout, VLLMServerRollout
from mmdpad.prompts import parse_response
from mmdpad.registry import HOOKS, METRICS, MODELS, OPTIMIZERS, ROLLOUTS, STRATEGIES
from mmdpad.rewards import RewardComposition, discriminative_reward
from mmdpad.toy import CLIP_WEIGHTS, POLICY_WEIGHTS, SAM_WEIGHTS
from mmdpad.toy.policy_folder import make_policy_folder
from mmdpad.toy.sam import SHAPES_SAM_NAME
from mmdpad.toy.sam_folders import SAM_FOLDERS
from mmdpad.utils import LOADERS

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(ROOT.glob('configs/dpad/**/*.py'))
RECIPES = [ROOT / f'configs/dpad/{name}_reasonseg.py' for name in (
    'qwen3b', 'qwen7b', 'qwen3b_sam2', 'qwen7b_sam2')]
LORA = ROOT / 'configs/dpad/qwen7b_lora_reasonseg.py'
SEVERAL = ROOT / 'configs/dpad/qwen7b_several_objects.py'
COPIES = ROOT / 'tests/data/seg_zero'
EVALUATION_DATA = {
    'ReasonSegDataset': dict(data_root=str(ROOT / 'tests/data/photos'), split='val'),
    'SegZeroEvalDataset': dict(data_root=str(COPIES / 'ReasonSeg_test'))}
STAND_INS = {
    'model.policy.pretrained': POLICY_WEIGHTS, 'model.decoder.model': SHAPES_SAM_NAME,
    'model.decoder.checkpoint': SAM_WEIGHTS}


def recomputes(model):
    return all(layer.gradient_checkpointing
               for layer in model.policy.model.model.language_model.layers)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_parses_and_dumps(path, tmp_path):
    if 'lvis' in path.stem:
        pytest.importorskip('lvis')  # of its metric
    config = Config.fromfile(path)
    assert config.default_scope == 'mmdpad'
    # MMEngine hands their entries on as they are, `_scope_` of an inherited config included.
    assert not any({'collate_fn', 'worker_init_fn'} & (config.get(name) or {}).keys()
                   for name in LOADERS)
    config.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').model == config.model
    for training in (True, False):
        assert check_config(config, training).problems == []


@pytest.mark.parametrize('path', [*CONFIGS, *sorted(ROOT.glob('configs/study/*.py'))],
                         ids=lambda p: p.stem)
def test_data_to_evaluate_on_keep_every_item_and_training_data_do_not(path):
    for loaders, dataset in find_datasets(Config.fromfile(path)):
        assert dataset == as_built(loaders, dataset)
        assert bool(dataset.get('test_mode')) == (loaders != 'train_dataloader')


@pytest.mark.parametrize('path', RECIPES, ids=lambda p: p.stem)
def test_published_recipe(path):
    config = Config.fromfile(path)
    train, optimizer = config.model.train_cfg, config.optim_wrapper.optimizer
    assert config.train_dataloader.batch_size == 16 and train.group_size == 8
    assert config.train_cfg.max_iters == 187  # 3,000 samples / 16
    # On-policy: one optimizer step for the whole batch, accumulated by the loop.
    assert 'prompts_per_update' not in config.train_cfg
    assert 'accumulative_counts' not in config.optim_wrapper
    assert (train.temperature, train.max_new_tokens) == (1.0, 1300)
    assert config.model.loss == dict(
        type='GRPOLoss', clip_ratio=0.2, kl_coef=5e-3, entropy_coef=1e-3)
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-6, 1e-2)
    assert optimizer.betas == (0.9, 0.999) and config.optim_wrapper.clip_grad.max_norm == 1.0
    assert config.optim_wrapper.dtype == 'bfloat16'
    assert config.custom_hooks[0].form == 'binary'
    assert config.model.test_cfg == dict(temperature=0.0, max_new_tokens=1024)
    sizes = [step.size for loader in (config.train_dataloader, config.test_dataloader)
             for step in loader.dataset.pipeline if step.type == 'ModelImageResize']
    assert sizes == [(840, 840), (840, 840)]


@pytest.mark.parametrize('name', sorted(
    path.name.removesuffix('_reasonseg.py')
    for path in (ROOT / 'configs/dpad').glob('*_sam*_reasonseg.py')))
def test_another_decoder_changes_nothing_else(name, tmp_path):
    config = Config.fromfile(ROOT / f'configs/dpad/{name}_reasonseg.py').to_dict()
    base = Config.fromfile(ROOT / f'configs/dpad/{name[:6]}_reasonseg.py').to_dict()
    decoder = config['model'].pop('decoder')
    assert base['model'].pop('decoder')['type'] == 'SAMDecoder'
    assert config == base
    assert decoder.keys() == {'type', 'pretrained'}
    kind = MODELS.get(decoder['type'])
    assert issubclass(kind, HFSAMDecoder)
    built = kind(SAM_FOLDERS[kind.model_types[0]](tmp_path / 'decoder'))
    masks, *_ = built(np.zeros((20, 30, 3), np.uint8), torch.tensor([[2., 3., 20., 15.]]),
                     torch.tensor([[[5., 6.], [9., 9.]]]))
    assert masks.shape == (1, 20, 30)


def test_lora_changes_nothing_else():
    full, lora = Config.fromfile(RECIPES[1]).to_dict(), Config.fromfile(LORA).to_dict()
    assert lora['model']['policy'].pop('lora') == dict(r=64, lora_alpha=128)
    assert lora['model']['policy'].pop('dtype') == 'bfloat16'
    assert lora['optim_wrapper']['optimizer'].pop('lr') == 1e-5
    assert full['optim_wrapper']['optimizer'].pop('lr') == 1e-6
    assert lora == full


def test_qlora_changes_nothing_but_the_frozen_weights():
    lora, qlora = (Config.fromfile(path).to_dict() for path in (
        LORA, ROOT / 'configs/dpad/qwen7b_qlora_reasonseg.py'))
    quantization = qlora['model']['policy'].pop('quantization')
    assert quantization.pop('load_in_4bit') and quantization.pop('bnb_4bit_use_double_quant')
    assert quantization == dict(bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype='bfloat16')
    assert qlora == lora


def test_vllm_changes_nothing_but_the_sampling():
    lora, vllm = (Config.fromfile(path).to_dict() for path in (
        LORA, ROOT / 'configs/dpad/qwen7b_vllm_reasonseg.py'))
    assert vllm['model']['loss'].pop('importance_cap') == 2.0
    engine = vllm['model'].pop('rollout_engine')
    assert engine.pop('type') == 'VLLMRollout'
    assert engine.keys() <= inspect.signature(VLLMRollout).parameters.keys()
    assert vllm == lora


def test_servers_change_nothing_but_the_sampling():
    lora, servers = (Config.fromfile(path).to_dict() for path in (
        LORA, ROOT / 'configs/dpad/qwen7b_vllm_servers_reasonseg.py'))
    assert servers['model']['loss'].pop('importance_cap') == 2.0
    engine = ROLLOUTS.build(servers['model'].pop('rollout_engine'))
    assert isinstance(engine, VLLMServerRollout) and servers == lora


# Folder of the weights, side of the model image, family.
OTHER_POLICIES = dict(
    qwen2vl7b=('Qwen2-VL-7B-Instruct', 840, 'qwen2_vl'),
    qwen3vl4b=('Qwen3-VL-4B-Instruct', 832, 'qwen3_vl'),
    qwen3vl8b=('Qwen3-VL-8B-Instruct', 832, 'qwen3_vl'),
    qwen3_5_9b=('Qwen3.5-9B', 832, 'qwen3_5'),
    qwen3_5_35b_a3b_lora=('Qwen3.5-35B-A3B', 832, 'qwen3_5_moe'),
    glm4_1v9b=('GLM-4.1V-9B-Thinking', 840, 'glm4v'),
    glm4_5v_lora=('GLM-4.5V', 840, 'glm4v_moe'),
    internvl3_5_8b=('InternVL3_5-8B-HF', 896, 'internvl'),
    lfm2_5vl3b=('LFM2.5-VL-3B', 1024, 'lfm2_vl'))


@pytest.mark.parametrize('name', OTHER_POLICIES)
def test_another_policy_changes_weights_and_size_only(name):
    pretrained, side, family = OTHER_POLICIES[name]
    base = 'qwen7b_lora' if family.endswith('_moe') else 'qwen7b'
    own, base = (Config.fromfile(ROOT / f'configs/dpad/{stem}_reasonseg.py').to_dict()
                 for stem in (name, base))
    assert own['model']['policy'].pop('pretrained') == f'checkpoints/{pretrained}'
    assert own['model']['policy'].pop('max_prompt_tokens', 1300) == FACTS[family].limit
    assert base['model']['policy'].pop('pretrained') == 'checkpoints/Qwen2.5-VL-7B-Instruct'
    sizes = []
    for part in ('train', 'val', 'test'):
        ours, theirs = (config[f'{part}_dataloader']['dataset'].pop('pipeline')
                        for config in (own, base))
        assert [step['type'] for step in ours] == [step['type'] for step in theirs]
        sizes += [step['size'] for step in ours if 'size' in step]
        assert [step for step in ours if 'size' not in step] == [
            step for step in theirs if 'size' not in step]
    assert sizes == [(side, side)] * 3
    for key in ('model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg',
                'optim_wrapper', 'custom_hooks', 'val_evaluator', 'test_evaluator'):
        assert own[key] == base[key], key


@pytest.mark.parametrize('name', OTHER_POLICIES)
def test_another_policy_answers_about_a_photo(name, tmp_path):
    """Built with a random policy of its family, with the published processor's settings."""
    _, side, family = OTHER_POLICIES[name]
    config = Config.fromfile(ROOT / f'configs/dpad/{name}_reasonseg.py')
    config.merge_from_dict({**STAND_INS,
                            'model.policy.pretrained': make_policy_folder(tmp_path, family),
                            'model.policy.max_prompt_tokens': 3000,  # of a tiny vocabulary
                            'model.test_cfg.max_new_tokens': 4})
    model = MODELS.build(config.model).eval()
    assert recomputes(model) and model.policy.coordinates == FACTS[family].coordinates
    loader = config.test_dataloader
    loader.dataset.update(EVALUATION_DATA[loader.dataset.type], indices=1)
    loader.update(num_workers=0, persistent_workers=False)
    data = next(iter(Runner.build_dataloader(loader)))
    assert data['inputs']['model_image'][0].shape == (3, side, side)
    (answered, ) = model.test_step(data)
    assert answered.reasoning['parsed'].reason == 'no_answer'


def test_fsdp_spreads_the_same_step_over_8_processes():
    one = Config.fromfile(RECIPES[1]).to_dict()
    spread = Config.fromfile(ROOT / 'configs/dpad/qwen7b_fsdp_reasonseg.py').to_dict()
    strategy = spread.pop('strategy')
    assert issubclass(STRATEGIES.get(strategy.pop('type')), FSDP2Strategy)
    assert strategy == dict(param_dtype='bfloat16', reduce_dtype='float32')
    assert (8 * spread['train_dataloader'].pop('batch_size')
            == one['train_dataloader'].pop('batch_size'))
    assert spread['optim_wrapper'].pop('loss_scale') == dict(enabled=False)
    assert spread == one


def test_several_objects_change_data_answer_and_one_threshold():
    one, several = Config.fromfile(RECIPES[1]).to_dict(), Config.fromfile(SEVERAL).to_dict()
    assert several['model'].pop('several_objects') is True
    assert several['model']['policy'].pop('prompt_template') == 'several_objects'
    assert several['train_cfg']['rewards']['point_l1'].pop('threshold') == 30
    assert one['train_cfg']['rewards']['point_l1'].pop('threshold') == 100
    assert (one['train_cfg'].pop('max_iters'), several['train_cfg'].pop('max_iters')) == (187, 440)
    for key in ('model', 'train_cfg', 'optim_wrapper', 'custom_hooks', 'test_evaluator'):
        assert several[key] == one[key]
    for data in (one, several):
        data['train_dataloader'].pop('dataset')
    assert several['train_dataloader'] == one['train_dataloader']


def test_several_objects_config_reads_the_multi_object_copy():
    pytest.importorskip('pyarrow')
    loader = Config.fromfile(SEVERAL).train_dataloader
    loader.dataset.data_root = str(COPIES / 'VisionReasoner_multi_object_7k_840')
    loader.update(batch_size=4, num_workers=0, persistent_workers=False)
    batch = next(iter(Runner.build_dataloader(loader)))
    assert [image.shape for image in batch['inputs']['model_image']] == [(3, 840, 840)] * 4
    targets = [sample.model_targets.points.shape for sample in batch['data_samples']]
    assert sorted(targets) == [(1, 1, 2), (2, 1, 2), (2, 1, 2), (3, 1, 2)]


def test_supervised_config_reads_own_data_in_reasonsegs_layout(shapes_data):
    config = Config.fromfile(ROOT / 'configs/dpad/qwen7b_sft.py')
    loader = config.train_dataloader
    loader.dataset.data_root = str(shapes_data)
    loader.update(num_workers=0, persistent_workers=False)
    batch = next(iter(Runner.build_dataloader(loader)))
    assert [image.shape for image in batch['inputs']['model_image']] == [(3, 840, 840)] * 4
    sample = batch['data_samples'][0]
    parsed = parse_response(sample.response)
    assert parsed.box == tuple(sample.model_targets.bboxes[0].tolist())
    config.merge_from_dict(STAND_INS)
    assert recomputes(MODELS.build(config.model))
    assert config.custom_hooks == [] and 'rewards' not in config.train_cfg


@pytest.mark.parametrize('path', [*RECIPES[:2], LORA, SEVERAL], ids=lambda p: p.stem)
def test_recipe_builds_on_tiny_weights(path):
    if path == SEVERAL:
        pytest.importorskip('pyarrow')
    config = Config.fromfile(path)
    config.merge_from_dict({
        **STAND_INS,
        'custom_hooks.0.discriminator.model_name': CLIP_WEIGHTS,
        'custom_hooks.0.discriminator.pretrained': None})
    model = MODELS.build(config.model)
    assert isinstance(model, ReasoningSegmentor)
    assert recomputes(model)
    assert model.policy.has_adapter == (path == LORA)
    assert list(RewardComposition(config.train_cfg.rewards).weights) == [
        'thinking_format', 'segmentation_format', 'box_iou', 'box_l1', 'point_l1']
    hook = HOOKS.build(config.custom_hooks[0])
    assert MODELS.build(hook.config['discriminator']) is not None
    METRICS.build(config.test_evaluator)
    OPTIMIZERS.build(dict(config.optim_wrapper.optimizer, params=model.parameters()))
    loader = config.test_dataloader
    loader.dataset.update(EVALUATION_DATA[loader.dataset.type])
    loader.update(num_workers=0, persistent_workers=False)
    batch = next(iter(Runner.build_dataloader(loader)))
    assert batch['inputs']['model_image'][0].shape == (3, 840, 840)


REFERRING = {  # expressions of the test and of the val split of the test data
    'refcoco_testA': (4, 1), 'refcoco+_testA': (1, 1), 'refcocog_test': (2, 1)}


@pytest.mark.parametrize('size', ['qwen3b', 'qwen7b'])
@pytest.mark.parametrize('name', REFERRING)
def test_the_papers_table(size, name):
    """The same as the config that trains, but for the data of validation and test."""
    trained = Config.fromfile(ROOT / f'configs/dpad/{size}_reasonseg.py')
    config = Config.fromfile(ROOT / f'configs/dpad/{size}_{name}.py')
    for key in trained:
        if not key.startswith(('val_', 'test_')):
            assert config.get(key) == trained[key] or key in ('dataset_type', 'data_root'), key
    assert (config.val_cfg, config.test_cfg) == (trained.val_cfg, trained.test_cfg)
    for loader, evaluator, count in zip((config.test_dataloader, config.val_dataloader),
                                        (config.test_evaluator, config.val_evaluator),
                                        REFERRING[name], strict=True):
        ours, mmdets = map(METRICS.build, evaluator)
        assert ours.ignore_regions == 'target' and isinstance(mmdets, RefSegMetric)
        batch = first_batch(loader)
        assert [image.shape for image in batch['inputs']['model_image']] == [(3, 840, 840)] * count
        assert all(len(sample.gt_instances) == 1 for sample in batch['data_samples'])


def first_batch(loader, **dataset):
    """The first batch of a loader of RefCOCO or its relatives, from the test data."""
    loader.dataset.update(data_root=str(ROOT / 'tests/data/refcoco'), serialize_data=False,
                          **dataset)
    loader.update(num_workers=0, persistent_workers=False)
    return next(iter(Runner.build_dataloader(loader, seed=0)))


def test_the_splits_of_google():
    config = Config.fromfile(ROOT / 'configs/_base_/datasets/refcocog_google.py')
    for loader in (config.val_dataloader, config.test_dataloader):
        assert [s.question for s in first_batch(loader)['data_samples']] == ['red square']


def test_grefcoco_asks_and_answers_with_lists():
    config = Config.fromfile(ROOT / 'configs/dpad/qwen7b_grefcoco.py')
    assert config.model.several_objects
    assert config.model.policy.prompt_template == 'several_objects'
    assert config.train_cfg.rewards.point_l1.threshold == 30
    assert config.train_dataloader.dataset.num_samples == 3000
    numbers = [[len(sample.gt_instances) for sample in first_batch(loader)['data_samples']]
               for loader in (config.test_dataloader, config.val_dataloader)]
    assert numbers == [[1, 2, 2], [2, 0]]  # only evaluation loops sort
    config.train_dataloader.batch_size = 1
    assert len(first_batch(config.train_dataloader)['data_samples'][0].model_targets) == 1


def test_every_config_is_listed():
    listed = (ROOT / 'configs/dpad/README.md').read_text()
    assert all(f'`{path.name}`' in listed for path in (ROOT / 'configs/dpad').glob('*.py'))


ABLATIONS = {
    'qwen7b_geometric': None, 'qwen7b_caption_without_reward': None, 'qwen7b_no_format': 'binary',
    'qwen7b_form_margin': 'margin', 'qwen7b_form_product': 'product',
    'qwen7b_form_softmax': 'softmax', 'qwen7b_form_sigmoid': 'sigmoid',
    'qwen7b_form_binary_margin': 'binary+margin', 'qwen7b_roi_only': 'roi',
    'qwen7b_two_clips': dict(binary=1.0, margin=5.0)}


def test_every_ablation_is_listed():
    folder = ROOT / 'configs/dpad/ablations'
    assert {path.stem for path in folder.glob('*.py')} == ABLATIONS.keys()
    assert all(f'`{name}.py`' in (folder / 'README.md').read_text() for name in ABLATIONS)


def test_two_arms_of_the_study_have_one_reward():
    s1, s2 = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rewards = []
    for name in ('form_softmax', 'form_sigmoid'):
        (hook, ) = Config.fromfile(ROOT / f'configs/study/{name}.py').custom_hooks
        options = {key: hook[key] for key in ('form', 'temperature', 'alpha') if key in hook}
        rewards.append(discriminative_reward(s1, s2, **options))
    torch.testing.assert_close(*rewards)


@pytest.mark.parametrize('name, form', ABLATIONS.items())
def test_an_ablation_changes_one_thing(name, form):
    base, config = (Config.fromfile(ROOT / f'configs/dpad/{path}.py')
                    for path in ('qwen7b_reasonseg', f'ablations/{name}'))
    for key in ('optim_wrapper', 'train_dataloader', 'test_evaluator', 'randomness'):
        assert config[key] == base[key]
    if form is None:
        assert config.custom_hooks == []
    else:
        (hook, ) = config.custom_hooks
        given = HOOKS.build(hook).config
        first = given['discriminator']
        assert given['form'] == form
        assert (first[0] if isinstance(first, list) else first) == base.discriminator
    weights = RewardComposition(config.train_cfg.rewards).weights
    is_format = {term: 'format' in term for term in weights}
    assert len(weights) == 5 and all(
        weight == (0.0 if name == 'qwen7b_no_format' and is_format[term] else 1.0)
        for term, weight in weights.items())
    asks_for_a_caption = name != 'qwen7b_geometric'
    assert config.model.policy.get('prompt_template', 'default') == (
        'default' if asks_for_a_caption else 'without_caption')
    assert config.train_cfg.rewards.thinking_format.get('caption', True) == asks_for_a_caption
