# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import copy
from pathlib import Path

import pytest


@pytest.fixture
def make_config(tiny_config):
    """Steps of 4 prompts x 2 responses in float64, in micro-batches of a group or two."""
    def make(name, processes=1, iterations=2, **changes):
        config = copy.deepcopy(tiny_config)
        config.merge_from_dict({
            'model.policy.dtype': 'float64', 'model.train_cfg.group_size': 2,
            'model.train_cfg.max_new_tokens': 40, 'train_cfg.max_iters': iterations,
            'train_dataloader.batch_size': 4 // processes,
            'train_cfg.tokens_per_micro_batch': 300,
            'work_dir': str(Path(config.work_dir).with_name(name)), **changes})
        config.experiment_name += name
        return config
    return make
