# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Every kind of adapter gives one and the same policy: in training, in both engines, merged,
exported to peft and imported again; and adapters of other programs are read or refused."""
import json
import math
import warnings

import pytest
import torch
from folder_cases.adapters import EXPERTS, REFUSED, TARGETS
from policy_families import FACTS
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from mmdpad.engine.config_nodes import Node
from mmdpad.models import HFRollout, SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.heads.families import FAMILIES
from mmdpad.models.heads.lora import SCALING
from mmdpad.models.heads.named_weights import named_weights
from mmdpad.models.hf_folder import export_policy, import_policy
from mmdpad.models.rollouts import packed_linear
from mmdpad.preflight.check_weights import check_weights
from mmdpad.registry import MODELS
from mmdpad.toy.policy_folder import make_policy_folder

peft = pytest.importorskip('peft')

QUESTIONS = ['the red circle', 'something you could roll']
# Settings that match nothing in a family, or that it refuses.
WITHOUT = dict(
    **dict.fromkeys(('qwen3_5', 'qwen3_5_moe'),
                    {'attention', 'pattern', 'scaled', 'dora', 'biased'}),
    qwen3_vl_moe={'mlp', 'parameters', 'ends_and_layers'}, glm4v={'merger'}, glm46v={'merger'},
    glm4v_moe={'merger'}, internvl={'vision', 'patches', 'merger'})
FAST = [('embedding', False), ('both_ends', True), ('parameters', True)]


@pytest.fixture(autouse=True)
def layers_are_large(monkeypatch):
    """Enough for the engine to pack their weights on a CPU."""
    monkeypatch.setattr(packed_linear, 'MIN_WEIGHTS', 1)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """(family, tied) -> a folder."""
    made = {}

    def make(family, tied):
        if (family, tied) not in made:
            path = tmp_path_factory.mktemp(f'{family}_{tied}')
            made[family, tied] = make_policy_folder(path, family)
            if not tied:
                untie(path)
        return made[family, tied]
    return make


def untie(path):
    """The head a little off the embedding, as full training of both leaves it."""
    model = AutoModelForImageTextToText.from_pretrained(path)
    generator = torch.Generator().manual_seed(1)
    weight = model.lm_head.weight.detach()
    model.lm_head.weight = torch.nn.Parameter(
        weight + torch.empty_like(weight).normal_(std=0.05, generator=generator))
    for config in (model.config, model.config.text_config):
        config.tie_word_embeddings = False
    model.save_pretrained(path)


def give_effect(head):
    generator = torch.Generator().manual_seed(0)
    for name, parameter in head.named_parameters():
        if name in head.adapter_keys:
            noise = torch.randn(parameter.shape, generator=generator)
            # The magnitudes of DoRA are those of the weights.
            parameter.data = (parameter.data * (1 + 0.2 * noise) if 'magnitude' in name else
                              0.3 * noise)


def save(head, path):
    keys = head.adapter_keys | {SCALING}
    torch.save(dict(state_dict={f'policy.{name}': value.clone() for name, value in
                                head.state_dict().items() if name in keys}), path)
    return str(path)


def encode(head):
    size = head.processor.image_processor.size
    side = size.get('height') or max(112, math.isqrt(size['shortest_edge']))
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator)
              for _ in QUESTIONS]
    return head.encode_prompts(images, QUESTIONS)


@torch.no_grad()
def log_probs(head, ids):
    return head.log_probs(encode(head), ids, torch.ones_like(ids).bool())[0]


@torch.no_grad()
def plain_log_probs(model, head, ids):
    """Those of a model of transformers by its own forward pass, one prompt at a time."""
    rows = []
    for prompt, own in zip(encode(head), ids, strict=True):
        batch = head.family.generation_inputs([prompt], 0, own.device)
        length = len(prompt)
        batch['input_ids'] = torch.cat([batch['input_ids'], own[None]], dim=1)
        batch['attention_mask'] = torch.ones_like(batch['input_ids'])
        if 'mm_token_type_ids' in batch:
            batch['mm_token_type_ids'] = torch.nn.functional.pad(batch['mm_token_type_ids'],
                                                                 (0, len(own)))
        logits = model.eval()(**batch).logits[0, length - 1:-1]
        logits[:, head.vision_token_ids] = -torch.inf
        rows.append(logits.log_softmax(dim=-1).gather(1, own[:, None])[:, 0])
    return torch.stack(rows)


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def check_everywhere(folder, lora, tmp_path):
    lora = dict(r=4, lora_alpha=8, **lora)
    policy = dict(pretrained=folder, lora=lora)
    head = VLMReasoningHead(**policy)
    entry = dict(policy, type='VLMReasoningHead')
    assert list(check_weights(Node('model.policy', entry, MODELS))) == []
    with torch.no_grad():
        before = SharedPrefixRollout(records_log_probs=True)(head, encode(head), max_new_tokens=5)
    give_effect(head)

    # The engines.
    options = dict(max_new_tokens=5, seed=3)
    sampled = SharedPrefixRollout(records_log_probs=True)(head, encode(head), **options)
    ids = sampled.ids
    assert ids.equal(HFRollout()(head, encode(head), **options).ids)
    expected = log_probs(head, ids)
    mask = sampled.mask
    assert_close(sampled.logp[mask], expected[mask])
    with head.adapter_off():
        off = log_probs(head, before.ids)
        assert not log_probs(head, ids).allclose(expected, atol=1e-2)
    assert_close(before.logp[before.mask], off[before.mask])

    # To peft, and back.
    checkpoint = save(head, tmp_path / 'made.pth')
    exported = tmp_path / 'exported'
    exported.mkdir()
    export_policy(checkpoint, policy, exported)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'Found missing adapter keys')
        theirs = peft.PeftModel.from_pretrained(
            AutoModelForImageTextToText.from_pretrained(folder), exported)
    assert_close(plain_log_probs(theirs, head, ids), expected)
    state, settings = import_policy(str(exported))
    made = torch.load(checkpoint)['state_dict']
    assert state.keys() == made.keys()
    assert all(value.equal(made[name]) for name, value in state.items())
    again = eval(f'dict({settings})')
    other = VLMReasoningHead(**again)
    other.load_state_dict({name.removeprefix('policy.'): value for name, value in state.items()},
                          strict=False)
    assert_close(log_probs(other, ids), expected)

    # What peft writes itself, with the weight under an adapter of an end.
    theirs.save_pretrained(tmp_path / 'theirs')
    state, _ = import_policy(str(tmp_path / 'theirs'))
    assert state.keys() == made.keys()
    assert all(value.equal(made[name]) for name, value in state.items())

    # Merged.
    merged = tmp_path / 'merged'
    merged.mkdir()
    if lora.get('lora_bias') and head.family.name.startswith(('Qwen3', 'InternVL')):
        # Their layers have no bias.
        with pytest.raises(ValueError, match='q_proj has none; use the adapter unmerged'):
            export_policy(checkpoint, policy, merged, merge_lora=True)
        with pytest.raises(ValueError, match='q_proj has none; use the adapter unmerged'):
            next(named_weights(head.model))
        return
    export_policy(checkpoint, policy, merged, merge_lora=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model = AutoModelForImageTextToText.from_pretrained(merged)
    assert_close(plain_log_probs(model, head, ids), expected)
    assert_close(log_probs(VLMReasoningHead(str(merged)), ids), expected)
    assert list(check_weights(Node('model.policy', dict(
        type='VLMReasoningHead', pretrained=str(merged)), MODELS))) == []
    state, _ = import_policy(str(merged))
    assert_close(log_probs_of(state, str(merged), ids), expected)

    # Handed over to another engine.
    tied = head.model.config.tie_word_embeddings
    ends = tied and {'embed_tokens', 'lm_head'}.intersection(lora.get('target_modules', ()))
    if ends or lora.get('use_dora') or lora.get('target_parameters'):
        with pytest.raises(ValueError, match='for another engine to take it over'):
            next(named_weights(head.model))
        return
    model = head.family.model_class.from_pretrained(
        None, config=AutoConfig.from_pretrained(folder), state_dict=dict(named_weights(head.model)))
    assert_close(plain_log_probs(model, head, ids), expected)


def log_probs_of(state, folder, ids):
    head = VLMReasoningHead(folder)
    head.load_state_dict({name.removeprefix('policy.'): value for name, value in state.items()})
    return log_probs(head, ids)


@pytest.mark.parametrize('name, tied', FAST)
def test_an_adapter_is_the_same_policy_everywhere(folders, name, tied, tmp_path):
    check_everywhere(folders('qwen2_5_vl', tied), TARGETS[name], tmp_path)


def test_an_adapter_of_another_tower_is_the_same_policy_everywhere(folders, tmp_path):
    check_everywhere(folders('glm4v', True), TARGETS['language_and_vision'], tmp_path)


@pytest.mark.parametrize('family', ['qwen3_vl_moe', 'glm4v_moe'])
def test_an_adapter_of_experts_is_the_same_policy_everywhere(folders, family, tmp_path):
    check_everywhere(folders(family, False), EXPERTS, tmp_path)


@pytest.mark.parametrize('settings', [
    dict(EXPERTS, target_modules='language', rank_pattern={'up_proj': 2}),
    pytest.param(dict(target_modules=['gate_proj', 'up_proj', 'down_proj'],
                      alpha_pattern={'shared_.*': 3}), marks=pytest.mark.slow)])
def test_layers_that_peft_takes_for_experts_are_the_same_policy_everywhere(folders, settings,
                                                                           tmp_path):
    """In GLM-4.5V: those of the first layers, the shared experts and the vision tower."""
    check_everywhere(folders('glm4v_moe', False), settings, tmp_path)


def test_what_peft_could_not_load_is_only_exported_merged(folders, tmp_path):
    policy = dict(pretrained=folders('glm4v_moe', False), lora=dict(r=4, use_dora=True))
    checkpoint = save(VLMReasoningHead(**policy), tmp_path / 'made.pth')
    with pytest.raises(ValueError, match=r"`lora.use_dora` of layers that peft takes for experts, "
                       r'such as model.*mlp.* should be merged .*`--merge-lora`'):
        export_policy(checkpoint, policy, tmp_path)
    export_policy(checkpoint, policy, tmp_path, merge_lora=True)


@pytest.mark.slow
@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('tied', [True, False])
@pytest.mark.parametrize('name', TARGETS)
def test_each_adapter_is_the_same_policy_everywhere(folders, family, tied, name, tmp_path):
    if name in WITHOUT.get(family, ()):
        pytest.skip('it matches nothing, or is refused')
    if tied and not FACTS[family].tied:
        pytest.skip('its head is never tied')
    check_everywhere(folders(family, tied), TARGETS[name], tmp_path)


@pytest.fixture
def exported(folders, tmp_path):
    """An adapter's folder as peft writes it, and the weights of a checkpoint with it."""
    folder = folders('qwen2_5_vl', False)
    policy = dict(pretrained=folder, lora=dict(
        r=4, lora_alpha=8, target_modules='language_and_vision',
        alpha_pattern={r'model\.language_model\.layers\.0\.self_attn\.q_proj': 3}))
    head = VLMReasoningHead(**policy)
    give_effect(head)
    path = tmp_path / 'exported'
    path.mkdir()
    checkpoint = save(head, tmp_path / 'made.pth')
    export_policy(checkpoint, policy, path)
    return path, torch.load(checkpoint)['state_dict']


def change(folder, rename=None, **entries):
    path = folder / 'adapter_config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    if rename:
        path = folder / 'adapter_model.safetensors'
        save_file({rename(name): value for name, value in load_file(path).items()}, path)


def old_name(name):
    """As transformers before 4.52 called the layers of Qwen2-VL and Qwen2.5-VL."""
    return name.replace('model.model.language_model.', 'model.model.').replace(
        'model.model.visual.', 'model.visual.')


def test_an_adapter_in_few_layers_of_a_kind_is_imported(tmp_path):
    """Its list of targets would be refused in a config."""
    folder = make_policy_folder(tmp_path / 'base', 'qwen3_5')
    theirs = peft.get_peft_model(AutoModelForImageTextToText.from_pretrained(folder),
                                 peft.LoraConfig(r=4, target_modules=['q_proj', 'v_proj']))
    theirs.save_pretrained(tmp_path / 'theirs')
    state, settings = import_policy(str(tmp_path / 'theirs'))
    head = VLMReasoningHead(**eval(f'dict({settings})'))
    assert {f'policy.{name}' for name in head.adapter_keys | {SCALING}} == state.keys()
    assert len(state) == 1 * 2 * 2 + 1


OLD_PATTERNS = [
    # By which programs of that time named all linear layers of the language model.
    r'^(?!.*visual).*(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*|.*visual\.blocks'
    r'.*\.(qkv|proj|(gate|up|down)_proj)',
    r'model\.layers\..*_proj|visual\.blocks\..*(qkv|proj)']


@pytest.mark.parametrize('targets', OLD_PATTERNS)
def test_an_adapter_of_earlier_transformers(exported, targets, folders):
    folder, made = exported
    change(folder, old_name, target_modules=targets,
           alpha_pattern={r'model\.layers\.0\.self_attn\.q_proj': 3})
    names = load_file(folder / 'adapter_model.safetensors')
    assert all(name.startswith(('base_model.model.model.layers.',
                                'base_model.model.visual.blocks.')) for name in names)
    state, settings = import_policy(str(folder))
    assert state.keys() == made.keys()
    assert all(value.equal(made[name]) for name, value in state.items())
    policy = eval(f'dict({settings})')
    head = VLMReasoningHead(**policy)
    assert {f'policy.{name}' for name in head.adapter_keys | {SCALING}} == made.keys()
    assert head.adapter_scaling.equal(made[f'policy.{SCALING}'])
    # Those transformers itself makes of it.
    if targets == OLD_PATTERNS[0]:
        theirs = AutoModelForImageTextToText.from_pretrained(policy['pretrained'])
        change(folder, alpha_pattern={})
        theirs.load_adapter(str(folder))
        own = dict(theirs.named_parameters())
        assert all(own[name.removeprefix('policy.model.')].equal(value)
                   for name, value in state.items() if '.lora_' in name)


@pytest.mark.parametrize('excluded, kept', [(r'.*[.]of_old', ''), (['of_old', 'norm'], "['norm']")])
def test_exclusions_that_match_nothing_are_not_imported(exported, excluded, kept):
    change(exported[0], exclude_modules=excluded)
    _, settings = import_policy(str(exported[0]))
    assert f'exclude_modules={kept}' in settings if kept else 'exclude' not in settings


@pytest.mark.parametrize('entries, told', [
    *REFUSED,
    (dict(peft_type='IA3'), "`peft_type` of .* should be LORA, .* but is 'IA3'"),
    (dict(base_model_name_or_path='./gone'), "`--base` should be a folder .* but 'gone' does not"),
    (dict(r=8), 'of another shape'),
    (dict(use_dora=True), '24 missing .*lora_magnitude_vector'),
])
def test_an_adapter_that_a_policy_cannot_have_is_refused(exported, entries, told):
    change(exported[0], **entries)
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        import_policy(str(exported[0]))


@pytest.mark.parametrize('base', [None, ''])
@pytest.mark.parametrize('named', [None, ''])
def test_an_empty_base_model_is_none(exported, base, named):
    folder, _ = exported
    change(folder, base_model_name_or_path=named)
    with pytest.raises(ValueError, match='should name its base model .* name it with `--base`'):
        import_policy(str(folder), base)


def test_weights_beside_the_adapter_are_named(exported):
    folder, _ = exported
    path = folder / 'adapter_model.safetensors'
    save_file(load_file(path) | {'base_model.model.lm_head.weight': torch.zeros(512, 32)}, path)
    with pytest.raises(ValueError, match=r'1 unexpected \(lm_head.weight\)'):
        import_policy(str(folder))


def test_its_model_may_be_elsewhere_and_its_weights_a_bin(exported, run_here, tmp_path, folders):
    folder, made = exported
    change(folder, base_model_name_or_path='SOMEBODY/gone', lora_dropout=0.1)
    path = folder / 'adapter_model.safetensors'
    torch.save(load_file(path), folder / 'adapter_model.bin')
    path.unlink()
    base, out = folders('qwen2_5_vl', False), tmp_path / 'back.pth'
    script = 'tools/model_converters/from_hf.py'
    failed = run_here(script, folder, out)
    assert failed.returncode == 1 and 'SOMEBODY/gone' in failed.stderr and '--base' in failed.stderr
    done = run_here(script, folder, out, '--base', base)
    assert f"pretrained='{base}', lora=dict(r=4, lora_alpha=8, target_modules=" in done.stdout
    state = torch.load(out)['state_dict']
    assert state.keys() == made.keys()
    assert all(value.equal(made[name]) for name, value in state.items())


def test_an_adapter_as_the_policy_says_what_to_do(exported, tmp_path):
    folder, _ = exported
    entry = dict(type='VLMReasoningHead', pretrained=str(folder))
    base = json.loads((folder / 'adapter_config.json').read_text())['base_model_name_or_path']
    told = (f"holds only an adapter; set `model.policy.pretrained` to '{base}', "
            f'`model.policy.lora` to dict(r=4, lora_alpha=8, target_modules=')
    last = f'`load_from` to OUT.pth of `python tools/model_converters/from_hf.py {folder} OUT.pth`'
    with pytest.raises(FileNotFoundError) as error:
        VLMReasoningHead(str(folder))
    (problem, ) = check_weights(Node('model.policy', entry, MODELS))
    for text in (str(error.value), problem):
        assert told in text and last in text
    with pytest.raises(FileNotFoundError, match='holds only an adapter'):
        export_policy('none.pth', dict(pretrained=str(folder)), tmp_path)
    (folder / 'adapter_config.json').write_text('[]')
    (problem, ) = check_weights(Node('model.policy', entry, MODELS))
    assert 'adapter_config.json should hold a JSON object' in problem


@pytest.mark.parametrize('lora, told', [
    (dict(r=4, modules_to_save=['lm_head']), '`lora.modules_to_save` should be None'),
    (dict(r=4, target_modules=['no_such']), 'no_such'),
    (dict(r=4, rank_pattern={'no_such': 2}), "`lora.rank_pattern` should name layers"),
])
def test_settings_are_refused_before_weights_are_read(folders, lora, told, monkeypatch):
    folder = folders('qwen2_5_vl', True)
    entry = dict(type='VLMReasoningHead', pretrained=folder, lora=lora)
    (problem, ) = check_weights(Node('model.policy', entry, MODELS))
    assert told in problem
    monkeypatch.setattr('mmdpad.models.mapped_weights.load_pretrained', None)
    with pytest.raises(ValueError, match=told):
        VLMReasoningHead(folder, lora=lora)


def test_the_scaling_of_a_checkpoint_is_compared_when_it_is_written_out(folders, tmp_path):
    folder = folders('qwen2_5_vl', True)
    checkpoint = save(VLMReasoningHead(folder, lora=dict(r=4, lora_alpha=8)), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='as in its training, by 2 in .* scales it by 4'):
        export_policy(checkpoint, dict(pretrained=folder, lora=dict(r=4, lora_alpha=16)), tmp_path)
