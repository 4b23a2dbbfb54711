# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Writes scalars in the order that mmdet's ``analyze_logs.py`` needs."""

from __future__ import annotations

from typing import Any

from mmengine.visualization import LocalVisBackend as LocalVisBackendOfMMEngine

from mmdpad.registry import VISBACKENDS


@VISBACKENDS.register_module()
class LocalVisBackend(LocalVisBackendOfMMEngine):
    """mmengine's, but a training line begins with the names without a ``/``, including ``step``.

    From the first name with a ``/`` on, mmdet's ``analyze_logs.py`` treats a line as one of a
    validation and skips the remaining names: loss, time and step, if ``reward/...`` comes first.
    """

    def add_scalars(self, scalar_dict: dict, step: int = 0, file_path: str | None = None,
                    **kwargs: Any) -> None:
        """As in mmengine."""
        if 'iter' in scalar_dict:  # a training line
            plain = {name: value for name, value in scalar_dict.items() if '/' not in name}
            scalar_dict = plain | dict(step=step) | scalar_dict
        super().add_scalars(scalar_dict, step, file_path, **kwargs)
