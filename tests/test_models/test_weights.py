# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch
from torch import nn

from mmdpad.models.weights import first_line, load_strictly, read_state_dict


@pytest.mark.parametrize('wrapper', [None, 'state_dict', 'model'])
def test_read_and_load(tmp_path, wrapper):
    state = {k: v.half() for k, v in nn.Linear(3, 2).state_dict().items()}
    torch.save({wrapper: state, 'epoch': 3} if wrapper else state, tmp_path / 'a.pth')
    module = nn.Linear(3, 2)
    load_strictly(module, read_state_dict(str(tmp_path / 'a.pth'), 'Do so.'), 'a.pth', 'Do so.')
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, state['weight'].float())


def test_nothing_is_loaded_unless_all_fits():
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_strictly(module, {'0.weight': torch.zeros(2, 2)}, 'a.pth', 'Fetch another.')
    assert str(caught.value) == (
        "The weights in 'a.pth' do not fit the model: 5 missing (0.bias, 1.weight, 1.bias, "
        '2.weight, and 1 more). Fetch another.')
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_a_missing_file_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pth' does not exist. Fetch it."):
        read_state_dict(str(tmp_path / 'none.pth'), 'Fetch it.')


def test_first_line():
    assert first_line(ValueError('one\ntwo')) == 'one'
    assert first_line(EOFError()) == 'EOFError'
    assert first_line(ValueError('x' * 1000)) == 'x' * 300
