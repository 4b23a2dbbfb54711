# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from mmdpad.engine.build import build_runner


def test_a_default_hook_that_is_none_is_left_out(tiny_config):
    for name in ('rollout_log', 'timer', 'curves'):
        tiny_config.default_hooks[name] = None
    names = {type(hook).__name__ for hook in build_runner(tiny_config).hooks}
    assert not names & {'RolloutLogHook', 'IterTimerHook', 'CurvesHook'}
    assert 'ProvenanceHook' in names
