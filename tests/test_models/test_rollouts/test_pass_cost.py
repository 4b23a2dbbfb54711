# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
from transformers import AutoConfig

from mmdpad.models.cost import build_on_meta
from mmdpad.models.rollouts import pass_cost
from mmdpad.toy.policy_folder import make_policy_folder


def test_what_a_pass_costs_is_an_estimate_by_model_and_device(head, monkeypatch):
    """0.85 million weights of 4 bytes in 4 layers: 1.54 ms for a pass, as long as guesses take."""
    weights = sum(p.numel() for p in head.model.model.language_model.layers.parameters())
    weights += 128 * 512
    seconds = weights * 4 / 1e10 + 4 * 3e-4
    found = pass_cost.estimate_pass_cost(head.model)
    assert found == pytest.approx(max(seconds - 1.5e-3, 0) * 4e10 / (2 * weights)) and found < 5
    monkeypatch.setattr(pass_cost, 'GUESSING', 0.0)
    assert pass_cost.estimate_pass_cost(head.model) == pytest.approx(
        seconds * 4e10 / (2 * weights))
    monkeypatch.setitem(pass_cost.RATES, 'cpu', pass_cost.RATES['gpu'])
    assert pass_cost.estimate_pass_cost(head.model) > 1000


def test_a_token_is_multiplied_with_few_experts(tmp_path, monkeypatch):
    """Two layers of eight experts, of which it uses two."""
    monkeypatch.setattr(pass_cost, 'GUESSING', 0.0)
    folder = make_policy_folder(tmp_path, 'qwen3_vl_moe')
    model = build_on_meta(AutoConfig.from_pretrained(folder)).to_empty(device='cpu')
    language = model.model.language_model
    weights = sum(p.numel() for p in language.layers.parameters()) + model.lm_head.weight.numel()
    used = weights - 2 * 6 * 3 * 32 * 24
    seconds = weights * 4 / 1e10 + 2 * 3e-4
    assert pass_cost.estimate_pass_cost(model) == pytest.approx(seconds * 4e10 / (2 * used))
