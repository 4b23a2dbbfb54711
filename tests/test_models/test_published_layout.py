# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Experts of Qwen3-VL-MoE, which published files hold transposed against transformers 5."""
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from mmdpad.models import VLMReasoningHead
from mmdpad.models.heads.named_weights import named_weights
from mmdpad.models.heads.policy_source import policy_problems
from mmdpad.models.hf_folder import export_policy, import_policy
from mmdpad.models.published_layout import swapped_weights
from mmdpad.toy.policy_folder import make_policy_folder

EXPERTS = {f'model.language_model.layers.{layer}.mlp.experts.{name}': shape for layer in (0, 1)
           for name, shape in dict(gate_up_proj=(8, 32, 48), down_proj=(8, 24, 32)).items()}
"""Names and shapes in the published files: (experts, in, out)."""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return make_policy_folder(tmp_path_factory.mktemp('moe'), 'qwen3_vl_moe')


def stored(folder):
    return load_file(f'{folder}/model.safetensors')


def test_the_made_folder_has_the_published_layout(folder):
    weights = stored(folder)
    assert {name: tuple(weights[name].shape) for name in EXPERTS} == EXPERTS
    assert weights.keys() > EXPERTS.keys() and 'lm_head.weight' not in weights


def test_an_export_is_equal_to_the_start_and_so_is_what_is_read_back(folder, tmp_path):
    head = VLMReasoningHead(folder)
    assert sorted(swapped_weights(head.model)) == sorted(EXPERTS)
    state = {f'policy.{name}': value for name, value in head.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'made.pth')
    out = tmp_path / 'out'
    out.mkdir()
    export_policy(str(tmp_path / 'made.pth'), dict(pretrained=folder), out)
    assert_equal(stored(out), stored(folder))
    assert_equal(import_policy(str(out))[0], state)
    for path in (folder, out):  # read by vLLM, unknown to transformers
        assert json.loads(Path(path, 'config.json').read_text())['text_config']['norm_topk_prob']


def test_another_engine_gets_what_it_would_read(folder):
    assert_equal(dict(named_weights(VLMReasoningHead(folder).model)), stored(folder))


def test_other_families_have_none(policy_config):
    assert swapped_weights(VLMReasoningHead(**policy_config).model) == []


def test_transformers_own_layout_is_read_too(folder, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    assert stored(tmp_path)[next(iter(EXPERTS))].shape == (8, 48, 32)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert_equal(again.state_dict(), model.state_dict())


@pytest.mark.parametrize('width, name', [(16, 'gate_up_proj (8, 32, 32)'),
                                         (32, 'down_proj (8, 32, 32)')])
def test_square_experts_could_be_in_either_and_are_refused(folder, tmp_path, width, name):
    shutil.copytree(folder, tmp_path / 'square')
    path = tmp_path / 'square/config.json'
    config = json.loads(path.read_text())
    config['text_config']['moe_intermediate_size'] = width
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError) as error:
        VLMReasoningHead(str(path.parent))
    assert 'Experts should not be square' in str(error.value) and name in str(error.value)
    (problem, ) = policy_problems(dict(pretrained=str(path.parent)))
    assert problem == str(error.value)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert all(value.equal(expected[name]) for name, value in found.items())
