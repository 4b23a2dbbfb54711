# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Policies that another engine cannot take over are refused at the start, and by a dry run."""
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import fake_vllm
import folder_cases  # noqa: F401 adds to CASES
import pytest
from policy_folders import CASES

from mmdpad.models import ReasoningSegmentor
from mmdpad.preflight import dry_run
from mmdpad.toy import POLICY_WEIGHTS

VLLM = dict(type='VLLMRollout')
REHEARSED = dict(type='ScriptedRollout', engine=VLLM, box=(0, 0, 1, 1))
TOLD = {
    'as transformers writes it': None,
    'below an adapter: language': None,
    'below an adapter: scaled': 'since they share one weight in this model, but .* lm_head',
    'below an adapter: dora': 'should be a plain adapter .* leave out `use_dora`',
    'below an adapter: parameters': 'should have no `target_parameters`',
    'bitsandbytes in 4 bits, below an adapter': 'weights of a policy should not be quantized'}


@pytest.mark.parametrize('name', TOLD)
def test_the_start_and_the_dry_run_agree(name, tiny_config, tmp_path, monkeypatch):
    case, told = CASES[name], TOLD[name]
    if missing := [package for package in case.needs if find_spec(package) is None]:
        pytest.skip(f'needs {missing}')
    fake_vllm.install(monkeypatch)
    folder = Path(shutil.copytree(POLICY_WEIGHTS, tmp_path / 'hub'))
    case.make(folder)
    config = tiny_config
    config.model.policy.update(pretrained=str(folder), **case.policy)
    config.model.rollout_engine = REHEARSED
    problems = dry_run(config)[0]
    if told is None:
        assert problems == []
        ReasoningSegmentor(config.model.policy, rollout_engine=VLLM)
        return
    assert len(problems) == 1 and re.search(told, problems[0]), problems
    assert problems[0].startswith('`model.rollout_engine.engine`: ')
    for engine in (VLLM, REHEARSED):
        with pytest.raises(ValueError, match=told):
            ReasoningSegmentor(config.model.policy, rollout_engine=engine)
