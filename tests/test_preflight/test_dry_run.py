# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What `--dry-run` finds in broken configs: each fault on its own, and all of them in one list."""
import json
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmdpad.models import VLLMServerRollout
from mmdpad.preflight import dry_run, make_smoke_config
from mmdpad.preflight.check_weights import check_weights_file
from mmdpad.registry import REWARDS
from mmdpad.toy.policy_folder import make_policy_folder

ROOT = Path(__file__).parents[2]
MAIN = ROOT / 'configs/dpad/qwen7b_reasonseg.py'


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('tiny_replacements')


@pytest.fixture(scope='module')
def sound(weights) -> Config:
    """A config without a problem; tests take copies."""
    return make_smoke_config(Config.fromfile(MAIN), str(weights / 'run'), weights, weights)[0]


@pytest.fixture
def problems_with(sound):
    """What is wrong with the sound config once some entries are changed."""
    def check(training: bool = True, **entries) -> list[str]:
        config = Config(sound.to_dict())
        config.merge_from_dict({key.replace('__', '.'): v for key, v in entries.items()})
        return dry_run(config, training)[0]
    return check


def test_a_sound_config_has_a_summary_and_no_problem(sound):
    problems, notes = dry_run(sound)
    told = '\n'.join(notes)
    assert problems == []
    assert 'train_dataloader (SegZeroDataset): ok: 2 items' in told
    assert 'memory: about' in told and 'disk: about' in told


def test_what_stays_unquantized_is_a_note(sound):
    pytest.importorskip('bitsandbytes')
    config = Config(sound.to_dict())
    config.merge_from_dict({'model.policy.lora': dict(r=4),
                            'model.policy.quantization': dict(load_in_4bit=True)})
    assert any('billion weights are quantized to 4 bits; the others take' in note
               for note in dry_run(config)[1])


def test_a_missing_peft_is_a_problem_of_the_config(problems_with, monkeypatch):
    monkeypatch.setitem(sys.modules, 'peft', None)
    problems = problems_with(model__policy__lora=dict(r=4))
    assert any('pip install "mmdpad[lora]"' in problem for problem in problems)


@pytest.mark.skipif(torch.cuda.is_available(), reason='the note compares with the GPUs here')
def test_a_step_that_no_number_of_gpus_holds_is_a_note(sound, monkeypatch):
    monkeypatch.setattr(import_module('mmdpad.preflight.dry_run'), '_TYPICAL_GPU', 1)
    assert 'sharded (FSDP), it does not even fit 32 GPUs' in '\n'.join(dry_run(sound)[1])


def test_annotations_without_a_target_are_a_note(sound, tmp_path):
    """Of a test set whose config does not say `test_mode`; a wrong argument is found once."""
    config = Config(sound.to_dict())
    dataset = config.test_dataloader.dataset
    del dataset.test_mode
    dataset.data_root = shutil.copytree(dataset.data_root, tmp_path / 'data')
    path = sorted((tmp_path / 'data').rglob('*.json'))[0]
    path.write_text(json.dumps(dict(json.loads(path.read_text()), shapes=[])))
    problems, notes = dry_run(config)
    assert problems == []
    (note, ) = [note for note in notes if 'test_dataloader' in note]
    assert 'ok: 2 items' in note and 'note: 1 annotation(s) mark no target and are scored' in note
    dataset.spilt = 'x'
    (problem, ) = dry_run(config)[0]
    assert 'did you mean `split`?' in problem


BROKEN = {
    'type of a model': (dict(model__decoder__type='SAMDecodr'),
                        "`model.decoder.type` should be a registered model, but got 'SAMDecodr'; "
                        'did you mean SAMDecoder'),
    'type of a transform': (
        {'train_dataloader.dataset.pipeline.1.type': 'ModelImageResise'},
        'did you mean ModelImageResize'),
    'type of a reward': (dict(train_cfg__rewards__box_iou__type='BoxIouReward'),
                         'did you mean BoxIoUReward'),
    'argument of a model': (dict(model__policy__gradient_checkpoint=True),
                            'did you mean `gradient_checkpointing`?'),
    'argument of a data set': (dict(val_dataloader__dataset__spilt='val'), 'did you mean `split`?'),
    'argument of a reward': (dict(train_cfg__rewards__box_iou__treshold=0.5), 'treshold'),
    'argument of a hook': ({'custom_hooks.0.from': 'binary'}, 'from'),
    'weight of a reward': (dict(train_cfg__rewards__box_iou__weight='abc'),
                           "`train_cfg.rewards.box_iou.weight` should be float, but got 'abc'"),
    'weight of a hook': ({'custom_hooks.0.weight': 'abc'},
                         "`custom_hooks.0.weight` should be float, but got 'abc'"),
    'tasks of a reward': (dict(train_cfg__rewards__box_iou__tasks='detection'),
                          '`train_cfg.rewards.box_iou.tasks` should be'),
    'a task that the model lacks': (dict(train_cfg__rewards__box_iou__tasks=['detection']),
                                    'those of the model (segmentation), but got detection'),
    'a task of the data': (dict(val_dataloader__dataset__task='vqa'),
                           "(segmentation), but got 'vqa'; add it to `model.tasks`"),
    'tasks in a wrong place': (dict(train_dataloader__dataset__tasks=['segmentation']),
                               'did you mean `task`?'),
    'type of a task': (dict(model__tasks=dict(a=dict(type='SegmentationTusk'))),
                       '`model.tasks.a.type` should be a registered task, but got'),
    'argument of a task': (dict(model__tasks=dict(a=dict(type='DetectionTask', max_object=3))),
                           'did you mean `max_objects`?'),
    'no tasks': (dict(model__tasks={}), 'at least one task by name'),
    'arguments of a single task': (
        dict(model__tasks=dict(a=dict(type='DetectionTask')), model__several_objects=True),
        'With `tasks`, the arguments of a single task should be left out'),
    'a task without rewards': (
        dict(model__tasks=dict(a=dict(type='DetectionTask'), b=dict(type='SegmentationTask')),
             train_dataloader__dataset__task='b', **{
                 f'train_cfg__rewards__{name}__tasks': ['a'] for name in (
                     'thinking_format', 'segmentation_format', 'box_iou', 'box_l1', 'point_l1')},
             **{'custom_hooks.0.tasks': ['a']}),
        'should have a reward term, but b has none'),
    'infinite weight of a hook': (
        {'custom_hooks.0.weight': float('inf')},
        "`custom_hooks.0`: The `weight` of the reward term 'discriminative' should be a finite"),
    'interval of zero': (dict(train_cfg__val_interval=0),
                         '`train_cfg.val_interval` should be at least 1, but got 0'),
    'evaluator': (dict(val_evaluator=dict(_delete_=True, type='CocoPanopticMetric'),
                       default_hooks__checkpoint__save_best=None), 'needs a panoptic map'),
    'misspelled length': (dict(train_cfg__max_iter=3), 'did you mean `max_iters`?'),
    'argument of the loop': (dict(train_cfg__prompts_per_updates=2),
                             'did you mean `prompts_per_update`?'),
    'key of the sampling': (dict(model__train_cfg__groupsize=4), 'groupsize'),
    'policy': (dict(model__policy__pretrained='checkpoints/none'),
               "'checkpoints/none' is neither a folder here nor in the hub cache"),
    'decoder': (dict(model__decoder__checkpoint='none.pth'), 'none.pth does not exist; download'),
    'decoder of transformers': (
        dict(model__decoder=dict(_delete_=True, type='SAM2Decoder', pretrained='checkpoints/none')),
        'hf download facebook/sam2-hiera-large --local-dir checkpoints/none`'),
    'decoder of another kind': (
        dict(model__decoder__type='SAM2Decoder'),
        "`model.decoder`: SAM2Decoder needs the argument 'pretrained'; add it"),
    'another CLIP': ({'custom_hooks.0.discriminator.model_name': 'ViT-L-41'},
                     "ViT-L-14"),
    'a CLIP that is not here': (
        {'custom_hooks.0.discriminator': dict(model_name='ViT-L-14', pretrained='openai')},
        "'ViT-L-14' with the tag 'openai' are not in the hub cache, and HF_HUB_OFFLINE is set"),
    'discriminator': ({'custom_hooks.0.discriminator.model_name': 'local-dir:no/clip'},
                      "'no/clip'"),
    'data': (dict(train_dataloader__dataset__data_root='no/data'), 'no/data is not a folder'),
    'split': (dict(test_dataloader__dataset__split='testing'), "got 'testing'"),
    'prompt length': (dict(model__policy__max_prompt_tokens=1000),
                      '`max_prompt_tokens` = 1000 tokens, but that of'),
    'prompt size': ({'val_dataloader.dataset.pipeline.2.size': (850, 840)}, 'size=(840, 840)'),
    'batch': (dict(train_dataloader__batch_size=3, train_cfg__prompts_per_update=2),
              '`train_dataloader.batch_size` (3) should be divisible by `prompts_per_update` (2)'),
    'negative number of prompts': (dict(train_cfg__prompts_per_update=-1),
                                   '`prompts_per_update` should be at least 1, but got -1'),
    'advantage': (dict(train_cfg__advantage='gae'),
                  "`train_cfg.advantage` should be one of ('grpo', "),
    'normalized terms and a penalty on their sum': (
        dict(train_cfg__advantage='gdpo', model__loss=dict(type='GRPOLoss', kl_in='reward')),
        "`train_cfg.advantage` should not be 'gdpo' with a loss that takes something off"),
    'a reference that does not exist': (
        dict(model__loss=dict(type='GRPOLoss', kl_coef=0.0),
             custom_hooks=[dict(type='SyncReferenceHook')]),
        '`custom_hooks.0`: `SyncReferenceHook` should be left out if'),
    'accumulation': (dict(optim_wrapper__accumulative_counts=4), 'should be 1'),
    'group': (dict(model__train_cfg__group_size=1), 'should be at least 2'),
    'log-probabilities that are not recorded': (
        dict(train_cfg__max_staleness=1, model__rollout_engine=dict(
            _delete_=True, type='SharedPrefixRollout')),
        'but got SharedPrefixRollout, which does not; set its `records_log_probs=True`'),
    'refills of rollouts ahead': (
        dict(train_cfg__max_staleness=1, train_cfg__max_refills=2),
        '`max_refills` should be 0 with `max_staleness` (1)'),
    'batches drawn ahead of their sampler': (
        dict(train_dataloader__sampler=dict(_delete_=True, type='SelectiveSampler', delay=5),
             train_dataloader__num_workers=2),
        '`train_dataloader.sampler.delay` should be at least '),
    'strategy': (dict(strategy=dict(type='DeepSpeedStrategy')), 'Leave `strategy` out'),
    'two terms of one name': (
        dict(train_cfg__rewards__discriminative=dict(type='BoxIoUReward', threshold=0.5)),
        "'discriminative' is taken"),
    'two hooks of one name': (
        dict(custom_hooks=[dict(type='MaskRewardHook'), dict(type='MaskRewardHook', tiers=[0.5])]),
        "'mask_iou' is taken (terms: ['thinking_format', "),
    'a wrong form': ({'custom_hooks.0.form': 'binary+5*margn'},
                     '`custom_hooks.0.form` should be one of'),
    'a list for a dict': (
        dict(model__rollout_engine__engine=dict(
            _delete_=True, type='VLLMRollout', engine_options=['enforce_eager:True'])),
        "`model.rollout_engine.engine.engine_options` should be dict or None, but got "
        "['enforce_eager:True']; on a command line: 'model.rollout_engine.engine.engine_options="),
    'a list for a text': (dict(val_dataloader__dataset__data_root=['/data/a', 'b']),
                          "'val_dataloader.dataset.data_root=\"...\"'"),
    'checkpoints that cannot be loaded': (dict(default_hooks__safe_checkpoint=None),
                                          'should have a SafeCheckpointHook'),
    'a text for a dict': (dict(train_cfg='dict'), '`train_cfg` should be'),
    'a text for a number': (dict(train_cfg__max_iters='many'),
                            "`train_cfg.max_iters` should be int, but got 'many'"),
    'package': (dict(model__rollout_engine__engine__type='VLLMRollout'), 'needs vllm'),
    'a server that is not up': (
        dict(model__rollout_engine=dict(_delete_=True, type='VLLMServerRollout',
                                        urls=['http://127.0.0.1:9'])),
        '`model.rollout_engine`: vLLM server http://127.0.0.1:9 cannot be used: '),
    'an engine that is none': (
        dict(model__rollout_engine=dict(_delete_=True, type='VLLMServer', urls=['http://a:1'])),
        "should be a registered rollout, but got 'VLLMServer'; did you mean VLLMServerRollout"),
    'an address of a server': (
        dict(model__rollout_engine=dict(_delete_=True, type='VLLMServerRollout', urls=['a:8000'])),
        "`model.rollout_engine.urls` should hold addresses such as"),
    'how weights get to servers': (
        dict(model__rollout_engine=dict(_delete_=True, type='VLLMServerRollout',
                                        urls=['http://127.0.0.1:9'], transfer=dict(backend='mpi'))),
        "transfer.backend` should be one of ('files', 'nccl'), but got 'mpi'"),
}


def test_servers_for_shorter_responses(problems_with, monkeypatch):
    monkeypatch.setattr(VLLMServerRollout, 'check_servers', lambda self, model: vars(self).update(
        max_model_len=500, max_images=1))
    engine = dict(_delete_=True, type='VLLMServerRollout', urls=['http://a:1'])
    assert problems_with(model__rollout_engine=engine) == []
    (problem, ) = problems_with(model__rollout_engine=engine, model__test_cfg__max_new_tokens=500)
    assert 'of up to 500 tokens, but one takes 500 in all; start it by' in problem
    (problem, ) = problems_with(model__rollout_engine=engine,
                                model__conversation=dict(max_turns=2, max_tokens=450))
    assert 'should take prompts of 2 images, those of conversations, but one takes 1' in problem


@pytest.mark.parametrize('fault', BROKEN)
def test_each_fault_has_its_line(fault, problems_with):
    entries, told = BROKEN[fault]
    problems = problems_with(**entries)
    assert any(told in problem for problem in problems), problems
    # Prompts are those of three data sets, and what needs a package is not registered without it.
    assert len(problems) <= {'prompt length': 3, 'package': 2, 'a list for a dict': 2,
                             'decoder of another kind': 3}.get(fault, 1)


def test_weights_that_a_part_of_ones_own_names(problems_with, monkeypatch, tmp_path):
    class WeightedTerm:
        needs_model = True

        def __init__(self, checkpoint):
            self.checkpoint = checkpoint

    monkeypatch.setitem(REWARDS.module_dict, 'WeightedTerm', WeightedTerm)
    torch.save({}, tmp_path / 'there.pth')
    for given, told in ((tmp_path / 'none.pth', 'none.pth does not exist; download it'),
                        (tmp_path / 'there.pth', None), ('organization/name', None),
                        ('https://host/none.pth', None)):
        problems = problems_with(
            train_cfg__rewards__own=dict(type='WeightedTerm', checkpoint=str(given)))
        assert len(problems) == bool(told), problems
        if told:
            assert problems[0].startswith('`train_cfg.rewards.own`: `checkpoint`: ')
            assert told in problems[0]


def test_two_named_hooks_and_an_ensemble_are_no_fault(sound, problems_with):
    hook = sound.custom_hooks[0].to_dict()
    clip = hook.pop('discriminator')
    hooks = [dict(hook, discriminator=clip),
             dict(hook, discriminator=[clip, dict(clip, precision='bf16')], name='domain',
                  combine='min', form=dict(binary=1, margin=5))]
    assert problems_with(custom_hooks=hooks) == []
    hooks[1]['discriminator'][1]['model_name'] = 'local-dir:no/clip'
    (problem, ) = problems_with(custom_hooks=hooks)
    assert problem.startswith('`custom_hooks.1.discriminator.1`') and "'no/clip'" in problem


@pytest.fixture(scope='module')
def detector(weights) -> dict:
    config = make_smoke_config(
        Config.fromfile(ROOT / 'configs/mmdet/mask-rcnn_r50_fpn_1x_coco_discrimination.py'),
        str(weights / 'detector'), weights / 'coco', weights)[0]
    assert dry_run(config)[0] == []
    return config.to_dict()


@pytest.mark.parametrize('key, value, told', [
    ('model.backbone.depth', 51, "`model` (MaskRCNN) cannot be built: KeyError: 'invalid depth 51"),
    ('train_dataloader.dataset.filter_cfg.min_sise', 1, 'did you mean `min_size`?'),
    ('train_dataloader.dataset.filter_cfg', 'x', '.filter_cfg` should be dict or None, but got'),
    ('train_dataloader.dataset.data_prefix', None, '.data_prefix` should be dict, but got None'),
    ('train_dataloader.dataset.pipeline.1.with_mask', False,
     '`train_dataloader`: MaskRCNN needs `gt_instances.masks`, which samples do not have'),
    ('test_dataloader.dataset.pipeline.3.meta_keys', ['img_id', 'img_shape', 'ori_shape'],
     "`test_dataloader`: MaskRCNN reads 'scale_factor' of a sample, which is missing"),
    ('val_dataloader.dataset.pipeline', [], "`val_dataloader`: MaskRCNN reads ['inputs', 'data_"),
    ('model.backbone.init_cfg', dict(_delete_=True, type='Pretrained', checkpoint='none.pth'),
     '`model.backbone.init_cfg`: `checkpoint`: none.pth does not exist'),
    ('train_dataloader.sampler', None, '`train_dataloader` needs the entry `sampler`'),
    ('val_evaluator.0.ann_file', None, '`val_evaluator.0.ann_file` should be a file where'),
    ('val_evaluator.0.ann_file', 3.5, '`val_evaluator.0.ann_file` should be str')])
def test_what_a_detector_would_end_at(detector, key, value, told):
    config = Config(detector)
    config.merge_from_dict({key: value})
    problems = dry_run(config)[0]
    assert told in problems[0] and len(problems) <= 2
    if 'init_cfg' in key:  # a test does without
        assert dry_run(config, training=False)[0] == []


def test_several_faults_come_in_one_list(problems_with):
    names = ('decoder', 'data', 'batch', 'argument of a model', 'type of a reward')
    entries = {key: value for name in names for key, value in BROKEN[name][0].items()}
    problems = problems_with(**entries)
    assert len(problems) == len(names)
    for name in names:
        assert any(BROKEN[name][1] in problem for problem in problems)


def test_a_test_needs_no_training(problems_with):
    faults = dict(train_dataloader__dataset__data_root='no/data', train_cfg__max_itres=2,
                  optim_wrapper__accumulative_counts=4)
    assert len(problems_with(**faults)) == 3
    assert problems_with(training=False, **faults) == []


@pytest.fixture
def policy(tmp_path) -> Path:
    """A policy in two shards."""
    folder = Path(make_policy_folder(tmp_path / 'policy', 'qwen2_5_vl'))
    shard = folder / 'model-00002-of-00002.safetensors'
    (folder / 'model.safetensors').rename(shard)
    shutil.copy(shard, folder / 'model-00001-of-00002.safetensors')
    (folder / 'model.safetensors.index.json').write_text(json.dumps(dict(weight_map=dict(
        a='model-00001-of-00002.safetensors', b='model-00002-of-00002.safetensors'))))
    return folder


@pytest.mark.parametrize('name, told', [
    ('model-00002-of-00002.safetensors', 'model-00002-of-00002.safetensors does not exist'),
    ('config.json', 'has no config.json'),
    ('tokenizer.json', 'has neither tokenizer.json nor'),
    ('preprocessor_config.json', 'has neither preprocessor_config.json nor')])
def test_an_incomplete_folder(policy, problems_with, name, told):
    assert problems_with(model__policy__pretrained=str(policy)) == []
    (policy / name).unlink()
    problems = problems_with(model__policy__pretrained=str(policy))
    assert any(told in problem for problem in problems), problems


def test_files_that_were_cut_short(policy, tmp_path):
    whole, cut = policy / 'model-00001-of-00002.safetensors', tmp_path / 'cut.safetensors'
    assert check_weights_file(whole) is None
    cut.write_bytes(whole.read_bytes()[:-1])
    assert f'should have {whole.stat().st_size} bytes, but has {whole.stat().st_size - 1}' in (
        check_weights_file(cut))
    cut.write_bytes(b'<html>')
    assert 'is not a safetensors file' in check_weights_file(cut)
    torch.save(dict(a=torch.zeros(2)), tmp_path / 'a.pth')
    assert check_weights_file(tmp_path / 'a.pth') is None
    (tmp_path / 'b.pth').write_bytes((tmp_path / 'a.pth').read_bytes()[:-30])
    assert 'is truncated' in check_weights_file(tmp_path / 'b.pth')


def test_the_commands(run_here, tmp_path):
    found = run_here('tools/train.py', MAIN, '--dry-run', '--work-dir', tmp_path / 'run')
    assert found.returncode == 1
    lines = [line for line in found.stdout.splitlines() if line.startswith('- ')]
    assert f'dry run: {len(lines)} problem(s):' in found.stdout and len(lines) >= 5
    assert 'sam_vit_h_4b8939.pth does not exist' in found.stdout
    tested = run_here('tools/test.py', MAIN, '--dry-run', '--work-dir', tmp_path / 'run')
    assert tested.returncode == 1 and 'refCOCOg' not in tested.stdout
    both = run_here('tools/train.py', MAIN, '--smoke', '--dry-run')
    assert both.returncode == 0 and 'dry run: no problem found' in both.stdout
    assert not (tmp_path / 'run').exists()
