# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""YAML that contains only data.

mmengine's own reader of YAML configs can run code.
"""

from __future__ import annotations

from typing import Any

import yaml
from mmengine.fileio.handlers import YamlHandler
from mmengine.fileio.handlers.registry_utils import register_handler

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # a PyYAML without libyaml, several times slower
    from yaml import SafeLoader

_PYTHON = 'tag:yaml.org,2002:python/'


class _PlainLoader(SafeLoader):
    """PyYAML's safe loader, plus tuples as mmengine writes them."""


def _tuple(loader: _PlainLoader, node: yaml.Node) -> tuple:
    return tuple(loader.construct_sequence(node, deep=True))


def _refuse(loader: _PlainLoader, suffix: str, node: yaml.Node) -> Any:
    raise ValueError(f'A YAML config should hold plain data, but line {node.start_mark.line + 1} '
                     f'has !!python/{suffix}, which would run code; name classes by `type`, or '
                     'write a Python config')


_PlainLoader.add_constructor(f'{_PYTHON}tuple', _tuple)
_PlainLoader.add_multi_constructor(_PYTHON, _refuse)


class _PlainYamlHandler(YamlHandler):
    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        return super().load_from_fileobj(file, Loader=_PlainLoader, **kwargs)


def read_yaml_plainly() -> None:
    """Make mmengine read ``.yaml`` and ``.yml`` this way, in configs and their bases."""
    register_handler(['yaml', 'yml'])(_PlainYamlHandler)
