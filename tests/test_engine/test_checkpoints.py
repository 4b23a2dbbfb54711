# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from pickle import PicklingError

import mmengine.runner.checkpoint
import mmengine.runner.runner
import pytest
import torch

from mmdpad.engine.checkpoints import find_complete_checkpoint, find_fault, written_atomically


def save(folder, name, last=False):
    path = folder / name
    torch.save(dict(state_dict=dict(w=torch.ones(1000))), path)
    if last:
        (folder / 'last_checkpoint').write_text(f'/moved/since/{name}')
    return str(path)


def halve(path):
    with open(path, 'r+b') as file:
        file.truncate(file.seek(0, 2) // 2)


def test_the_one_that_last_checkpoint_names_comes_first(tmp_path):
    assert find_complete_checkpoint(str(tmp_path)) == (None, {})
    named = save(tmp_path, 'iter_9.pth', last=True)
    newest = save(tmp_path, 'iter_10.pth')
    save(tmp_path, 'best_reasonseg_giou_iter_11.pth')
    assert find_complete_checkpoint(str(tmp_path)) == (named, {})
    for said in ('', 'gone/iter_8.pth'):
        (tmp_path / 'last_checkpoint').write_text(said)
        assert find_complete_checkpoint(str(tmp_path))[0] == newest


@pytest.mark.promise('Training', 'A checkpoint is cut in half',
                     '--resume skips it with a warning and takes the newest complete one')
def test_damaged_ones_are_passed_over_and_reported(tmp_path):
    older, middle = save(tmp_path, 'iter_2.pth'), save(tmp_path, 'iter_4.pth')
    last = save(tmp_path, 'iter_10.pth', last=True)
    halve(last)
    path, faults = find_complete_checkpoint(str(tmp_path))
    assert path == middle and list(faults) == [last] and faults[last]
    halve(middle)
    halve(older)
    path, faults = find_complete_checkpoint(str(tmp_path))
    assert path is None and list(faults) == [last, middle, older]


def test_a_fault_is_one_line(tmp_path):
    for content in (b'', b'not a checkpoint', b'PK\x03\x04' * 9):
        (tmp_path / 'a.pth').write_bytes(content)
        fault = find_fault(str(tmp_path / 'a.pth'))
        assert fault and '\n' not in fault
    torch.save(dict(code=find_fault), tmp_path / 'a.pth')
    assert 'asks for mmdpad.engine.checkpoints.find_fault' in find_fault(str(tmp_path / 'a.pth'))


def test_a_full_disk_is_reported_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr('mmdpad.engine.checkpoints.atomic_file', lambda _: open('/dev/full', 'wb'))  # noqa: SIM115
    with pytest.raises(OSError, match='No space left'), written_atomically():
        mmengine.runner.runner.save_checkpoint(dict(a=torch.ones(10**6)), str(tmp_path / 'a.pth'))


def test_mmengine_writes_through_a_file_and_has_its_own_writer_back(tmp_path):
    modules = (mmengine.runner.checkpoint, mmengine.runner.runner)
    write = modules[0].save_checkpoint
    with written_atomically():
        for module in modules:
            module.save_checkpoint(dict(a=torch.ones(2)), str(tmp_path / 'new' / 'a.pth'))
    assert torch.load(tmp_path / 'new' / 'a.pth')['a'].equal(torch.ones(2))
    with pytest.raises((AttributeError, PicklingError), match='local'), written_atomically():
        modules[1].save_checkpoint(dict(a=lambda: 0), str(tmp_path / 'b.pth'))
    assert [path.name for path in tmp_path.iterdir()] == ['new']
    assert all(module.save_checkpoint is write for module in modules)


@pytest.mark.promise('Files', 'A `last_checkpoint` that points outside the work dir',
                     'nothing outside is read: only its last part counts')
def test_last_checkpoint_leads_nowhere_else(tmp_path, tried):
    outside, inside = tmp_path / 'outside', tmp_path / 'run'
    for folder in (outside, inside):
        folder.mkdir()
    elsewhere = save(outside, 'iter_9.pth')
    own = save(inside, 'iter_2.pth')
    said = (elsewhere, '../outside/iter_9.pth', '/dev/zero', '..', '../outside', '\0', 'x' * 9999,
            '\udcff')
    for text in said:
        (inside / 'last_checkpoint').write_text(text, errors='surrogateescape')
        assert find_complete_checkpoint(str(inside))[0] == own, text
    tried(f'{len(said)} texts')
