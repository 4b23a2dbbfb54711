# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Folders as people have them: what the load makes of each, and that a dry run says the same."""
import re
import shutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import folder_cases  # noqa: F401 adds to CASES
import pytest
import torch
from mmengine.config import Config
from policy_folders import CASES, Case

from mmdpad.models import ReasoningSegmentor, VLMReasoningHead
from mmdpad.preflight import dry_run, make_smoke_config
from mmdpad.toy.policy_folder import make_policy_folder

MAIN = Path(__file__).parents[3] / 'configs/dpad/qwen7b_reasonseg.py'
QUESTION, TEXTS = 'the red circle', ['a red star', 'no']
UNUSED = ('val_dataloader', 'val_cfg', 'val_evaluator', 'custom_hooks')


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """Makes the plain folder of a case once; tests take copies."""
    root = tmp_path_factory.mktemp('plain')

    @cache
    def make(family: str, vocabulary: str) -> Path:
        return Path(make_policy_folder(root / f'{family}_{vocabulary}', family, vocabulary))
    return make


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Config:
    """A training and a test, on synthetic data."""
    root = tmp_path_factory.mktemp('config')
    config = make_smoke_config(Config.fromfile(MAIN), str(root / 'run'), root, root)[0].to_dict()
    for name in UNUSED:
        config.pop(name, None)
    return Config(config)


@torch.no_grad()
def log_probs(head: VLMReasoningHead) -> torch.Tensor:
    side = head.processor.image_processor.patch_size * 2
    image = torch.randint(0, 256, (3, 8 * side, 9 * side), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(0))
    texts = [head.encoder.responses.opened + text for text in TEXTS]
    return head.log_probs(head.encode_prompts([image], [QUESTION]),
                          *head.encode_responses(texts))[0]


def load(folder: Path, case: Case) -> torch.Tensor:
    """What a run does before its first step."""
    policy = dict(type='VLMReasoningHead', pretrained=str(folder), **case.policy)
    model = ReasoningSegmentor(policy)
    if case.training:
        model.init_weights()
    return log_probs(model.policy.eval())


def dry(folder: Path, case: Case, config: Config) -> list[str]:
    config = Config(config.to_dict())
    config.model.policy = dict(type='VLMReasoningHead', pretrained=str(folder),
                               max_prompt_tokens=4096, **case.policy)
    return dry_run(config, case.training)[0]


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=pytest.mark.slow if case.slow else ())
    for name, case in CASES.items()])
def test_the_load_and_the_dry_run_agree(name, plain, config, tmp_path):
    case = CASES[name]
    if missing := [package for package in case.needs if find_spec(package) is None]:
        pytest.skip(f'needs {missing}')
    start = plain(case.family, case.vocabulary)
    folder = Path(shutil.copytree(start, tmp_path / 'hub'))
    case.make(folder)
    problems = dry(folder, case, config)
    if case.refused is None:
        assert problems == []
        found = load(folder, case)
        if case.same:
            torch.testing.assert_close(found, load(start, Case(case.make)), rtol=0,
                                       atol=1e-5)
        return
    with pytest.raises((ValueError, OSError, ImportError)) as caught:
        load(folder, case)
    assert re.search(case.refused, str(caught.value)), caught.value
    assert len(problems) == 1 and re.search(case.refused, problems[0]), problems
