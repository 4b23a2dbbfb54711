# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Two processes, whose conversations have different numbers of turns and images."""
import json
import os
from pathlib import Path

import calling_rollout
import pytest
from launching import FSDP2, farthest, launch, run_here, weights_of

from mmdpad.engine.strategies import merge_shards

TESTS = os.pathsep.join([str(Path(calling_rollout.__file__).parent),
                         os.environ.get('PYTHONPATH', '')])


@pytest.mark.slow
@pytest.mark.parametrize('freeze_vision', [False, True])
@pytest.mark.parametrize('strategy', [None, FSDP2], ids=['ddp', 'fsdp2'])
def test_two_processes_train_as_one(make_config, strategy, freeze_vision):
    """With two updates of each rollout, so that log-probabilities are also computed before."""
    def make(name, processes=1, **more):
        config = make_config(name, processes, **more, **{
            'model.rollout_engine': dict(type='CallingRollout'),
            'model.policy.freeze_vision': freeze_vision,
            'model.conversation': dict(max_turns=3, max_tokens=600,
                                       limits=dict(min_side=28, size=(112, 112))),
            'train_cfg.num_iterations': 2, 'train_cfg.tokens_per_micro_batch': 600})
        config.train_cfg.rewards.turns = dict(type='TurnCostReward', weight=0.1)
        config.custom_imports = dict(imports=['calling_rollout'])
        return config

    configs = [make('one'), make('two', 2, **(dict(strategy=strategy) if strategy else {}))]
    whole = run_here(configs[0])
    launch(configs[1], 2, PYTHONPATH=TESTS)
    path = Path(configs[1].work_dir, 'iter_2.pth')
    found = merge_shards(path)['state_dict'] if strategy else weights_of(path)
    assert farthest(found, whole) < 1e-10
    logs = []
    for config in configs:
        (path, ) = Path(config.work_dir).glob('*/vis_data/scalars.json')
        lines = map(json.loads, path.read_text().splitlines())
        logs.append([line[name] for line in lines for name in ('turns', 'zoomed', 'reply_tokens')])
    assert logs[1] == pytest.approx(logs[0]) and 1 < logs[0][0] < 3
