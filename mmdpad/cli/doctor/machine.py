# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks of what works, each in a separate process."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import mmdpad
from mmdpad.cli import TOOLS

from .findings import Finding

_TORCH = '''
import json, torch
devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps(dict(cuda=torch.version.cuda, gpus=[[d.name, d.total_memory] for d in devices])))
'''
_TRY_TOY = 'mmdpad.cli.doctor.try_toy'
_LONG = 300  # seconds before a process is given up


def run(*command: str) -> tuple[str | None, str]:
    """Run a Python program.

    Args:
        command: The arguments after `python`.

    Returns:
        The last line of its output, or None if it failed; and why it failed: the error, or the
        signal that ended it.
    """
    try:
        tried = subprocess.run([sys.executable, '-X', 'faulthandler', *command],
                               stdin=subprocess.DEVNULL, capture_output=True, text=True,
                               timeout=_LONG)
    except subprocess.TimeoutExpired:
        return None, f'no answer within {_LONG} s'
    if tried.returncode < 0:
        return None, f'it crashed ({signal.Signals(-tried.returncode).name})'
    if tried.returncode > 0:
        lines = tried.stderr.strip().splitlines() or [f'status {tried.returncode}']
        errors = [line for line in lines if re.match(r'[\w.]+(Error|Exception)\b', line)]
        return None, (errors or lines)[-1]
    return (tried.stdout.strip().splitlines() or [''])[-1], ''


def ask_torch() -> dict[str, Any]:
    """``cuda``, the CUDA version that torch was built with, or None; and ``gpus``, their names and
    memory in bytes; or ``fault``, why torch could not be asked."""
    output, fault = run('-c', _TORCH)
    return dict(fault=fault) if output is None else json.loads(output)


def check_operators(torch: dict[str, Any]) -> Iterator[Finding]:
    """Whether mmcv's operators load and work, also on a GPU if there is one."""
    if 'fault' in torch:
        yield Finding('missing', 'not tried', 'torch cannot be imported')
        return
    probe = str(TOOLS / 'set_up' / 'probe_mmcv.py')
    cuda, fault = run(probe)
    if cuda is None:
        hint, failures = mmdpad.BUILD_MMCV, runpy.run_path(str(TOOLS / 'set_up/failures.py'))
        if re.search(failures['OPENCV_LACKS'], fault):  # mmcv imports it first
            hint = failures['OPENCV_HINT']
        elif not fault.startswith('ModuleNotFoundError'):
            hint += ' --rebuild'
        yield Finding('wrong', 'on the CPU', f'they do not work: {fault}', hint)
        return
    yield Finding('ok', 'on the CPU', f'they work (built for CUDA: {cuda})')
    if torch.get('gpus'):
        output, fault = run(probe, 'cuda')
        if output is None:
            yield Finding('optional', 'on the GPU', f"mmdet's detectors need them there; {fault}",
                          f'{mmdpad.BUILD_MMCV} --cuda')
        else:
            yield Finding('ok', 'on the GPU', 'they work')


def check_gpus(torch: dict[str, Any]) -> Iterator[Finding]:
    """The GPUs that torch sees."""
    if 'fault' in torch:
        yield Finding('optional', 'unknown', 'torch cannot be imported')
        return
    for name, memory in torch['gpus']:
        yield Finding('ok', name, f'{memory / 1e9:.0f} GB')
    if torch['gpus']:
        return
    driver, hint = shutil.which('nvidia-smi'), ''
    if not driver:
        why = 'and no driver (nvidia-smi)'
    elif torch['cuda'] is None:
        why, hint = 'this torch is built for CPUs', (
            'pip install --force-reinstall torch torchvision')
    else:
        why, hint = f'though torch is built for CUDA {torch["cuda"]}', 'nvidia-smi'
    yield Finding('optional', 'none', f'torch sees none, {why}. The toy model runs on the CPU, '
                  f'models with billions of parameters need a GPU', hint)


def check_toy() -> Iterator[Finding]:
    """Whether the shipped model answers a question about a toy scene, as `mmdpad infer` does."""
    if mmdpad.find_unsuitable():
        yield Finding('missing', 'not tried', 'it needs the packages above')
        return
    answer, fault = run('-m', _TRY_TOY)
    if answer is None:
        yield Finding('wrong', 'it does not answer', fault, f'for details, python -m {_TRY_TOY}')
    else:
        yield Finding('ok', 'it answers', answer)
