# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How our commands start: without imports that the work does not need, and without warnings that
nobody who reads them can act on. `import mmdpad` does neither; the import of the inferencer's
class leaves out what it does not need, and keeps the warnings.
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

# What others warn of in code of their own: text (a regular expression), category, module.
_OF_OTHERS: tuple[tuple[str, type[Warning], str], ...] = (
    ('pkg_resources is deprecated', UserWarning, ''),
    ('pkg_resources is deprecated', DeprecationWarning, ''),
    ('Deprecated call to `pkg_resources', DeprecationWarning, ''),
)
_FILE_CLIENT = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias')
# The packages of which mmengine registers optimizers that take seconds to import.
_LATE = ('bitsandbytes', 'transformers')


@contextmanager
def start_command() -> Iterator[None]:
    """Around a command's heavy imports, and its building of models: Python's garbage collector
    waits, and passes over what was made here from then on.

    Imports make a million objects and next to no garbage; looking through them again and again
    takes a fifth of a start, and at exit a second more. Once in a process is enough, and later it
    changes nothing.
    """
    silence_others()
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


def silence_others() -> None:
    """Ignore the warnings of :data:`_OF_OTHERS`, and mmengine's own of its own file client."""
    for message, category, module in _OF_OTHERS:
        warnings.filterwarnings('ignore', message, category, module)
    file_client.print_log = _print_others


def _print_others(msg: Any, *args: Any, **kwargs: Any) -> None:
    """mmengine's ``print_log`` for its file client, without what that says of itself."""
    if not str(msg).startswith(_FILE_CLIENT):
        print_log(msg, *args, **kwargs)


def import_mmengine() -> None:
    """Import mmengine's optimizers, as nearly all of mmengine and mmdet does, but those of
    bitsandbytes and transformers only when a name is looked up that is not of torch.

    mmengine registers them at import, whether a config names one or not, which takes 3 of the 8
    seconds of a start. Whoever looks for one finds it all the same (:class:`_LateOptimizers`).
    Does nothing where mmengine's are imported already, or these packages are.
    """
    name = 'mmengine.optim.optimizer.builder'
    late = [package for package in _LATE if package not in sys.modules]
    if name in sys.modules or not late:
        return
    import torch  # noqa: F401 so that nothing but mmengine is imported below
    with _hidden(late):
        from mmengine.optim.optimizer import builder
    optimizers = builder.OPTIMIZERS
    optimizers._module_dict = _LateOptimizers(optimizers._module_dict, late)


@contextmanager
def _hidden(packages: list[str]) -> Iterator[None]:
    """Where each is not to be had: ``import`` raises ModuleNotFoundError, as for one that is not
    installed. None of it is imported in part."""
    sys.modules.update(dict.fromkeys(packages))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for package in packages:
            sys.modules.pop(package, None)


class _LateOptimizers(dict):
    """The optimizers of mmengine's registry by name, of which some are registered when a name is
    not found, or all are asked for.

    Args:
        found: Those that are registered.
        packages: Whose optimizers are not yet.
    """

    def __init__(self, found: dict[str, type], packages: list[str]) -> None:
        super().__init__(found)
        self._packages = packages

    def _register(self) -> None:
        packages, self._packages = self._packages, []  # registering looks names up itself
        if not packages:
            return
        from mmengine.optim.optimizer import builder
        try:
            while packages:
                # Each returns names, and mmengine keeps them so.
                names = getattr(builder, f'register_{packages[0]}_optimizers')()
                getattr(builder, f'{packages[0].upper()}_OPTIMIZERS').extend(names)
                del packages[0]
        finally:
            self._packages = packages  # a package that cannot be imported says so again

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
