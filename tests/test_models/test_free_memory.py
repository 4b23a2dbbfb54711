# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch

from mmdpad.models.free_memory import free_memory

CPU = torch.device('cpu')


def machine(root, groups='', **files):
    """A root with 1000 kB available, groups of the process, and files by their path."""
    (root / 'proc/self').mkdir(parents=True)
    (root / 'proc/meminfo').write_text('MemTotal: 9000 kB\nMemAvailable:    1000 kB\n')
    (root / 'proc/self/cgroup').write_text(groups)
    for path, text in files.items():
        path = root / 'sys/fs/cgroup' / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_of_a_machine(tmp_path, monkeypatch):
    assert free_memory(CPU, machine(tmp_path)) == 1024_000
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    assert free_memory(CPU, tmp_path) == 256_000


@pytest.mark.parametrize('files, left', [
    ({'a/b/memory.max': '500', 'a/b/memory.current': '100'}, 400),
    ({'a/b/memory.max': '500', 'a/b/memory.current': '100',
      'a/b/memory.stat': 'anon 5\ninactive_file 30\n'}, 430),
    ({'a/b/memory.max': 'max', 'a/b/memory.current': '100', 'a/memory.max': '300',
      'a/memory.current': '290'}, 10),
    ({'a/b/memory.max': '100', 'a/b/memory.current': '120'}, 0),
    ({'memory.max': '700', 'memory.current': '100'}, 600),  # a container's group is the root
    ({'a/b/memory.max': 'max', 'a/b/memory.current': '100'}, 1024_000)])
def test_of_control_groups(files, left, tmp_path):
    assert free_memory(CPU, machine(tmp_path, '0::/a/b\n', **files)) == left


def test_of_older_control_groups(tmp_path):
    files = {'memory/a/memory.limit_in_bytes': '500', 'memory/a/memory.usage_in_bytes': '200',
             'memory/a/memory.stat': 'total_inactive_file 50\n'}
    root = machine(tmp_path, '5:cpu,memory:/a\n3:pids:/a\n', **files)
    assert free_memory(CPU, root) == 350


def test_an_unknown_device_is_named(tmp_path):
    with pytest.raises(ValueError, match="free memory of 'cpu' is unknown, but got 'auto'; set it"):
        free_memory(CPU, tmp_path)
