# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import importlib.util
from pathlib import Path

import pytest
import torch

from mmdpad.models import VLMReasoningHead

COMMON = Path(__file__).parents[2] / 'tools' / 'benchmarks' / 'common.py'


@pytest.fixture(scope='module')
def common():
    spec = importlib.util.spec_from_file_location('benchmarks_common', COMMON)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_policy_loads_and_its_prompt_has_the_published_size(common, tmp_path):
    state = torch.random.get_rng_state()
    folder = common.make_policy(tmp_path / 'policy', hidden_size=192, layers=1)
    assert state.equal(torch.random.get_rng_state())
    head = VLMReasoningHead(folder, prompt_template=common.PROMPT_TEMPLATE)
    prompts = head.encode_prompts([common.make_image()], [common.QUESTION])
    assert prompts[0].token_types.sum() == 900
    assert 1040 <= len(prompts[0]) <= 1060
    with torch.no_grad():
        logp, _ = head.log_probs(prompts, torch.tensor([[40, 41]]), torch.ones(1, 2).bool())
    assert logp.isfinite().all()


def test_a_width_that_heads_do_not_divide_is_refused(common, tmp_path):
    with pytest.raises(ValueError, match='multiple of 192'):
        common.make_policy(tmp_path, hidden_size=200)


def test_functions_take_turns_and_the_first_run_does_not_count(common):
    calls = []
    seconds = common.alternate({name: lambda name=name: calls.append(name) for name in 'ab'}, 2)
    assert calls == ['a', 'b'] * 3
    assert {name: len(values) for name, values in seconds.items()} == {'a': 2, 'b': 2}


def test_a_summary_says_how_many_times_as_long_the_others_take(common):
    result = common.summary(dict(mmdpad=[1.0, 2.0, 4.0], other=[3.0, 8.0, 4.0]))
    assert result['median'] == dict(mmdpad=2.0, other=4.0)
    assert result['ratio'] == dict(other=2.0)
    assert result['ratio_range'] == dict(other=[1.0, 4.0])
