# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""mmdpad: reasoning segmentation trained with discriminative rewards, on MMDetection."""

from __future__ import annotations

import importlib.util
import logging
import pkgutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet

from .version import REQUIRED, __version__

BUILD_MMCV = 'mmdpad build-mmcv'


def installed_version(package: str) -> str | None:
    """The version of a distribution, or None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def find_unsuitable(find_version: Callable[[str], str | None] = installed_version) -> list[str]:
    """Compares what is installed with ``REQUIRED``, without importing any of it.

    Args:
        find_version: Maps a distribution's name to its version, or None where it is missing.

    Returns:
        One sentence for each missing or unsuitable package: what is there, what is wanted, and
        the command that fixes it. Empty when everything fits.
    """
    faults = []
    for package, wanted in REQUIRED.items():
        found = find_version(package)
        if found is not None and SpecifierSet(wanted).contains(found, prereleases=True):
            continue
        if found is not None:
            state = f'{package}=={found} is installed'
        elif package == 'mmcv' and find_version('mmcv-lite') is not None:
            state = 'mmcv-lite is installed, which lacks the compiled operators'
        else:
            state = f'{package} is not installed'
        hint = BUILD_MMCV if package == 'mmcv' else f'pip install "{package}{wanted}"'
        faults.append(f'{state}, but mmdpad needs {package}{wanted}; run: {hint}')
    return faults


def prepare_environment() -> None:
    """Checks what mmdpad builds on, lets mmengine find our configs, keeps it from running code that
    a YAML file names, and gives it back what Python 3.14 removed; done at import.

    Raises:
        ImportError: A package is missing or unsuitable; each is named with its hint.
    """
    faults = find_unsuitable()
    if faults:
        raise ImportError(
            f'mmdpad {__version__} does not fit this environment:\n  ' + '\n  '.join(faults) +
            '\n(`mmdpad doctor` checks all else, too)')
    _restore_find_loader()
    _offer_configs()
    _drop_misleading_warning()
    from .utils.safe_yaml import read_yaml_plainly
    read_yaml_plainly()


def _restore_find_loader() -> None:
    """mmengine 0.10.7 asks `pkgutil.find_loader`, which Python 3.14 no longer has, whether mmcv has
    its operators, whenever it builds an optimizer."""
    if not hasattr(pkgutil, 'find_loader'):
        pkgutil.find_loader = importlib.util.find_spec  # type: ignore[attr-defined]


def _offer_configs() -> None:
    """Lets mmengine find our configs under `mmdpad::`, such as `mmdpad::dpad/tiny_shapes.py`, and
    in its pure Python style under `mmdpad.configs`.

    mmengine asks for the place of a distribution first, and that of an editable install is not
    where its package is; for the name of a module that is no distribution it takes the module's.
    """
    import mmengine.config.config as reader
    from mmengine.config.utils import MODULE2PACKAGE
    place = 'mmdpad.version'
    MODULE2PACKAGE['mmdpad'] = place
    find = reader.get_installed_path
    reader.get_installed_path = lambda package: find(place if package == 'mmdpad' else package)


def _drop_misleading_warning() -> None:
    """On a CPU with avx512_bf16, bitsandbytes, which mmengine imports if it is installed, advises
    installing a kernel for 4-bit inference that mmdpad never uses."""
    logging.getLogger('bitsandbytes.backends.cpu.ops').addFilter(
        lambda record: 'gemm_4bit_forward' not in str(record.msg))


def _is_command() -> bool:
    """Whether this is `mmdpad ...` or `python -m mmdpad ...`, which start in any environment:
    `mmdpad doctor` tells what is missing, `mmdpad build-mmcv` mends it."""
    if Path(sys.argv[0]).name == 'mmdpad':
        return True
    # While a package is imported for `-m`, its name is in the interpreter's own arguments only.
    return sys.argv[0] == '-m' and 'mmdpad' in sys.orig_argv


if not _is_command():
    prepare_environment()

__all__ = ['BUILD_MMCV', '__version__', 'find_unsuitable', 'installed_version',
           'prepare_environment']
