# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Every family through every engine; transformers' own forward and generate are the reference."""
import json
import re
from pathlib import Path

import pytest
import torch
from policy_families import FACTS
from policy_folders import change_weights

import mmdpad
from mmdpad.models import HFRollout, SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.heads.families import FAMILIES, PolicyFamily, find_family, register_family
from mmdpad.models.heads.policy_source import policy_problems
from mmdpad.models.rollouts import hf_rollout
from mmdpad.toy.policy_folder import make_policy_folder

QUESTIONS = ['the red circle', 'something you could roll']
TEMPLATE = 'find "{question}"'
TEXTS = ['a red star', 'no', 'so it is', 'a']


@pytest.fixture(scope='module', params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope='module')
def folder(family, tmp_path_factory):
    return make_policy_folder(tmp_path_factory.mktemp(family), family)


@pytest.fixture(scope='module')
def images(family):
    """Two images of different sizes that every processor keeps."""
    facts, side = FACTS[family], 2 * FACTS[family].patch
    sizes = [(8 * side, 9 * side), (10 * side, 9 * side)] if facts.fewest else [
        (facts.tile, facts.tile), (2 * facts.tile, facts.tile)]
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
            for size in sizes]


def processed(head, image, question):
    """What the processor itself makes of a prompt, for plain transformers."""
    values = head.processor(text=[head.encoder.write(question)], images=[image],
                            return_tensors='pt', return_mm_token_type_ids=True)
    return {name: value for name, value in values.items()
            if name != 'mm_token_type_ids' or head.family.mrope}


@pytest.fixture(scope='module')
def exact(folder):
    return VLMReasoningHead(folder, TEMPLATE, dtype='float64').eval()


@torch.no_grad()
def log_probs(head, images):
    prompts = head.encode_prompts(images, QUESTIONS)
    return head.log_probs(prompts, *head.encode_responses(TEXTS))[0]


def test_every_family_has_its_facts():
    assert FACTS.keys() == FAMILIES.keys()


def test_it_is_known_by_its_config(exact, family):
    facts = FACTS[family]
    assert (exact.family.name, exact.coordinates) == (facts.name, facts.coordinates)
    assert type(exact.model) is exact.family.model_class
    assert exact.model.config.model_type == family
    names = exact.processor.tokenizer.convert_ids_to_tokens(exact.vision_token_ids)
    assert {*names} == {*facts.vision_tokens}


def test_log_probs_are_those_of_a_plain_forward(exact, images):
    """Of each response alone, as transformers computes it."""
    found = log_probs(exact, images)
    ids, mask = exact.encode_responses(TEXTS)
    for row in range(4):
        own, values = ids[row, mask[row]], processed(exact, images[row // 2], QUESTIONS[row // 2])
        values['input_ids'] = torch.cat([values['input_ids'], own[None]], dim=1)
        values['attention_mask'] = torch.ones_like(values['input_ids'])
        if 'mm_token_type_ids' in values:
            values['mm_token_type_ids'] = torch.nn.functional.pad(values['mm_token_type_ids'],
                                                                  (0, len(own)))
        with torch.no_grad():
            logits = exact.model(**values).logits[0, -len(own) - 1:-1]
        logits[:, exact.vision_token_ids] = -torch.inf
        expected = logits.log_softmax(-1).gather(1, own[:, None])[:, 0]
        # Norms and rotary angles of transformers are float32.
        torch.testing.assert_close(found[row, :len(own)], expected, rtol=0, atol=1e-5)


def test_the_prompt_once_or_once_per_response(exact, folder, images):
    plain = VLMReasoningHead(folder, TEMPLATE, dtype='float64', attn_implementation='sdpa')
    torch.testing.assert_close(log_probs(exact, images), log_probs(plain.eval(), images),
                               rtol=0, atol=1e-5)


def test_both_rollouts_and_generate_give_the_same_tokens(exact, images, family):
    if family.startswith('qwen3_5') and not hf_rollout._DECODES_DELTA_NET:
        pytest.skip('this transformers cannot')
    prompts = exact.encode_prompts(images, QUESTIONS)
    sampled = dict(group_size=3, max_new_tokens=12, seed=1)
    ours, theirs = (engine(exact, prompts, **sampled)
                    for engine in (SharedPrefixRollout(), HFRollout()))
    assert ours.ids.equal(theirs.ids) and len({*map(tuple, ours.ids.tolist())}) == 6
    greedy = SharedPrefixRollout()(exact, prompts[:1], temperature=0, max_new_tokens=12)
    values = processed(exact, images[0], QUESTIONS[0])
    with torch.no_grad():
        plain = exact.model.generate(
            **values, do_sample=False, max_new_tokens=12, repetition_penalty=1.0,
            suppress_tokens=exact.vision_token_ids, temperature=None, top_p=None, top_k=None)
    assert greedy.ids[0].tolist() == plain[0, values['input_ids'].shape[1]:].tolist()


def test_checkpointing_changes_no_gradient_and_every_weight_gets_one(folder, images):
    gradients = []
    for checkpointing in (False, True):
        head = VLMReasoningHead(folder, TEMPLATE, gradient_checkpointing=checkpointing).train()
        head.supervised_loss(head.encode_prompts(images, QUESTIONS), TEXTS)[0].backward()
        gradients.append({name: p.grad for name, p in head.named_parameters()})
    assert all(gradient is not None for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize('targets', ['language', 'language_and_vision'])
def test_an_adapter_sits_where_its_name_says(folder, family, images, targets):
    pytest.importorskip('peft')
    head = VLMReasoningHead(folder, TEMPLATE, lora=dict(r=2, target_modules=targets)).train()
    layers = {name.rpartition('.lora_')[0] for name in head.adapter_keys}
    language = {name for name in layers if '.language_model.' in name}
    assert len(language) == FACTS[family].linears
    blocks = {name.partition(f'.{head.family.vision_blocks}.')[2][2:] for name in layers - language}
    assert blocks == (set() if targets == 'language' else FACTS[family].tower)
    assert head.vision_is_fixed == (targets == 'language')
    head.supervised_loss(head.encode_prompts(images, QUESTIONS), TEXTS)[0].backward()
    assert {name for name, p in head.named_parameters() if p.grad is not None} == head.adapter_keys
    base = VLMReasoningHead(folder, TEMPLATE).eval()
    with head.eval().adapter_off():
        assert log_probs(head, images).equal(log_probs(base, images))


def test_weights_for_multi_token_prediction_are_left_out(tmp_path):
    """Qwen3.5 is published with them."""
    folder = make_policy_folder(tmp_path, 'qwen3_5')
    change_weights(tmp_path, lambda state: state | {'mtp.fc.weight': torch.zeros(4, 4)})
    assert list(policy_problems(dict(pretrained=folder))) == []
    assert not any('mtp' in name for name in VLMReasoningHead(folder).state_dict())


def test_a_frozen_tower_has_no_gradient(folder):
    head = VLMReasoningHead(folder, TEMPLATE, freeze_vision=True)
    assert head.vision_is_fixed
    assert all(p.requires_grad == ('.language_model.' in name or '.lm_head.' in name)
               for name, p in head.named_parameters())


def test_the_prompt_asks_in_the_familys_units(exact, folder):
    def units(head):
        text = head.encoder.write('a cup')
        return [name for name, words in dict(
            pixels='in pixels of this image', relative_1000='in coordinates from 0 to 1000',
            relative_1='in coordinates normalized to [0,1]').items() if words in text]

    assert units(VLMReasoningHead(folder)) == [exact.coordinates]
    other = 'relative_1000' if exact.coordinates == 'pixels' else 'pixels'
    changed = VLMReasoningHead(folder, coordinates=other)
    assert changed.coordinates == other and units(changed) == [other]


def test_an_unknown_family_is_refused_before_weights_are_read(tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps(dict(model_type='llava')))
    with pytest.raises(ValueError, match=r"one of qwen2_vl \(Qwen2-VL\), .*but is 'llava'; .*"
                                         r"register_family\('llava', PolicyFamily\("):
        VLMReasoningHead(str(tmp_path))


def test_a_family_can_be_added(tmp_path, monkeypatch):
    monkeypatch.setattr('mmdpad.models.heads.families.FAMILIES', dict(FAMILIES))
    mine = PolicyFamily('Mine', FAMILIES['qwen2_vl'].model_class, 'pixels')
    register_family('mine', mine)
    (tmp_path / 'config.json').write_text(json.dumps(dict(model_type='mine')))
    assert find_family(str(tmp_path)) is mine
    with pytest.raises(ValueError, match="`coordinates` should be one of .* but got 'metres'"):
        PolicyFamily('Mine', FAMILIES['qwen2_vl'].model_class, 'metres')


def test_no_code_comes_from_a_weights_folder():
    root = Path(mmdpad.__file__).parents[1]
    files = [path for folder in ('mmdpad', 'configs', 'tools')
             for path in (root / folder).rglob('*.py')]
    assert len(files) > 100
    allows = re.compile(r'trust_remote_code\W*[=:](?!False)')
    assert not [path for path in files if allows.search(path.read_text())]
