# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Memory that is left on a device."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch


def free_memory(device: torch.device, root: str | Path = '/') -> int:
    """Return the bytes that this process can still allocate.

    On a GPU: what the driver has left, and what torch's allocator holds without using it. On a CPU:
    what the machine and each control group of this process have left (Linux), shared by the
    processes that the launcher started here (``LOCAL_WORLD_SIZE``, which
    :func:`mmdpad.utils.processes.join_processes` sets under Slurm).

    Args:
        device: A GPU or a CPU.
        root: Where /proc and /sys are.

    Raises:
        ValueError: The memory of such a device is unknown.
    """
    if device.type == 'cuda':
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    meminfo = Path(root, 'proc/meminfo')
    found = re.search(r'MemAvailable:\s*(\d+) kB',
                      meminfo.read_text()) if meminfo.is_file() else None
    if device.type != 'cpu' or found is None:
        raise ValueError(f"`model.policy.memory_budget` should be a number of GB on this machine, "
                         f"since the free memory of {device.type!r} is unknown, but got 'auto'; "
                         f'set it, for example to 8.0')
    left = min([int(found[1]) * 1024, *_group_limits(Path(root))])
    return left // int(os.environ.get('LOCAL_WORLD_SIZE', 1))


def _group_limits(root: Path) -> Iterator[int]:
    """Bytes that the control groups of this process have left, without files that are cached."""
    groups = root / 'proc/self/cgroup'
    if not groups.is_file():
        return
    for line in groups.read_text().splitlines():
        _, controllers, path = line.split(':', 2)
        if controllers == '':
            base, names = 'sys/fs/cgroup', ('memory.max', 'memory.current', 'inactive_file')
        elif 'memory' in controllers.split(','):
            base, names = 'sys/fs/cgroup/memory', ('memory.limit_in_bytes',
                                                   'memory.usage_in_bytes', 'total_inactive_file')
        else:
            continue
        # Within a container, the group is mounted as the root, though it has a path outside.
        folder = root / base / path.lstrip('/')
        for place in {folder, *folder.parents} if folder.is_dir() else {root / base}:
            limit, used, stat = (place / name for name in (*names[:2], 'memory.stat'))
            if limit.is_file() and used.is_file() and limit.read_text().strip() != 'max':
                cached = re.search(rf'^{names[2]} (\d+)$', stat.read_text(),
                                   re.MULTILINE) if stat.is_file() else None
                yield max(0, int(limit.read_text()) - int(used.read_text())
                          + int(cached[1] if cached else 0))
