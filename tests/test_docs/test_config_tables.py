# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The tables of docs/configs.md have the arguments and defaults of the code."""
import inspect
import re
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdpad import registry
from mmdpad.datasets import ReasoningDataset
from mmdpad.engine.check_config import check_config
from mmdpad.models.rollouts import RolloutEngine
from mmdpad.models.segmentors.settings import CHOICE, TRAIN_CFG
from mmdpad.rewards import DiscriminativeOptions
from mmdpad.utils.key_values import override

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/configs.md').read_text()
ROW = r'^\| `(\w+)` \| (?:`(.+?)`)? *\|'
TABLES = {name: re.findall(ROW, text.split('\n## ')[0], re.M) for name, text in
          re.findall(r'^### `([\w.]+)`\n(.*?)(?=^### |\Z)', PAGE, re.M | re.S)}
REGISTRIES = [part for part in vars(registry).values() if isinstance(part, registry.Registry)]
OF_THE_RUNNER = {'self', 'head', 'prompts', 'group_size', 'prompt_numbers', 'runner', 'dataloader'}


def arguments_of(function) -> dict[str, str]:
    """Names and defaults ('' where there is none) of what a config may give."""
    return {name: '' if one.default is one.empty else repr(one.default)
            for name, one in inspect.signature(function).parameters.items()
            if name not in OF_THE_RUNNER and one.kind is not one.VAR_KEYWORD}


def arguments(name: str) -> dict[str, str]:
    if name == 'model.train_cfg':
        return {key: repr(value) for key, value in TRAIN_CFG.items()}
    if name == 'model.test_cfg':  # over the defaults of ReasoningSegmentor
        return arguments_of(RolloutEngine.__call__) | dict(temperature='0.0') | dict.fromkeys(
            CHOICE, 'None') | dict(compare_greedy='False')
    for known in (ReasoningDataset, DiscriminativeOptions):
        if name == known.__name__:
            return arguments_of(known)
    (kind, ) = {found for part in REGISTRIES if (found := part.get(name))}
    return arguments_of(kind)


def test_there_are_tables():
    assert {'ReasoningSegmentor', 'VLMReasoningHead', 'model.train_cfg', 'model.test_cfg',
            'GRPOTrainLoop', 'AlarmHook', 'ReasonSegMetric'} < TABLES.keys()


@pytest.mark.parametrize('name', TABLES)
def test_a_table_is_the_signature(name):
    assert dict(TABLES[name]) == arguments(name)


def test_switches_of_the_loss_are_arguments():
    page = (ROOT / 'docs/method.md').read_text()
    rows = re.findall(r'^\| `(\w+)`( \(of the loop\))? \|',
                      re.search(r'^\| switch \|.*?\n\n', page, re.M | re.S)[0], re.M)
    assert len(rows) >= 10
    for name, of_loop in rows:
        assert name in arguments('GRPOTrainLoop' if of_loop else 'GRPOLoss'), name


def test_every_default_hook_is_listed():
    hooks = Config.fromfile(ROOT / 'configs/_base_/default_runtime.py').default_hooks
    listed = re.search(r'^## Hooks\n(.*?)^### ', PAGE, re.M | re.S)[1]
    for name, hook in hooks.items():
        (row, ) = re.findall(rf'^\|.*`{name}`.*', listed, re.M)
        assert f'`{hook["type"]}`' in row or "mmengine's" in row


def test_common_changes_can_be_written_so():
    """Each entry exists: a dict is merged into the main config, a dotted name is set in it."""
    table = re.search(r'^## Common changes\n(.*?)^## ', PAGE, re.M | re.S)[1]
    written = re.findall(r'`([^`]+)`', table)
    dicts = [text for text in written if re.match(r'\w+ = (dict|\[)', text)]
    dotted = [text for text in written if re.fullmatch(r'[\w.]+\.[\w.]+=[\w.]+', text)]
    assert len(dicts) >= 4 and len(dotted) >= 8
    for text in dicts + dotted:
        config = Config.fromfile(ROOT / 'configs/dpad/qwen7b_reasonseg.py')
        if text in dicts:
            change = Config.fromstring(text, '.py').to_dict()
            config = Config(Config._merge_a_into_b(change, config.to_dict()))
        else:
            key, value = text.split('=')
            override(config, {key: eval(value) if value[0].isdigit() else value})
        assert not check_config(config).problems, text
