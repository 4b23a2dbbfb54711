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
    """The version of a distribution, or None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def find_unsuitable(find_version: Callable[[str], str | None] = installed_version) -> list[str]:
    """Compare the installed packages with ``REQUIRED``, without importing any of them.

    Args:
        find_version: Maps a distribution's name to its version, or None if it is missing.

    Returns:
        One sentence for each missing or unsuitable package: what is installed, what is required,
        and the command that fixes it. Empty if everything fits.
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
    """Check the packages mmdpad builds on, let mmengine find our configs, keep it from running
    code named in a YAML file, and restore what Python 3.14 removed; runs at import.

    Raises:
        ImportError: A package is missing or unsuitable; each is named with its hint.
    """
    faults = find_unsuitable()
    if faults:
        raise ImportError(
            f'mmdpad {__version__} does not fit this environment:\n  ' + '\n  '.join(faults) +
            '\n(`mmdpad doctor` also checks everything else)')
    _restore_find_loader()
    _offer_configs()
    _drop_misleading_warning()
    from .utils.safe_yaml import read_yaml_plainly
    read_yaml_plainly()


def _restore_find_loader() -> None:
    """Restore `pkgutil.find_loader` for mmengine 0.10.7: Python 3.14 removed it, and mmengine calls
    it whenever it builds an optimizer, to see whether mmcv has its operators."""
    if not hasattr(pkgutil, 'find_loader'):
        pkgutil.find_loader = importlib.util.find_spec  # type: ignore[attr-defined]


def _offer_configs() -> None:
    """Let mmengine find our configs under `mmdpad::`, such as `mmdpad::dpad/tiny_shapes.py`, and
    in its pure Python style under `mmdpad.configs`.

    mmengine first asks for the location of a distribution, and for an editable install that is not
    the package's folder; for a module name that is no distribution it uses the module's folder.
    """
    import mmengine.config.config as reader
    from mmengine.config.utils import MODULE2PACKAGE
    place = 'mmdpad.version'
    MODULE2PACKAGE['mmdpad'] = place
    find = reader.get_installed_path
    reader.get_installed_path = lambda package: find(place if package == 'mmdpad' else package)


def _drop_misleading_warning() -> None:
    """Drop a warning of bitsandbytes, which mmengine imports if it is installed: on a CPU with
    avx512_bf16 it advises installing a kernel for 4-bit inference that mmdpad never uses."""
    logging.getLogger('bitsandbytes.backends.cpu.ops').addFilter(
        lambda record: 'gemm_4bit_forward' not in str(record.msg))


def _is_command() -> bool:
    """Whether this is `mmdpad ...` or `python -m mmdpad ...`, which must start in any environment:
    `mmdpad doctor` reports what is missing, `mmdpad build-mmcv` fixes it."""
    if Path(sys.argv[0]).name == 'mmdpad':
        return True
    # While a package is imported for `-m`, only the interpreter's own arguments have its name.
    return sys.argv[0] == '-m' and 'mmdpad' in sys.orig_argv


if not _is_command():
    prepare_environment()

__all__ = ['BUILD_MMCV', '__version__', 'find_unsuitable', 'installed_version',
           'prepare_environment']
