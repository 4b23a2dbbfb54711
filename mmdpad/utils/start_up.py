# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How commands start: without imports that the work does not need, and without third-party
warnings that the user cannot act on. `import mmdpad` changes neither; importing the inferencer
class skips what it does not need, but keeps the warnings.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.fileio import file_client
from mmengine.logging import print_log

# Misleading third-party warnings: text (a regular expression), category, module.
_MISLEADING: tuple[tuple[str, type[Warning], str], ...] = (
    ('pkg_resources is deprecated', UserWarning, ''),
    ('pkg_resources is deprecated', DeprecationWarning, ''),
    ('Deprecated call to `pkg_resources', DeprecationWarning, ''),
)
_FILE_CLIENT = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias')
# The packages whose optimizers mmengine registers, at the cost of seconds of import.
_LATE = ('bitsandbytes', 'transformers')


@contextmanager
def start_command() -> Iterator[None]:
    """Wrap a command's heavy imports and model building: Python's garbage collector pauses, and
    afterwards ignores the objects made here.

    Imports make a million objects and next to no garbage; scanning them repeatedly takes a fifth
    of the start, and another second at exit. Once per process is enough; later calls change
    nothing.
    """
    silence_third_party()
    if gc.get_freeze_count():
        import_mmengine()
        yield
        return
    gc.disable()
    try:
        import_mmengine()
        yield
    finally:
        gc.freeze()
        gc.enable()


def silence_third_party() -> None:
    """Ignore the warnings in :data:`_MISLEADING`, and mmengine's about its own file client."""
    for message, category, module in _MISLEADING:
        warnings.filterwarnings('ignore', message, category, module)
    file_client.print_log = _print_relevant


def _print_relevant(msg: Any, *args: Any, **kwargs: Any) -> None:
    """mmengine's ``print_log`` for its file client, without the file client's deprecation notes."""
    if not str(msg).startswith(_FILE_CLIENT):
        print_log(msg, *args, **kwargs)


def import_mmengine() -> None:
    """Import mmengine's optimizers, as nearly all of mmengine and mmdet does, but import those of
    bitsandbytes and transformers only when a name is looked up that torch does not have.

    mmengine registers them at import, whether or not a config names one, which takes 3 of the 8
    seconds of a start. A lookup still finds them (:class:`_LateOptimizers`). Does nothing if
    mmengine's optimizers or these packages have already been imported.
    """
    name = 'mmengine.optim.optimizer.builder'
    late = [package for package in _LATE if package not in sys.modules]
    if name in sys.modules or not late:
        return
    import torch  # noqa: F401 so that only mmengine is imported below
    with _hidden(late):
        from mmengine.optim.optimizer import builder
    optimizers = builder.OPTIMIZERS
    optimizers._module_dict = _LateOptimizers(optimizers._module_dict, late)


@contextmanager
def _hidden(packages: list[str]) -> Iterator[None]:
    """Make packages unavailable: ``import`` raises ModuleNotFoundError, as if they were not
    installed. None of them may be partially imported."""
    sys.modules.update(dict.fromkeys(packages))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for package in packages:
            sys.modules.pop(package, None)


class _LateOptimizers(dict):
    """The optimizers in mmengine's registry by name; some of them are only registered when a name
    is not found or all are requested.

    Args:
        found: The registered optimizers.
        packages: Packages whose optimizers are not registered yet.
    """

    def __init__(self, found: dict[str, type], packages: list[str]) -> None:
        super().__init__(found)
        self._packages = packages

    def _register(self) -> None:
        packages, self._packages = self._packages, []  # registering looks up names itself
        if not packages:
            return
        from mmengine.optim.optimizer import builder
        try:
            while packages:
                # Each returns names; mmengine stores them too.
                names = getattr(builder, f'register_{packages[0]}_optimizers')()
                getattr(builder, f'{packages[0].upper()}_OPTIMIZERS').extend(names)
                del packages[0]
        finally:
            self._packages = packages  # a package that cannot be imported fails again next time

    def __missing__(self, name: str) -> type:
        self._register()
        if dict.__contains__(self, name):
            return dict.__getitem__(self, name)
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        if not super().__contains__(name):
            self._register()
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401 - it would call itself

    def __iter__(self):
        self._register()
        return super().__iter__()

    def __len__(self) -> int:
        self._register()
        return super().__len__()

    def keys(self):
        self._register()
        return super().keys()

    def values(self):
        self._register()
        return super().values()

    def items(self):
        self._register()
        return super().items()
