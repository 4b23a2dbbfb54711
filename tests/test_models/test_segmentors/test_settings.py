# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch

from mmdpad.models import SharedPrefixRollout
from mmdpad.models.segmentors.settings import evaluation_sampling, training_sampling


@pytest.mark.parametrize('read', [training_sampling, evaluation_sampling])
def test_configs_may_write_1e1(head, read):
    image = torch.full((3, 112, 112), 90, dtype=torch.uint8)
    prompts = head.encode_prompts([image], ['the red circle'])
    settings = dict(max_new_tokens=1e1, top_k=2e0)
    if read is training_sampling:
        settings['group_size'] = 2.0
    sampling = read(settings)
    responses = SharedPrefixRollout()(head, prompts, **sampling)
    assert len(responses.ids) == settings.get('group_size', 1) and responses.ids.shape[1] <= 10
    assert all(type(sampling[name]) is int for name in settings)
