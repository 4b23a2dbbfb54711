# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import logging
from collections import Counter, OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from mmdpad.engine.hooks import SafeCheckpointHook
from mmdpad.engine.hooks.safe_checkpoint_hook import find_objects

RUNNER = SimpleNamespace(logger=logging.getLogger('test'))


def make_checkpoint(**info):
    buffer = HistoryBuffer([1.0, 2.0, 3.0], [1, 1, 2], 5)
    return dict(state_dict=dict(w=torch.ones(2)), meta=dict(iter=3),
                message_hub=dict(log_scalars=OrderedDict(loss=buffer),
                                 runtime_info=OrderedDict(info), resumed_keys=OrderedDict()))


def test_round_trip_through_a_file_that_holds_plain_data(tmp_path):
    checkpoint = make_checkpoint(eta=np.float64(2.5), iter=3)
    SafeCheckpointHook().before_save_checkpoint(RUNNER, checkpoint)
    torch.save(checkpoint, tmp_path / 'c.pth')
    loaded = torch.load(tmp_path / 'c.pth', weights_only=True)
    SafeCheckpointHook().after_load_checkpoint(RUNNER, loaded)
    buffer = loaded['message_hub']['log_scalars']['loss']
    assert isinstance(buffer, HistoryBuffer) and buffer.max_length == 5
    assert buffer.data[0].tolist() == [1, 2, 3] and buffer.data[1].tolist() == [1, 1, 2]
    assert buffer.mean() == 6 / 4  # mmengine divides the sum by the counts
    assert loaded['message_hub']['runtime_info'] == dict(eta=2.5, iter=3)


def test_run_information_that_is_no_plain_data_is_left_out(caplog):
    checkpoint = make_checkpoint(good='x', bad=SimpleNamespace())
    SafeCheckpointHook().before_save_checkpoint(RUNNER, checkpoint)
    assert list(checkpoint['message_hub']['runtime_info']) == ['good']
    assert 'bad is left out' in caplog.text


def test_only_what_is_stored_is_said_to_be_resumed_or_not():
    """Else a checkpoint after a validation differs from one of a run resumed after it."""
    checkpoint = make_checkpoint(iter=3)
    checkpoint['message_hub']['resumed_keys'].update(iter=True, loss=True, provenance=False)
    SafeCheckpointHook().before_save_checkpoint(RUNNER, checkpoint)
    assert checkpoint['message_hub']['resumed_keys'] == dict(iter=True, loss=True)


def test_an_object_elsewhere_is_an_error_at_save_time():
    checkpoint = make_checkpoint()
    checkpoint['meta']['thing'] = [SimpleNamespace()]
    with pytest.raises(TypeError, match=r'meta.thing.0: SimpleNamespace'):
        SafeCheckpointHook().before_save_checkpoint(RUNNER, checkpoint)


def test_find_objects():
    assert not find_objects({'a': [1, 2.0, 'x', None, True, b'y', (torch.ones(1), )]})
    assert find_objects({'a': {'b': np.float64(1)}}) == ['.a.b: float64']
    assert find_objects({'a': ConfigDict(b=1)}) == ['.a: ConfigDict']


def test_a_scheduler_with_milestones_is_plain(tmp_path):
    """torch counts them by a Counter."""
    torch.save(dict(milestones=Counter([8, 11])), tmp_path / 'c.pth')
    loaded = torch.load(tmp_path / 'c.pth', weights_only=True)
    assert not find_objects(loaded) and loaded['milestones'] == Counter([8, 11])


def test_what_a_config_says_of_the_data_set_becomes_plain():
    """mmengine leaves a nested dict of `metainfo` a ConfigDict, which torch.load refuses."""
    said = dict(classes=('a', ), more=ConfigDict(b=[dict(c=1)]))
    checkpoint = make_checkpoint(dataset_meta=said)
    checkpoint['meta']['dataset_meta'] = said
    SafeCheckpointHook().before_save_checkpoint(RUNNER, checkpoint)
    for place in (checkpoint['meta'], checkpoint['message_hub']['runtime_info']):
        assert place['dataset_meta'] == said
    assert not find_objects(checkpoint)


def test_a_checkpoint_without_a_message_hub_is_left_alone():
    checkpoint = dict(state_dict={})
    SafeCheckpointHook().after_load_checkpoint(RUNNER, checkpoint)
    assert checkpoint == dict(state_dict={})
