# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import itertools
from pathlib import Path

import torch
from mmengine.runner import Runner

from mmdpad.engine.hooks import free_cores_hook
from mmdpad.utils.threads import FreeCores


def test_the_toy_training_ends_at_the_same_bits_with_any_threads(tiny_config, monkeypatch):
    """Before each iteration and each update another number, as on a machine that is busy at
    times, against one thread throughout."""
    tiny_config.train_cfg.max_iters = 3
    states, seen = {}, []

    class Restless(FreeCores):
        numbers = itertools.cycle([2, 1, 4])

        def adapt(self):
            seen.append(next(self.numbers))
            torch.set_num_threads(seen[-1])
            return seen[-1]

    for name in ('steady', 'restless'):
        tiny_config.work_dir = str(Path(tiny_config.work_dir).with_name(name))
        tiny_config.experiment_name += name
        monkeypatch.setattr(free_cores_hook, 'follow_free_cores',
                            lambda model, name=name: Restless(1) if name == 'restless' else None)
        Runner.from_cfg(tiny_config).train()
        assert torch.get_num_threads() == 1
        states[name] = torch.load(Path(tiny_config.work_dir, 'iter_3.pth'),
                                  weights_only=True)['state_dict']
    assert len(seen) == 6
    assert all(value.equal(states['steady'][name]) for name, value in states['restless'].items())
