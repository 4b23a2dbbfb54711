# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The log of numbers as mmdet's ``analyze_logs.py`` reads it."""

from __future__ import annotations

from typing import Any

from mmengine.visualization import LocalVisBackend as LocalVisBackendOfMMEngine

from mmdpad.registry import VISBACKENDS


@VISBACKENDS.register_module()
class LocalVisBackend(LocalVisBackendOfMMEngine):
    """mmengine's; a line of training begins with the names that have no ``/``, ``step`` among them.

    mmdet's ``analyze_logs.py`` takes a line for that of a validation from its first name with a
    ``/`` on, and passes over the names behind it: loss, time and step, if ``reward/...`` comes
    first.
    """

    def add_scalars(self, scalar_dict: dict, step: int = 0, file_path: str | None = None,
                    **kwargs: Any) -> None:
        """As in mmengine."""
        if 'iter' in scalar_dict:  # of training
            plain = {name: value for name, value in scalar_dict.items() if '/' not in name}
            scalar_dict = plain | dict(step=step) | scalar_dict
        super().add_scalars(scalar_dict, step, file_path, **kwargs)
