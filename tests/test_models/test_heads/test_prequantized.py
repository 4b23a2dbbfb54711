# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Policies of folders whose weights are quantized already: evaluated, trained below an adapter, and
refused everywhere else."""
import copy
import shutil
from pathlib import Path

import pytest
import torch
from folder_cases.quantized_weights import NF4
from mmengine.runner import Runner
from policy_folders import change_json, quantized, read_json
from transformers import AutoModelForImageTextToText

from mmdpad.models import SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.cost.memory import standing
from mmdpad.models.heads.named_weights import check_handover
from mmdpad.models.heads.quantization import keep_trainable
from mmdpad.models.hf_folder import export_policy, import_policy
from mmdpad.preflight.cost import read_config_cost
from mmdpad.toy import POLICY_WEIGHTS

pytest.importorskip('bitsandbytes')
KEPT = ['model.visual', 'lm_head', 'model.language_model.layers.1.mlp']
OLD_NAMES = ['visual', 'lm_head', 'model.layers.1.mlp']
TEXTS = ['a red star', 'no']


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """The toy model in 4 bits, the second MLP whole."""
    folder = tmp_path_factory.mktemp('quantized') / 'nf4'
    shutil.copytree(POLICY_WEIGHTS, folder)
    quantized(folder, **NF4, llm_int8_skip_modules=KEPT)
    return folder


@pytest.fixture
def prompts(head):
    image = torch.randint(0, 256, (3, 112, 112), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(0))
    return head.encode_prompts([image], ['the red circle'])


@torch.no_grad()
def log_probs(head, prompts):
    return head.log_probs(prompts, *head.encode_responses(TEXTS))[0]


def quantized_layers(head) -> set[str]:
    return {name for name, module in head.model.named_modules()
            if type(module).__name__ == 'Linear4bit'}


def test_numbers_are_those_of_transformers(folder, prompts):
    head = VLMReasoningHead(str(folder)).eval()
    theirs = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    keep_trainable(theirs)  # else in bfloat16 on some CPUs
    ids, mask = head.encode_responses(TEXTS)
    (prompt, ) = prompts
    for row, found in enumerate(log_probs(head, prompts)):
        own = ids[row, mask[row]]
        full = torch.cat([prompt.input_ids, own])[None]
        types = torch.nn.functional.pad(prompt.token_types, (0, len(own)))[None]
        with torch.no_grad():
            logits = theirs(input_ids=full, mm_token_type_ids=types,
                            pixel_values=prompt.pixel_values, image_grid_thw=prompt.grid).logits
        logits[..., head.vision_token_ids] = -torch.inf
        expected = logits[0, -len(own) - 1:-1].log_softmax(-1).gather(1, own[:, None])[:, 0]
        torch.testing.assert_close(found[:len(own)], expected, rtol=0, atol=1e-4)


def test_layers_that_an_older_transformers_left_unquantized_stay_so(folder, prompts, tmp_path):
    """It named them as its modules were called."""
    older = Path(shutil.copytree(folder, tmp_path / 'older'))
    settings = read_json(older / 'config.json')['quantization_config']
    settings['llm_int8_skip_modules'] = OLD_NAMES
    change_json(older / 'config.json', quantization_config=settings)
    head, expected = (VLMReasoningHead(str(path)).eval() for path in (older, folder))
    assert quantized_layers(head) == quantized_layers(expected)
    assert 'model.language_model.layers.1.mlp.up_proj' not in quantized_layers(head)
    assert log_probs(head, prompts).equal(log_probs(expected, prompts))
    settings['llm_int8_skip_modules'] = ['visual', 'lm_head']
    change_json(older / 'config.json', quantization_config=settings)
    with pytest.raises(ValueError, match=r'3 layers \(model.language_model.layers.1.*but are not'):
        VLMReasoningHead(str(older))


def test_only_the_adapter_trains(folder, prompts):
    pytest.importorskip('peft')
    head = VLMReasoningHead(str(folder), lora=dict(r=4)).train()
    head.check_trainable()
    base = log_probs(head, prompts)
    optimizer = torch.optim.SGD([p for p in head.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(3):
        loss, _ = head.supervised_loss(prompts, TEXTS)
        loss.backward()
        assert {n for n, p in head.named_parameters() if p.grad is not None} == head.adapter_keys
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        SharedPrefixRollout()(head, prompts, max_new_tokens=2)  # in evaluation mode
    assert losses[2] < losses[0]
    with head.adapter_off():
        assert log_probs(head, prompts).equal(base)


@pytest.mark.parametrize('loop', ['tiny_config', 'tiny_sft_config'])
def test_without_an_adapter_no_loop_starts(loop, folder, request):
    config = request.getfixturevalue(loop)
    config.model.policy.pretrained = str(folder)
    with pytest.raises(ValueError, match='should not be quantized to be trained without `lora`'):
        Runner.from_cfg(config).train()


def test_an_evaluation_goes_through(folder, tiny_config):
    config = tiny_config
    config.model.policy.pretrained = str(folder)
    assert Runner.from_cfg(config).test()


def test_converters_say_what_they_need(folder, tiny_config, tmp_path):
    policy = dict(tiny_config.model.policy, pretrained=str(folder))
    for more, arguments, told in (
            (dict(lora=dict(r=4)), dict(merge_lora=True),
             'should not be quantized for an adapter to be merged .*model.policy.pretrained='),
            ({}, {}, 'should not be quantized to be trained or exported')):
        with pytest.raises(ValueError, match=told):
            export_policy('not/read.pth', {**policy, **more}, tmp_path, **arguments)
    with pytest.raises(ValueError, match='should not be quantized to become a checkpoint'):
        import_policy(str(folder))
    with pytest.raises(ValueError, match='in `policy.pretrained`'):
        check_handover(VLMReasoningHead(str(folder)).model)


def test_an_adapter_is_exported(folder, tiny_sft_config, tmp_path):
    pytest.importorskip('peft')
    config = tiny_sft_config
    config.merge_from_dict({'model.policy.pretrained': str(folder), 'train_cfg.max_iters': 1,
                            'model.policy.lora': dict(r=4)})
    Runner.from_cfg(copy.deepcopy(config)).train()
    (tmp_path / 'adapter').mkdir()
    export_policy(f'{config.work_dir}/iter_1.pth', config.model.policy, tmp_path / 'adapter')
    assert (tmp_path / 'adapter/adapter_model.safetensors').is_file()


def test_the_estimate_counts_what_is_stored(folder, tiny_config):
    whole, below = (copy.deepcopy(tiny_config) for _ in range(2))
    whole.model.policy.lora = below.model.policy.lora = dict(r=4)
    whole.model.policy.quantization = NF4
    below.model.policy.pretrained = str(folder)
    costs = [read_config_cost(config) for config in (whole, below)]
    first, second = (standing(cost.shape, cost.setup) for cost in costs)
    assert first == second
    assert any('already quantized' in note for note in costs[1].notes)


def test_the_tiny_replacement_is_quantized_likewise(folder, tiny_config, run_here, tmp_path):
    pytest.importorskip('peft')
    options = [f'model.policy.pretrained={folder}']
    tiny_config.dump(tmp_path / 'config.py')
    refused = run_here('tools/train.py', tmp_path / 'config.py', '--smoke', '--cfg-options',
                       *options)
    assert refused.returncode == 1 and 'should not be quantized to be trained' in refused.stderr
    fine = run_here('tools/train.py', tmp_path / 'config.py', '--smoke', '--cfg-options', *options,
                    'model.policy.lora.r=4')
    assert fine.returncode == 0, fine.stderr
