# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""From a config to the numbers that are printed."""
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mmengine.config import Config
from mostly_slow import mostly_slow

from mmdpad.models.cost import shapes
from mmdpad.preflight.cost import (
    configured_memory,
    format_report,
    make_report,
    read_config_cost,
    with_response_tokens,
)
from mmdpad.preflight.cost.from_config import quantized_bytes
from mmdpad.preflight.cost.frozen import FrozenCost
from mmdpad.registry import REWARDS
from mmdpad.toy.policy_folder import make_policy_folder

ROOT = Path(__file__).parents[3]


def config_of(name, **overrides):
    config = Config.fromfile(ROOT / f'configs/dpad/{name}.py')
    config.merge_from_dict(overrides)
    return config


def report_of(name, prompt=1050, response=200, gpus=1, **overrides):
    cost = read_config_cost(config_of(name, **overrides), response, prompt)
    return make_report(replace(cost, frozen={}), gpus)


def test_the_published_recipe_is_read():
    config = config_of('qwen7b_reasonseg')
    cost = read_config_cost(config)
    work, setup = cost.work, cost.setup
    assert (work.prompts, work.group_size, work.image.grid, work.shared) == (
        16, 8, ((1, 60, 60), ), True)
    assert work.prompt_tokens == 900 + 200 and work.response_tokens == 200
    assert cost.max_tokens == 1300 and sum('assumed' in note for note in cost.notes) == 2
    assert setup.amp and setup.checkpointing and setup.reference and setup.accumulates
    assert (setup.weight_bytes, setup.lora_rank, setup.groups, setup.entropy) == (4, 0, 4, 'grad')
    assert (setup.state, setup.step, setup.rollout) == (2.0, 0.0, 'shared')
    # ViT-B/32 and ViT-H with the decoder, float32.
    assert cost.frozen['CLIP'].bytes == 4 * 151_277_313
    assert cost.frozen['SAM'].bytes == 4 * 641_090_608 and cost.frozen['SAM'].flops == 0
    # 2 x 4.4 GFLOP-multiply-adds an image are published for ViT-B/32; two images a prompt.
    assert cost.frozen['CLIP'].flops > 32 * 8.6e9


def test_of_several_data_sets_the_largest_image_counts():
    config = config_of('qwen7b_mixed_tasks')
    assert read_config_cost(config).work.image.grid == ((1, 60, 60), )
    config.train_dataloader.dataset.datasets[1].pipeline[1].size = (1120, 840)
    assert read_config_cost(config).work.image.grid == ((1, 60, 80), )


def test_a_clip_is_in_memory_once_and_computes_for_each_term():
    config = config_of('qwen7b_reasonseg')
    (hook, ) = config.custom_hooks
    once = read_config_cost(config).frozen['CLIP']
    config.custom_hooks.append(dict(hook, name='again', contrast='others'))
    config.train_cfg.rewards.third = dict(type='QuantileReward', term=dict(
        type='DiscriminativeReward', discriminator=dict(type='mmdpad.CLIPDiscriminator')))
    config.val_evaluator = [dict(type='RewardMetric', rewards=dict(a=dict(
        type='DiscriminativeReward', discriminator=hook.discriminator)))]
    cost = read_config_cost(config).frozen
    assert cost.keys() == {'CLIP', 'SAM'}
    assert cost['CLIP'] == FrozenCost(once.bytes, 3 * once.flops)


def test_answers_to_choose_from_cost_memory_in_validations():
    """The CLIP of a selector, also by its short name, and a rollout of more answers."""
    config = config_of('qwen7b_reasonseg')
    config.val_dataloader.batch_size = 8
    once = read_config_cost(config)
    config.custom_hooks = []
    config.model.test_cfg.update(temperature=1.0, num_samples=17, select='discrimination')
    cost = read_config_cost(config)
    assert cost.frozen['CLIP'] == FrozenCost(once.frozen['CLIP'].bytes, 0)
    assert config.model.test_cfg.select == 'discrimination'
    told, = {*cost.notes} - {*once.notes}
    assert '17 answers to each of 8 questions' in told and 'more than the 128 of a rollout' in told
    config.model.test_cfg.num_samples = 16
    assert read_config_cost(config).notes == once.notes


def test_several_clips_are_all_in_memory():
    config = config_of('ablations/qwen7b_two_clips')
    cost = read_config_cost(config).frozen
    assert cost.keys() == {'CLIP 1', 'CLIP 2', 'SAM'}
    # ViT-B/32 and ViT-B/16, of which the smaller patches have smaller weights.
    assert [cost[f'CLIP {i}'].bytes for i in (1, 2)] == [4 * 151_277_313, 4 * 149_620_737]


BY_HAND = dict(qwen7b=(3.38, 13.9), qwen3b=(1.71, 7.8))


@pytest.mark.parametrize('name', mostly_slow(BY_HAND, fast=['qwen7b']))
def test_operations_agree_with_an_estimate_by_hand(name):
    """PFLOP for reference and update, and with repeated prompts."""
    report, (shared, repeated) = report_of(f'{name}_reasonseg'), BY_HAND[name]
    assert report['training_flops'] / 1e15 == pytest.approx(shared, rel=0.01)
    assert report['replicated_training_flops'] / 1e15 == pytest.approx(repeated, rel=0.01)
    assert report['tokens']['per_pass'] == 42400


def test_memory_of_the_published_recipe():
    """20 bytes a weight (master, gradient, two moments, reference); its optimizer is fused, the
    usual one takes 4 more for a moment."""
    report = report_of('qwen7b_reasonseg')
    cost = replace(read_config_cost(config_of('qwen7b_reasonseg'), 200, 1050), frozen={})
    assert configured_memory(cost) == (cost, report['variants'][0])
    always = sum(report['memory']['moments']['backward, end'][part]
                 for part in ('weights', 'optimizer state', 'reference'))
    assert always == 16 * report['parameters']
    assert report['memory']['peak'] > 20 * report['parameters']
    peaks = {row['name']: row['peak'] for row in report['variants']}
    assert peaks['full, AdamW'] == 24 * report['parameters']
    assert (peaks['full, AdamW'] > peaks['full, AdamW, fused'] == peaks['as configured']
            > peaks['full, 8-bit Adam'])


SAID = [('qwen7b', True), ('qwen3b', True), ('qwen7b_lora', True), *((name, False) for name in (
    'qwen7b_qlora', 'qwen2vl7b', 'qwen3vl4b', 'qwen3vl8b', 'qwen3vl30b_a3b_lora', 'glm4_1v9b',
    'internvl3_5_8b', 'lfm2_5vl3b', 'qwen3_5_9b', 'qwen3_5_35b_a3b_lora'))]


@pytest.mark.parametrize('name, in_readme', mostly_slow(
    SAID, fast=[('qwen7b', True), ('qwen7b_lora', True), ('qwen7b_qlora', False)]))
def test_what_a_config_says_about_its_memory_is_the_estimate(name, in_readme):
    path = f'configs/dpad/{name}_reasonseg.py'
    said = int(re.search(r'about (\d+) GB', (ROOT / path).read_text())[1])
    assert f'{said} GB' in (ROOT / 'README.md').read_text() or not in_readme
    report = make_report(read_config_cost(config_of(f'{name}_reasonseg')))
    assert report['memory']['peak'] / 1e9 == pytest.approx(said, abs=1)


def test_the_adapter_is_its_own_reference():
    lora = report_of('qwen7b_lora_reasonseg')
    assert 'reference' not in lora['memory']['moments']['forward']
    assert lora['flops']['reference']['vision'] == 0
    assert lora['trained_parameters'] == 64 * 2523136
    configured, *_, variant = lora['variants']
    assert configured['peak'] == variant['peak']


def test_four_bits_make_the_frozen_language_model_smaller():
    """Of 6.5e9 weights in linear layers of 7B's language model, 2 bytes become 0.516 each."""
    lora, qlora = (report_of(f'qwen7b_{name}_reasonseg') for name in ('lora', 'qlora'))
    weights = [report['memory']['moments']['forward']['weights'] for report in (lora, qlora)]
    # 28 layers of q and o 3584 x 3584, k and v 3584 x 512, three of 3584 x 18944.
    linear = 28 * (2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    assert weights[0] - weights[1] == pytest.approx(linear * (2 - 0.5 - 1 / 64 - 1 / 4096))
    (full, ) = (row for row in qlora['variants'] if row['name'] == 'full, AdamW')
    assert full in lora['variants']  # trained weights are not quantized


def test_an_engine_says_whether_it_repeats_prompts():
    for engine, expected in dict(HFRollout='replicated', VLLMRollout='shared',
                                 VLLMServerRollout='none').items():
        cost = read_config_cost(config_of('qwen7b_reasonseg', **{
            'model.rollout_engine': dict(type=engine)}))
        assert cost.setup.rollout == expected
        assert cost.setup.keeps_turns == engine.startswith('VLLM')


def test_supervised_training_has_neither_rollout_nor_reference():
    report = report_of('qwen7b_sft')
    assert report['flops'].keys() == {'update', 'rewards'} and report['rollout_flops'] == 0
    assert report['tokens']['group_size'] == 1


def test_every_config_of_the_toy_is_estimated():
    for name in ('tiny_shapes', 'tiny_shapes_sft'):
        config = config_of(name)
        cost = read_config_cost(config)
        assert any('counted' in note for note in cost.notes)
        text = format_report(make_report(cost, 2, 24.0, with_response_tokens(cost, config, 50)))
        assert 'TFLOP' in text and 'fits' in text and 'not built' in text


def test_conversations_are_counted_at_their_longest():
    """Of two turns of 200 tokens; the largest crop has 20 x 20 tokens of 28 x 28 pixels."""
    plain = read_config_cost(config_of('qwen7b_reasonseg'))
    config = config_of('qwen7b_reasonseg', **{'model.conversation': dict(max_turns=2)})
    cost = read_config_cost(config)
    work, text = cost.work, cost.work.reply_tokens - 400
    assert 40 < text < 70 and work.reply_image.tokens == 400
    assert work == replace(plain.work, turns=2, response_tokens=400, reply_tokens=400 + text,
                           reply_images=1.0, reply_image=cost.shape.image(560, 560))
    told, = {*cost.notes} - {*plain.notes}
    assert told.startswith(f'conversations: 2 turns each, the most that they can have, and '
                           f'{400 + text} tokens in a reply (400 of the largest image)')
    longest = with_response_tokens(cost, config, cost.max_tokens)
    assert longest.work.response_tokens == 2 * 1300
    report = make_report(cost, longest=longest)
    tokens = report['tokens']
    assert (tokens['turns'], tokens['replies'], tokens['images_per_pass']) == (
        2, 400 + text, 16 + 128)
    assert tokens['per_pass'] == 16 * 1100 + 128 * (2 * 200 + 400 + text)
    again = report['flops']['rollout, turns again']
    assert report['rollout_flops'] == sum(report['flops']['rollout'].values()) + sum(
        again.values())
    shown = format_report(report)
    assert f'400 per response in 2 turns, with {400 + text} of replies (1 images)' in shown
    assert f'with all conversations at the limit of {3000 + text} tokens' in shown
    config.model.policy.prompt_template = 'find "{question}", or check <mask>...</mask>'
    assert read_config_cost(config).work.reply_image == work.image  # with a mask on it
    before = make_report(plain, longest=with_response_tokens(plain, config, 1300))
    assert report['longest']['peak'] > before['longest']['peak']


@pytest.mark.parametrize('given, turns, written, replied', [
    (dict(max_turns=4, limits=dict(size=(280, 140))), 4, 800, 150),
    (dict(max_turns=4, max_tokens=2000, limits=dict(size=(280, 140))), 4, 800, 150),
    (dict(max_turns=9, max_tokens=1700, limits=dict(size=(280, 140))), 4, 800, 150),
    (dict(max_turns=2, max_tokens=1700), 1, 200, 0), (dict(max_turns=1), 1, 200, 0)])
def test_limits_of_conversations(given, turns, written, replied):
    """A reply has 50 tokens of a crop and about as many of text; a turn of 1300 may follow it."""
    config = config_of('qwen7b_reasonseg', **{'model.conversation': given})
    work = read_config_cost(config).work
    assert (work.turns, work.response_tokens) == (turns, written)
    text = (work.reply_tokens - replied) / max(1, turns - 1)
    assert text == 0 if turns == 1 else 40 < text < 70
    longest = with_response_tokens(read_config_cost(config), config, 1300).work
    assert longest.length == min(turns * 1300 + work.reply_tokens, (
        given.get('max_tokens', 4096) if turns > 1 else 1300))


def test_switches_of_a_config():
    cost = read_config_cost(config_of('qwen7b_reasonseg', **{
        'train_cfg.num_iterations': 2, 'model.loss.kl_coef': 0.0,
        'model.loss.entropy_coef': 0.0, 'model.policy.freeze_vision': True,
        'optim_wrapper.optimizer.fused': True, 'train_cfg.tokens_per_micro_batch': 5500,
        'custom_hooks': [dict(type='MaskRewardHook')],
        'model_wrapper_cfg.gradient_as_bucket_view': True}))
    setup = cost.setup
    assert setup.kept_log_probs and not setup.reference and setup.vision_is_fixed
    assert (setup.step, setup.groups, setup.entropy) == (0.0, 2, 'no_grad')
    assert setup.bucket_views and cost.frozen.keys() == {'SAM'}
    # SAM's ViT-H is published with 2.7 to 3 tera-multiply-adds an image.
    assert 16 * 5e12 < cost.frozen['SAM'].flops < 16 * 7e12


@pytest.mark.parametrize('settings', [
    {'custom_hooks': [dict(type='MaskRewardHook')], 'model.conversation': {}},
    {'model.policy.prompt_template': 'zoom_and_mask',
     'model.conversation': dict(max_turns=3, max_tokens=9000)}])
def test_each_of_8_conversations_may_have_a_crop_of_its_own_for_the_decoder(settings):
    """For the answer and its reward, or for the mask of the second turn."""
    plain, cropped = (read_config_cost(config_of(
        'qwen7b_reasonseg', **settings, **{'model.conversation.decode_in_crop': crop})
        ).frozen['SAM'].flops for crop in (False, True))
    assert cropped == 8 * plain and 16 * 5e12 < plain < 16 * 7e12


def test_models_of_unknown_cost_are_named(monkeypatch):
    def own_term(rollout):
        """Has a model."""

    own_term.needs_model = True
    monkeypatch.setitem(REWARDS.module_dict, 'own_term', own_term)

    def not_counted(**overrides):
        config = config_of('qwen7b_reasonseg', **overrides)
        config.train_cfg.rewards.mask = dict(type='MaskReward')
        return [note for note in read_config_cost(config).notes if 'not counted' in note]

    assert not_counted() == []
    assert not_counted(**{'model.decoder': dict(_delete_=True, type='BoxDecoder')}) == []
    assert not_counted(**{
        'train_cfg.rewards.own': dict(type='own_term'),
        'model.decoder': dict(_delete_=True, type='SAM2Decoder', pretrained='checkpoints/none')
    }) == ['not counted: model.decoder (SAM2Decoder)',
           'not counted: train_cfg.rewards.own (own_term)']
    assert not_counted(**{'custom_hooks.0.discriminator': [
        dict(type='Other'), dict(type='CLIPDiscriminator')]}) == [
            'not counted: custom_hooks.0.discriminator.0 (Other)']


def test_a_term_costs_the_same_whether_a_hook_or_the_loop_names_it():
    by_hooks = config_of('qwen7b_reasonseg')
    by_hooks.custom_hooks.append(dict(type='MaskRewardHook'))
    named = config_of('qwen7b_reasonseg', custom_hooks=[])
    (hook, _) = by_hooks.custom_hooks
    named.train_cfg.rewards.update(discriminative=dict(hook, type='DiscriminativeReward'),
                                   mask_iou=dict(type='MaskReward'))
    by_default_hooks = config_of('qwen7b_reasonseg', custom_hooks=[])
    by_default_hooks.default_hooks.update(dpad=hook, mask=dict(type='MaskRewardHook'))
    cost = read_config_cost(named)
    assert cost == read_config_cost(by_hooks) == read_config_cost(by_default_hooks)
    assert cost.frozen['SAM'].flops


@pytest.mark.parametrize('override, message', [
    ({'optim_wrapper.optimizer.type': 'Lion'}, "AdamW8bit.*but got 'Lion'"),
    ({'model.policy.lora': dict(r=8, target_modules='all-linear')}, 'all-linear'),
    ({'model.policy.lora': dict(r=8, target_modules=['qkv'])}, 'vision tower.*visual.*qkv'),
    ({'model.policy.lora': dict(r=8, target_modules=['q_proj', 'embed_tokens'])}, 'embed_tokens'),
    ({'model.policy.lora': dict(r=8, bias='all')}, '`lora.bias` should be'),
    ({'model.loss': dict(_delete_=True, type='CrossEntropyLoss')}, 'but got CrossEntropyLoss'),
    ({'model.decoder.model': 'vit_x'}, "vit_h.*but got 'vit_x'"),
    ({'train_dataloader.dataset.pipeline': []}, 'ModelImageResize'),
    ({'model.policy.pretrained': 'checkpoints/Other'}, 'checkpoints/Other'),
    ({'model.policy.dtype': 'half'}, "`model.policy.dtype` should be .*but got 'half'"),
    ({'model.policy': None}, r'`model` \(ReasoningSegmentor\) should have a `policy`'),
    ({'model.loss.type': 'Nope'}, r'`model.loss` \(Nope\) cannot be built: .*Nope'),
    ({'model.loss.nope': 1}, r'`model.loss` \(GRPOLoss\) cannot be built: .*nope'),
    ({'model.loss.kl_coef': -1}, '`kl_coef` should be at least 0 and finite, but got -1'),
    ({'optim_wrapper.optimizer': None}, '`optim_wrapper.optimizer` should be set to estimate'),
    ({'train_cfg': None}, '`train_cfg` should be set to estimate a training step'),
    ({'custom_hooks.0.discriminator.model_name': 'ViT-X'}, "model of open_clip .*but got 'ViT-X'"),
])
def test_what_cannot_be_estimated_is_named(override, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_config_cost(config_of('qwen7b_reasonseg', **override))


@pytest.mark.parametrize('stored, size', [
    (dict(quant_method='awq', bits=4, group_size=128), 0.5 + 2.5 / 128),
    (dict(quant_method='gptq', bits=8, group_size=-1), 1.0),
    (dict(quant_method='fp8', weight_block_size=[128, 128]), 1 + 4 / 128**2),
    (dict(quant_method='bitsandbytes', load_in_4bit=True, llm_int8_skip_modules=['lm_head']),
     0.5 + 4 / 64)])
def test_a_prequantized_folder_is_counted_so(tmp_path, stored, size):
    """By config.json, not by name; the adapter stays float32."""
    folder = Path(make_policy_folder(tmp_path / 'Qwen3-VL-8B-Thinking', 'qwen3_vl'))
    path = folder / 'config.json'
    path.write_text(json.dumps(dict(json.loads(path.read_text()), quantization_config=stored)))
    cost = read_config_cost(config_of('qwen7b_lora_reasonseg', **{
        'model.policy.pretrained': str(folder)}))
    assert cost.setup.quantized_bytes == size and cost.setup.trained_bytes == 4
    assert cost.notes[:2] == [f'policy: {path}', (
        f'weights: already quantized, by the `quantization_config` of that file; the language '
        f"model's take {size:.2f} bytes each")]


def test_other_quantizations_are_refused():
    with pytest.raises(ValueError, match="got 'hqq'"):
        quantized_bytes(dict(quant_method='hqq'))


def test_a_memory_budget_is_spent_on_what_it_saves():
    """A LoRA update of 7B: a budget keeps layers, its peak grows to no more than that, and fewer
    operations are repeated; 'auto' needs to know the GPU."""
    name = 'qwen7b_lora_reasonseg'
    plain = report_of(name)
    flops, peaks = [sum(plain['flops']['update'].values())], []
    for budget in (8.0, 30.0, 1000.0):
        report = report_of(name, **{'model.policy.memory_budget': budget})
        (note, ) = (line for line in report['notes'] if line.startswith('memory_budget'))
        assert f'of {budget:.2f} GB' in note and 'vision blocks' not in note
        flops.append(sum(report['flops']['update'].values()))
        peaks.append(report['memory']['peak'])
    assert flops == sorted(flops, reverse=True) and len(set(flops)) > 2
    assert peaks == sorted(peaks) and peaks[1] - peaks[0] < 30e9
    cost = read_config_cost(config_of(name, **{'model.policy.memory_budget': 'auto'}), 200, 1050)
    cost = replace(cost, frozen={})
    unknown, known = (make_report(cost, gpu_memory=memory) for memory in (None, 80.0))
    assert any('--gpu-memory' in note for note in unknown['notes'])
    assert unknown['memory']['peak'] == plain['memory']['peak'] < known['memory']['peak'] < 80e9


def test_a_memory_budget_is_of_each_gpu():
    """A full update of 7B has 33 GB of gradients. On 8 GPUs under FSDP2, each has an eighth of
    them, so 30 GB, or what 80 GB leave, have room for activations; under data parallel, not."""
    for budget in (30.0, 'auto'):
        for strategy, keeps in ((dict(type='FSDP2Strategy'), True), (None, False)):
            cost = read_config_cost(config_of('qwen7b_reasonseg', **{
                'model.policy.memory_budget': budget, 'strategy': strategy}), 200, 1050)
            report = make_report(cost, 8, gpu_memory=80.0)
            (note, ) = (line for line in report['notes'] if line.startswith('memory_budget'))
            assert ('more than the budget' in note) is not keeps
            assert (' 0 the outputs of matrix products' in note) is not keeps


def test_a_wrong_memory_budget_is_named():
    with pytest.raises(ValueError, match="`memory_budget` should be .* but got 'much'"):
        read_config_cost(config_of('qwen7b_reasonseg', **{'model.policy.memory_budget': 'much'}))


def test_without_peft_it_says_what_is_not_estimated(monkeypatch):
    # Its cache may know the adapter already.
    monkeypatch.setattr(shapes, '_read_shape', shapes._read_shape.__wrapped__)
    monkeypatch.setitem(sys.modules, 'peft', None)
    report = report_of('qwen7b_reasonseg')
    (note, ) = (line for line in report['notes'] if 'peft' in line)
    assert note == 'not estimated, since peft is not installed: LoRA of rank 64 on bfloat16'
    with pytest.raises(ImportError, match=r'pip install "mmdpad\[lora\]"'):
        report_of('qwen7b_lora_reasonseg')
