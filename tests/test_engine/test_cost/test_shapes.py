# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest

from mmdpad.engine.cost.shapes import PUBLISHED, PolicyShape, build_on_meta, read_policy_config
from mmdpad.testing import POLICY_WEIGHTS
from mmdpad.testing.policy_folder import make_policy_folder

# Parameters in billions, as the models' weights files add up.
PARAMETERS = {'Qwen2-VL-2B': 2.209, 'Qwen2-VL-7B': 8.291, 'Qwen2-VL-72B': 73.406,
              'Qwen2.5-VL-3B': 3.755, 'Qwen2.5-VL-7B': 8.292, 'Qwen2.5-VL-32B': 33.453,
              'Qwen2.5-VL-72B': 73.411, 'Qwen3-VL-2B': 2.128, 'Qwen3-VL-4B': 4.438,
              'Qwen3-VL-8B': 8.767}


@pytest.mark.parametrize('name', PUBLISHED)
def test_built_in_shapes_have_the_published_number_of_parameters(name):
    config, source = read_policy_config(f'no/such/folder/{name}-Instruct')
    shape = PolicyShape.of(build_on_meta(config))
    assert shape.parameters / 1e9 == pytest.approx(PARAMETERS[name], abs=5e-4)
    assert 'built-in' in source


def test_a_folder_is_read_and_no_weight_is_left_out(head):
    config, source = read_policy_config(POLICY_WEIGHTS)
    shape = PolicyShape.of(build_on_meta(config))
    assert source.endswith('config.json') and shape == PolicyShape.of(head.model)
    assert shape.parameters == sum(p.numel() for p in head.model.parameters())
    assert shape.tied and shape.vision.gated and shape.vision.window == 7
    # Per layer: q, o 128 x 128; k, v 128 x 64; three of 128 x 384. Four layers.
    assert shape.text.linear == 4 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 384)
    # Inputs and outputs of the seven maps together.
    assert shape.adapter == 4 * (2 * 256 + 2 * 192 + 3 * 512)


@pytest.mark.parametrize('family', ['qwen2_vl', 'qwen2_5_vl', 'qwen3_vl'])
def test_every_family_is_read(family, tmp_path):
    shape = PolicyShape.of(build_on_meta(read_policy_config(
        make_policy_folder(tmp_path, family))[0]))
    patch, gated = {'qwen2_vl': (14, False), 'qwen2_5_vl': (14, True),
                    'qwen3_vl': (16, False)}[family]
    assert (shape.vision.patch, shape.vision.gated) == (patch, gated)
    assert (shape.vision.hidden, shape.vision.intermediate, shape.vision.layers) == (32, 64, 2)
    assert (shape.text.hidden, shape.text.layers, shape.text.kv) == (32, 2, 16)


def test_an_adapter_may_sit_in_fewer_layers(head):
    # 128 inputs; 128 and 64 outputs; four layers.
    assert PolicyShape.of(head.model, ['q_proj', 'v_proj']).adapter == 4 * (256 + 192)


def test_an_unknown_model_is_named_with_what_is_known():
    with pytest.raises(FileNotFoundError, match=r"Qwen2\.5-VL-7B.*'checkpoints/Other-7B'"):
        read_policy_config('checkpoints/Other-7B')
