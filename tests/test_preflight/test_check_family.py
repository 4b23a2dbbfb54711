# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A user's own family, checked by the command of docs/policies.md."""
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mistral3_folder import make_mistral3_folder
from policy_folders import change_json, read_json
from torch import nn
from transformers import Mistral3ForConditionalGeneration

from mmdpad.models.cost.shapes import _published_config
from mmdpad.models.heads import PolicyFamily, shared_prefix
from mmdpad.models.heads.families import FAMILIES
from mmdpad.models.heads.policy_source import check_policy
from mmdpad.models.heads.prompt_encoder import PromptEncoder
from mmdpad.preflight import check_family as module
from mmdpad.preflight.check_family import check_family
from mmdpad.toy.policy_folder import make_policy_folder

POLICIES = Path(__file__).parents[2] / 'docs/policies.md'
TOOL = 'tools/analysis_tools/check_family.py'
MINE = '''
from transformers import Qwen3VLForConditionalGeneration
from mmdpad.models.heads import PolicyFamily, register_family

register_family('qwen3_vl', PolicyFamily(
    'Mine', Qwen3VLForConditionalGeneration, coordinates='relative_1000'))
'''


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return make_policy_folder(tmp_path_factory.mktemp('mine'), 'qwen3_vl')


@pytest.fixture
def unknown(monkeypatch):
    """The families without Qwen3-VL."""
    families = {name: family for name, family in FAMILIES.items() if name != 'qwen3_vl'}
    monkeypatch.setattr('mmdpad.models.heads.families.FAMILIES', families)


def test_the_command_checks_a_family_of_a_user(folder, unknown, run_here, tmp_path, monkeypatch):
    (tmp_path / 'my_family.py').write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    refused = run_here(TOOL, folder)
    assert refused.returncode == 1 and "register_family('qwen3_vl', " in refused.stderr
    checked = run_here(TOOL, folder, '--import', 'my_family', '--model-image', '830', '840')
    sys.modules.pop('my_family')
    lines = checked.stdout.splitlines()
    assert lines[0] == f'{folder}: Mine' and checked.returncode == 0, checked
    found = [re.match(r'(ok|WRONG)?\s+(\w[^:]*): ', line) for line in lines]
    assert [match[1] for match in found if match and match[2] not in ('prompt', 'files',
                                                                      'responses')] == ['ok'] * 6
    assert 'for an image of 832 x 832, which the processor makes of 830 x 840' in checked.stdout
    assert re.search(r'48 sampled tokens off by at most \d', checked.stdout)


def test_tiny_weights_of_a_published_config(tmp_path, run_here):
    """By the script of docs/policies.md, which needs no weights."""
    script = re.search(r'```python\n# (make_tiny.py)\n(.*?)```', POLICIES.read_text(), re.DOTALL)
    (tmp_path / script[1]).write_text(script[2])
    source = tmp_path / 'published'
    make_policy_folder(source, 'qwen3_vl')
    (source / 'model.safetensors').unlink()
    tokens = {name: value for name, value in read_json(source / 'config.json').items()
              if name.endswith('_token_id')}  # of the toy vocabulary
    _published_config('Qwen3-VL-2B').save_pretrained(source)
    text = read_json(source / 'config.json')['text_config']
    assert text['hidden_size'] == 2048
    change_json(source / 'config.json', text_config=dict(text, vocab_size=512), **tokens)
    assert run_here(tmp_path / script[1], source, tmp_path / 'tiny').returncode == 0
    found = list(check_family(str(tmp_path / 'tiny')))
    assert sum(finding.agrees is True for finding in found) == 6, found


def test_what_leaks_between_responses_is_found(folder, monkeypatch):
    """An attention that takes the row for one sequence."""
    def leaking(self, query, key, value, scale, layer):
        self.reached.add(layer)
        return nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=True).transpose(1, 2)

    monkeypatch.setattr(shared_prefix.PackedRow, 'attend', leaking)
    wrong = [str(finding) for finding in check_family(folder) if finding.agrees is False]
    assert [text.partition(':')[0] for text in wrong] == [
        'WRONG log-probabilities, shared_prefix', 'WRONG gradients, shared_prefix',
        'WRONG SharedPrefixRollout']


def test_a_family_that_cannot_share_the_prefix_is_compared_without(folder, monkeypatch):
    monkeypatch.setitem(FAMILIES, 'qwen3_vl', replace(FAMILIES['qwen3_vl'], shared_layers=()))
    found = {finding.what: finding for finding in check_family(folder, gradients=False)}
    assert found['shared prefix'].agrees is None
    assert "set `attn_implementation='sdpa'`" in found['shared prefix'].result
    assert found['log-probabilities, sdpa'].agrees
    assert found['HFRollout'].agrees and 'SharedPrefixRollout' not in found


def test_an_engine_that_needs_another_version_is_left_out(tmp_path, monkeypatch):
    """As with the oldest supported transformers."""
    monkeypatch.setattr('mmdpad.models.rollouts.hf_rollout._DECODES_DELTA_NET', False)
    found = {finding.what: finding for finding in check_family(
        make_policy_folder(tmp_path, 'qwen3_5'), gradients=False)}
    assert found['HFRollout'].agrees is None
    assert 'needs transformers 5.22 or later for Qwen3.5' in found['HFRollout'].result
    assert found['log-probabilities, sdpa'].agrees and found['SharedPrefixRollout'].agrees


def test_gradients_are_compared_by_weight():
    expected = dict(a=torch.tensor([3., 4.]), b=torch.tensor([1e-9]))
    found = dict(expected, a=torch.tensor([3., 4.5]))
    compare = module._compare_gradients
    assert compare('x', found, expected, 0.2).agrees
    assert not compare('x', found, expected, 0.05).agrees
    assert 'off by at most 1.0e-01 of their norm' in compare('x', found, expected, 0.2).result
    assert compare('x', dict(expected, b=torch.tensor([2e-9])), expected, 1e-3).agrees  # rounding
    broken = compare('x', dict(expected, b=torch.tensor([torch.nan])), expected, 1.0)
    assert not broken.agrees and broken.result.endswith('in b')
    missing = compare('x', dict(a=expected['a']), expected, 1.0)
    assert not missing.agrees and 'only one of both has those of b' in missing.result


def test_arguments_are_checked(folder, run_here):
    wrong = run_here(TOOL, folder, '--dtype', 'fp32')
    assert wrong.returncode == 1 and "write 'float32'" in wrong.stderr
    assert 'No module named' in run_here(TOOL, folder, '--import', 'not_there').stderr


@pytest.fixture(scope='module')
def mistral3(tmp_path_factory):
    return make_mistral3_folder(tmp_path_factory.mktemp('mistral3'))


def test_the_family_that_the_page_adds(mistral3, monkeypatch):
    """Its own processor, positions, tiles and vision tower."""
    code = re.search(r'```python\n# my_mistral3.py\n(.*?)```', POLICIES.read_text(), re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line]) < 40
    monkeypatch.setattr('mmdpad.models.heads.families.FAMILIES', dict(FAMILIES))
    exec(code, {'__name__': 'my_mistral3'})
    found = list(check_family(mistral3, model_image=(110, 168)))
    # Its processor also writes tokens between and after rows of the image.
    prompt = PromptEncoder(mistral3, 'default', 1300)(torch.zeros(3, 56, 56).byte(), 'a dot')
    assert len(prompt) - len(prompt.unexpanded_ids) == 4 - 1 + 2
    assert sum(finding.agrees is True for finding in found) == 6, found
    # Six rows of four tokens of 28 pixels.
    assert '24 of them for an image of 112 x 168, which the processor makes' in found[2].result


def test_a_family_with_another_processor_says_what_to_override(mistral3, monkeypatch):
    plain = replace(FAMILIES['qwen3_vl'], name='Mine')
    monkeypatch.setitem(FAMILIES, 'mistral3', plain)
    with pytest.raises(ValueError, match="return 'image_grid_thw', which `read_prompt` of "
                                         'Mine reads, but returns .*pixel_values'):
        list(check_family(mistral3))


def test_parts_that_a_model_lacks_are_named_before_weights_are_read(mistral3, monkeypatch):
    mine = PolicyFamily('Mine', Mistral3ForConditionalGeneration, 'relative_1000')
    known = dict(vision_tower='model.vision_tower', vision_blocks='transformer.layers')
    for settings, message in [
            ({}, '`vision_tower` of Mine .* Mistral3ForConditionalGeneration, but there is no '
             'model.visual .*`model` has model.vision_tower, .*model.language_model'),
            (dict(known, vision_blocks='blocks'), 'no model.vision_tower.blocks'),
            (dict(known, language_model='model.text'), '`language_model` of Mine .* no model.text'),
            (known, '`mrope` of Mine should be False, since Mistral3Model has no `get_rope_in')]:
        monkeypatch.setitem(FAMILIES, 'mistral3', replace(mine, **settings))
        with pytest.raises(ValueError, match=message):
            check_policy(dict(pretrained=mistral3))
    monkeypatch.setitem(FAMILIES, 'mistral3', replace(mine, **known, mrope=False))
    check_policy(dict(pretrained=mistral3))
