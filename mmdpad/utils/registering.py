# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Called by mmengine and by mmdet users before they build parts by name."""

from __future__ import annotations

import importlib

_WITH_CLASSES = ('apis.reason_seg_inferencer', 'datasets.registered', 'datasets.samplers',
                 'datasets.transforms', 'engine.hooks', 'engine.runner', 'engine.strategies',
                 'evaluation', 'models', 'rewards')


def register_all_modules(init_default_scope: bool = True) -> None:
    """Import every module that registers a class, like mmdet's function of the same name;
    mmengine's ``get_model('mmdpad::dpad/tiny_shapes.py')`` calls it.

    Args:
        init_default_scope: Whether to look names up in the scope 'mmdpad' from now on.
    """
    for name in _WITH_CLASSES:
        importlib.import_module(f'mmdpad.{name}')
    if init_default_scope:
        from mmengine.registry import init_default_scope as begin
        begin('mmdpad')
