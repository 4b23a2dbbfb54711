# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json

import pytest
import torch
from safetensors.torch import load_file

from mmdpad.toy.sam_folders import SAM_FOLDERS


@pytest.mark.parametrize('model_type, make', SAM_FOLDERS.items(), ids=SAM_FOLDERS)
def test_folders_are_small_and_the_same_again(model_type, make, tmp_path):
    state = torch.get_rng_state()
    one, again, other = (make(tmp_path / name, seed=seed)
                         for name, seed in (('a', 0), ('b', 0), ('c', 1)))
    assert torch.equal(torch.get_rng_state(), state)
    assert json.loads((tmp_path / 'a/config.json').read_text())['model_type'] == model_type
    assert sum(file.stat().st_size for file in (tmp_path / 'a').iterdir()) < 2**21
    weights = [load_file(f'{folder}/model.safetensors') for folder in (one, again, other)]
    assert weights[0].keys() == weights[1].keys() == weights[2].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert not any(name.startswith('tracker_model.tracker_model.') for name in weights[0])
