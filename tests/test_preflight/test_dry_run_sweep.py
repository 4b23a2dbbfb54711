# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Every key of three configs with a wrong type, a misspelled name and a value out of range: what
`--dry-run` finds is what would end a run, or be read by nothing. About six minutes."""
import copy
import re
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
from config_faults import faults, with_faults
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmdpad.engine import build
from mmdpad.engine.check_config import Findings, check_config
from mmdpad.engine.check_together import ENTRIES
from mmdpad.preflight import dry_run, make_smoke_config

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NAMES = ('dpad/qwen7b_reasonseg', 'dpad/qwen7b_sft',
         'mmdet/mask-rcnn_r50_fpn_1x_coco_discrimination')
TOGETHER = 12  # faults that are not found, in one run; of a run that ends, each alone

# Dicts that hold any key, names that are their author's own, entries that are read when a file is
# opened, and the scope of a config in which mmengine wrote a scope to all that it inherited.
FREE_KEYS = re.compile(
    r'(train_cfg|(val|test)_evaluator\.\d+)\.rewards\.\w+$|default_hooks\.\w+$|'
    r'.*metainfo.*|custom_imports\..*|default_scope$')
# Numbers that a run accepts, but that nobody means: mmdpad reports them.
MEANINGLESS = re.compile(
    r'train_cfg\.(val_interval|val_begin|max_epochs)$|optim_wrapper\.clip_grad\.max_norm$')


@cache
def base(name: str, folder: Path) -> dict:
    """A config on tiny replacements, cut to a step and a validation, as plain data."""
    config, _ = make_smoke_config(Config.fromfile(ROOT / f'configs/{name}.py'),
                                  str(folder / 'run'), folder / name, folder / 'weights')
    engine = config.model.get('rollout_engine')
    if engine:
        config.model.rollout_engine = engine.engine
    loop = config.train_cfg
    loop['max_iters' if 'max_iters' in loop else 'max_epochs'] = loop.val_begin = 1
    for part in ('train_cfg', 'test_cfg'):
        if 'max_new_tokens' in (config.model.get(part) or {}):
            config.model[part].max_new_tokens = 40
    return shrunk(config.to_dict())


def shrunk(value):
    """With model images of 112 pixels."""
    if isinstance(value, dict):
        small = dict(size=(112, 112)) if value.get('type') == 'ModelImageResize' else {}
        return {key: shrunk(item) for key, item in value.items()} | small
    return type(value)(map(shrunk, value)) if isinstance(value, (list, tuple)) else value


def find_problems(config: Config) -> list[str]:
    """What a dry run reports, or the error that it ends in."""
    config = Config(copy.deepcopy(config.to_dict()))
    try:
        return check_config(config).problems or dry_run(config)[0]
    except Exception as error:  # any: none should get out of a dry run
        return [f'Traceback of {type(error).__name__}: {error}']


class Runner:
    """Trains, validates and tests, whatever a check would say first."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, config: Config) -> str | None:
        """What ended it, or None."""
        self.runs += 1
        config = Config(copy.deepcopy(config.to_dict()))
        config.setdefault('experiment_name', f'sweep_{id(self)}_{self.runs}')
        with (patch.object(build, 'check_config', lambda *_: Findings()),
              DefaultScope.overwrite_default_scope(None)):
            try:
                runner = build.build_runner(config)
                runner.train()
                if config.get('test_cfg') is not None:
                    runner.test()
            except Exception as error:  # any: what a run does of a wrong config is the question
                return f'{type(error).__name__}: {error}'[:200]
        return None


def not_survived(config: dict, wrong: list, run: Runner) -> list[str]:
    """Of faults that are not found, those that end a run; together as far as they go together."""
    left, found = list(wrong), []
    while left:
        group = []
        for fault in left:
            if len(group) < TOGETHER and not any(map(fault.clashes, group)):
                group.append(fault)
        left = [fault for fault in left if fault not in group]
        changed = with_faults(config, *group)
        if find_problems(changed) or run(changed) is not None:
            found += [f'{fault}: {error}' for fault in group
                      if (error := run(with_faults(config, fault))) is not None]
    return found


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('sweep')


@pytest.mark.parametrize('name', NAMES)
def test_a_dry_run_is_right(name, folder):
    config, run = base(name, folder), Runner()
    assert find_problems(Config(config)) == [] and run(Config(config)) is None
    known = base(NAMES[0], folder) if name != NAMES[0] else {}
    passed, alarms, bad = [], [], []
    for fault in faults(config):
        # A variable of the config's author, written by mmengine, swept with the first config, or
        # within a detector, whose C++ code can end the process at numbers out of range.
        if (fault.path[0] not in ENTRIES or fault.path[-1] == '_scope_'
                or stands_in(known, config, fault)
                or fault.path[0] == 'model' and name.startswith('mmdet/')):
            continue
        changed = with_faults(config, fault)
        problems = find_problems(changed)
        bad += [f'{fault}: {problem}' for problem in problems if problem.startswith('Traceback')]
        if not problems and fault.sort == 'key' and not FREE_KEYS.match(fault.key):
            bad.append(f'{fault}: ignored')
        elif not problems:
            passed.append(fault)
        elif fault.sort == 'range' and not MEANINGLESS.match(fault.key) and run(changed) is None:
            alarms.append(f'{fault}: {problems}')
    bad += not_survived(config, passed, run)
    if wrong := bad + [f'{alarm}, but it runs' for alarm in alarms]:
        pytest.fail('\n'.join(wrong), pytrace=False)


def stands_in(known: dict, config: dict, fault) -> bool:
    """Whether another config has the same value at a fault's place."""
    for key in fault.path:
        try:
            known, config = known[key], config[key]
        except (KeyError, IndexError, TypeError):
            return False
    return known == config
