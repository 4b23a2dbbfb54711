# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Which packages are installed, according to their metadata; none is imported."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

import mmdpad
from mmdpad.utils.vllm_versions import (
    DISTRIBUTIONS,
    find_conflicts,
    find_vllm,
    shared_requirements,
)
from mmdpad.version import REQUIRED

from .findings import Finding

# The purpose of each optional package.
OPTIONAL = {
    'peft': 'LoRA', 'bitsandbytes': 'QLoRA, 8-bit Adam', 'vllm': 'sampling by vLLM',
    'gradio': 'the demo page', 'pyarrow': 'the published training data (parquet)',
    'flash-attn': 'flash attention on a GPU'}
# Distributions that provide the same package.
_SAME = {'opencv-python': ('opencv-python-headless', 'opencv-contrib-python',
                           'opencv-contrib-python-headless'),
         'vllm': DISTRIBUTIONS[1:]}


def check_packages(torch: dict[str, Any],
                   find_version: Callable[[str], str | None] = mmdpad.installed_version
                   ) -> Iterator[Finding]:
    """Python, mmdpad's requirements with their versions, and its optional packages.

    Args:
        torch: The result of :func:`.machine.ask_torch`.
        find_version: Maps a distribution's name to its version, or None where it is missing.
    """
    yield Finding('ok', 'python', platform.python_version())
    needed, optional = _requirements()
    for requirement in needed:
        finding = _check(requirement, find_version)
        if requirement.name == 'torch' and finding.status == 'ok':
            finding = _with_cuda(finding, torch)
        yield finding
    for name, purpose in OPTIONAL.items():
        requirement = optional.get(name, Requirement(name))
        finding = _check(requirement, find_version)
        if name == 'vllm' and finding.status == 'ok' and (vllm := find_vllm()) is not None:
            finding = _with_shared(finding, vllm, find_version)
        if finding.is_fault:
            finding = Finding('optional', name, f'{purpose}; {finding.detail}', finding.hint)
        yield finding


def _requirements() -> tuple[list[Requirement], dict[str, Requirement]]:
    """mmdpad's requirements, the stack it builds on first, and those of its extras by name."""
    needed = {name: Requirement(name + window) for name, window in REQUIRED.items()}
    optional: dict[str, Requirement] = {}
    try:
        declared = metadata.requires('mmdpad') or []
    except metadata.PackageNotFoundError:  # a checkout that has not been installed
        declared = []
    for requirement in map(Requirement, declared):
        name = requirement.name.lower()
        if requirement.marker is None or requirement.marker.evaluate({'extra': ''}):
            needed.setdefault(name, requirement)
        else:
            optional.setdefault(name, requirement)
    return list(needed.values()), optional


def _check(requirement: Requirement, find_version: Callable[[str], str | None]) -> Finding:
    name, window = requirement.name, str(requirement.specifier)
    versions = [find_version(other) for other in (name, *_SAME.get(name, ()))]
    version = next(filter(None, versions), None)
    if version is not None and requirement.specifier.contains(version, prereleases=True):
        return Finding('ok', name, version)
    hint = mmdpad.BUILD_MMCV if name == 'mmcv' else 'pip install ' + (
        f'"{name}{window}"' if window else name)
    if name == 'flash-attn':
        hint += ' --no-build-isolation'
    if version is not None:
        return Finding('wrong', name, f'{version}, but {window} is needed', hint)
    if name == 'mmcv' and find_version('mmcv-lite') is not None:
        return Finding('wrong', name, 'mmcv-lite is installed, which lacks the compiled operators',
                       hint)
    return Finding('missing', name, 'not installed', hint)


def _with_shared(finding: Finding, vllm: metadata.Distribution,
                 find_version: Callable[[str], str | None]) -> Finding:
    """Add what vLLM wants of the packages that it shares with mmdpad, or what it lacks."""
    conflicts = list(find_conflicts(vllm, find_version))
    if not conflicts:
        wanted = ', '.join(map(str, shared_requirements(vllm)))
        return Finding('ok', 'vllm', f'{finding.detail}, which takes {wanted}')
    lacks = ', '.join(f'{requirement} (not {found})' for requirement, found in conflicts)
    return Finding('wrong', 'vllm', f'{finding.detail}, which needs {lacks}',
                   'pip install ' + ' '.join(f'"{requirement}"' for requirement, _ in conflicts))


def _with_cuda(finding: Finding, torch: dict[str, Any]) -> Finding:
    if 'fault' in torch:
        return Finding('wrong', 'torch', f'{finding.detail}, but it does not import: '
                       f'{torch["fault"]}', 'pip install --force-reinstall torch torchvision')
    cuda = f'CUDA {torch["cuda"]}' if torch['cuda'] else 'for CPUs'
    return Finding('ok', 'torch', f'{finding.detail}, {cuda}')
