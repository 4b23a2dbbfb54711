# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import re
from pathlib import Path

import pytest
from policy_families import FACTS
from transformers import AutoConfig

from mmdpad.models import sources
from mmdpad.models.cost import Setup, Workload, build_on_meta, peak, step_memory
from mmdpad.models.cost.activations import feature_bytes
from mmdpad.models.cost.fake_policy import Arithmetic, FakePolicy
from mmdpad.models.cost.shapes import PUBLISHED, PolicyShape, read_policy_config
from mmdpad.models.heads.families import FAMILIES, find_family
from mmdpad.toy import POLICY_WEIGHTS
from mmdpad.toy.policy_folder import make_policy_folder

ROOT = Path(__file__).parents[3]
# Parameters in billions, as the models' weights files add up.
PARAMETERS = {'Qwen2-VL-2B': 2.209, 'Qwen2-VL-7B': 8.291, 'Qwen2-VL-72B': 73.406,
              'Qwen2.5-VL-3B': 3.755, 'Qwen2.5-VL-7B': 8.292, 'Qwen2.5-VL-32B': 33.453,
              'Qwen2.5-VL-72B': 73.411, 'Qwen3-VL-2B': 2.128, 'Qwen3-VL-4B': 4.438,
              'Qwen3-VL-8B': 8.767, 'Qwen3-VL-30B-A3B': 31.071, 'Qwen3-VL-235B-A22B': 235.670,
              'GLM-4.1V-9B': 10.293, 'Qwen3.5-9B': 9.410, 'Qwen3.5-35B-A3B': 35.107}


# Of these, a token is multiplied with.
ACTIVE = {'Qwen3-VL-30B-A3B': 3, 'Qwen3-VL-235B-A22B': 22, 'Qwen3.5-35B-A3B': 3}


@pytest.mark.parametrize('name', [
    name for name in PUBLISHED if not name.startswith(('InternVL', 'LFM', 'GLM-4.5V'))])
def test_built_in_shapes_have_the_published_number_of_parameters(name):
    config, source = read_policy_config(f'no/such/folder/{name}-Instruct')
    shape = PolicyShape.of(config)
    assert shape.parameters / 1e9 == pytest.approx(PARAMETERS[name], abs=5e-4)
    assert 'built-in' in source
    if name in ACTIVE:
        active = shape.text.multiplied + shape.text.hidden * shape.text.vocabulary
        assert active / 1e9 == pytest.approx(ACTIVE[name], rel=0.15)


@pytest.mark.parametrize('name, parameters', [
    ('LFM2.5-VL-450M', 448_718_848), ('LFM2.5-VL-1.6B', 1_596_625_904),
    ('LFM2.5-VL-3B', 3_123_483_888)])
def test_shapes_of_lfm2_vl(name, parameters):
    """The published weights of 1.6B are 589 tensors of 3,193,251,808 bytes in bfloat16."""
    config, _ = read_policy_config(f'no/such/folder/{name}')
    assert PolicyShape.of(config).parameters == parameters
    if name == 'LFM2.5-VL-1.6B':
        assert len([*build_on_meta(config).parameters()]) == 589
        assert 2 * parameters == 3_193_251_808


@pytest.mark.parametrize('size, vision, total', [
    ('1B', 0.3, 1.1), ('2B', 0.3, 2.3), ('4B', 0.3, 4.7), ('8B', 0.3, 8.5), ('14B', 0.3, 15.1),
    ('38B', 5.5, 38.4)])
def test_internvls_built_in_shapes_have_the_published_number_of_parameters(size, vision, total):
    """Which is given in billions with one digit, for the tower and the model."""
    shape = PolicyShape.of(read_policy_config(f'no/such/folder/InternVL3_5-{size}-HF')[0])
    assert shape.parameters / 1e9 == pytest.approx(total, abs=0.06)
    assert shape.block_parameters / 1e9 == pytest.approx(vision, abs=0.06)


def test_the_built_in_shape_of_glm_4_5v():
    """Of 106 billion parameters, as published, a token is multiplied with 12."""
    shape = PolicyShape.of(read_policy_config('no/such/folder/GLM-4.5V')[0])
    assert (shape.parameters / 1e9, shape.text.multiplied / 1e9) == (
        pytest.approx(106, rel=0.02), pytest.approx(12, rel=0.05))


def test_a_folder_is_read_and_no_weight_is_left_out(head):
    config, source = read_policy_config(POLICY_WEIGHTS)
    shape = PolicyShape.of(config)
    assert source.endswith('config.json') and shape == PolicyShape.of(head.model.config)
    assert shape.parameters == sum(p.numel() for p in head.model.parameters())
    assert shape.tied
    # Per layer: q, o 128 x 128; k, v 128 x 64; three of 128 x 384. Four layers.
    assert shape.text.linear == 4 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 384)
    # Inputs and outputs of the seven maps together.
    assert shape.adapter_weights(1) == 4 * (2 * 256 + 2 * 192 + 3 * 512)


@pytest.mark.parametrize('family', FACTS)
def test_every_family_is_read(family, tmp_path):
    shape = PolicyShape.of(read_policy_config(make_policy_folder(tmp_path, family))[0])
    assert (shape.blocks, shape.text.hidden, shape.text.layers) == (2, 32, 2)
    facts = FACTS[family]
    image = shape.image(facts.side, facts.side)
    assert image.tokens == facts.tokens
    assert shape.measurements.image_flops(shape.image(64, 64))[0] > 0
    features = FakePolicy(build_on_meta(shape.config), Arithmetic()).see(image)
    assert feature_bytes(shape, Setup(), {image: 3}) == 3 * sum(
        level.numel() * 4 for level in features)


def test_experts_are_in_memory_and_some_of_them_compute(tmp_path):
    text = PolicyShape.of(read_policy_config(make_policy_folder(tmp_path, 'qwen3_vl_moe'))[0]).text
    # Two layers of q, o 32 x 32; k, v 32 x 16; eight experts with three of 32 x 24; router 32 x 8.
    attention, expert, router = 2 * 32 * 32 + 2 * 32 * 16, 3 * 32 * 24, 32 * 8
    assert text.linear == 2 * attention
    assert text.matrices == 2 * (attention + 8 * expert + router)
    assert text.multiplied == 2 * (attention + 2 * expert + router)


def test_a_family_of_the_user_is_estimated(monkeypatch):
    """By the code of the documentation."""
    page = (ROOT / 'docs/policies.md').read_text()
    monkeypatch.setitem(FAMILIES, 'mistral3', None)  # removed at the end
    exec(re.search(r'# my_mistral3.py\n(.*?)```', page, re.S)[1], {})
    shape = PolicyShape.of(AutoConfig.for_model('mistral3', text_config=dict(
        model_type='mistral', sliding_window=None, hidden_size=64, intermediate_size=128,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
        vocab_size=512)))
    image = shape.image(840, 840)
    assert (image.pixels, image.tokens) == ((1, 3, 840, 840), 30 * 30)
    # 60 x 60 patches through 24 blocks of 16 x 1024^2 weights.
    assert shape.measurements.image_flops(image)[1] > 2 * 3600 * 24 * 16 * 1024**2
    assert peak(step_memory(shape, Setup(), Workload(1, 2, 920, 50, image)))[1] > (
        16 * shape.parameters)


def test_tiles_are_estimated():
    """InternVL's images are tiles of 448 x 448 pixels."""
    shape = PolicyShape.of(AutoConfig.for_model('internvl', text_config=dict(
        model_type='qwen3', hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, vocab_size=512)))
    image = shape.image(896, 896)
    assert (image.pixels, image.tokens) == ((5, 3, 448, 448), 5 * 256)
    # 1024 patches and one more in each of five tiles, through 24 blocks of 12 x 1024^2 weights.
    assert shape.measurements.image_flops(image)[1] > 2 * 5 * 1025 * 24 * 12 * 1024**2
    assert peak(step_memory(shape, Setup(), Workload(1, 2, 1300, 50, image)))[1] > (
        16 * shape.parameters)


def rewrite(folder, change):
    path = Path(folder, 'config.json')
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def flatten(config):
    """As Qwen2-VL and Qwen2.5-VL were first published: the language model's entries at the top."""
    text = config.pop('text_config')
    rope = text.pop('rope_parameters')
    config.update({key: value for key, value in text.items() if key != 'model_type'},
                  rope_theta=rope['rope_theta'],
                  rope_scaling=dict(type='mrope', mrope_section=rope['mrope_section']))


def untie(config):
    config['tie_word_embeddings'] = False
    config.get('text_config', {})['tie_word_embeddings'] = False


def quantize(config):
    config['quantization_config'] = dict(quant_method='awq', bits=4, group_size=128, version='gemm')


def flatten_untied(config):
    untie(config)
    flatten(config)


@pytest.mark.parametrize('change', [flatten, flatten_untied, untie, quantize, lambda config: None],
                         ids=['flat', 'flat, untied', 'untied', 'prequantized', 'as it is'])
@pytest.mark.parametrize('family', FACTS)
def test_parameters_are_those_of_the_model(family, change, tmp_path):
    """As transformers builds it of the same config.json, whatever the folder is called."""
    if change in (flatten, flatten_untied) and not FACTS[family].flat:
        pytest.skip('was never published so')
    folder = make_policy_folder(tmp_path / 'Qwen2.5-VL-72B-Thinking-AWQ', family)
    rewrite(folder, change)
    config, source = read_policy_config(folder)
    shape = PolicyShape.of(config)
    model = find_family(folder).model_class(AutoConfig.from_pretrained(folder))
    assert source == f'{folder}/config.json'
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.tied == (FACTS[family].tied and change not in (untie, flatten_untied))
    assert shape.text.hidden == 32 and shape.text.layers == 2


def test_a_hub_name_goes_by_the_cache(tmp_path, monkeypatch):
    folder = make_policy_folder(tmp_path / 'snapshot', 'qwen3_vl')
    monkeypatch.setattr(sources, 'try_to_load_from_cache', lambda *_: f'{folder}/config.json')
    config, source = read_policy_config('Qwen/Qwen3-VL-4B-Thinking')
    assert source == f'{folder}/config.json' and config.text_config.hidden_size == 32


@pytest.mark.parametrize('suffix', ['', '-Instruct', '-Thinking'])
def test_without_config_json_a_name_counts_and_is_reported(suffix):
    path = f'checkpoints/Qwen3-VL-4B{suffix}'
    config, source = read_policy_config(path)
    assert config.text_config.hidden_size == 2560
    assert source == (f'built-in shape of Qwen3-VL-4B, by its name ({path} has no config.json '
                      f'here)')


@pytest.mark.parametrize('name', ['Qwen3-VL-4B-Instruct-AWQ', 'Qwen3-VL-4B-A1B', 'my-tune'])
def test_other_names_need_a_config_json(name):
    with pytest.raises(FileNotFoundError, match=f'config.json --local-dir .*{name}'):
        read_policy_config(f'checkpoints/{name}')


def test_another_family_is_refused_by_name(tmp_path):
    (tmp_path / 'config.json').write_text('{"model_type": "llava"}')
    with pytest.raises(ValueError, match='llava'):
        read_policy_config(str(tmp_path))


def test_an_adapter_may_sit_in_fewer_layers(head):
    # 128 inputs; 128 and 64 outputs; four layers, or one.
    for lora, layers in ((dict(), 4), (dict(layers_to_transform=[1]), 1)):
        lora = dict(lora, r=2, target_modules=['q_proj', 'v_proj'])
        shape = PolicyShape.of(head.model.config, lora)
        assert shape.adapter_weights(2) == 2 * layers * (256 + 192)


def test_an_unknown_model_is_named_with_what_is_known():
    with pytest.raises(FileNotFoundError, match=r"Qwen2\.5-VL-7B.*'checkpoints/Other-7B'"):
        read_policy_config('checkpoints/Other-7B')
