# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The layers of the package: imports run one way."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mmdpad

ROOT = Path(mmdpad.__file__).parent
# What a layer may import of mmdpad, itself included.
BASE = {'version', 'utils', 'registry', 'structures'}
PURE = BASE | {'geometry', 'prompts', 'rewards', 'rl', 'tasks'}
PARTS = PURE | {'datasets', 'models', 'toy'}
METHOD = PARTS | {'engine', 'evaluation', 'visualization'}
TOOLING = METHOD | {'preflight', 'analysis', 'apis', 'cli'}
ALLOWED = {
    'structures': {'structures', 'utils'},
    'utils': {'utils'},
    'geometry': BASE | {'geometry'},
    'prompts': BASE | {'geometry', 'prompts'},
    'tasks': BASE | {'geometry', 'prompts', 'tasks'},
    'rl': BASE | {'rl'},
    'rewards': PURE - {'rl'},
    'toy': BASE | {'toy'},
    'datasets': PARTS - {'models', 'rl', 'toy'},
    'models': PARTS - {'datasets'},
    'evaluation': PARTS | {'evaluation'},
    'visualization': PURE | {'visualization'},
    'engine': METHOD - {'toy'},
    'preflight': METHOD | {'preflight'},
    'analysis': METHOD | {'analysis'},
    'apis': METHOD | {'analysis', 'apis'},
    'cli': TOOLING,
}
HEAVY = {'transformers', 'open_clip', 'segment_anything', 'mmdet', 'mmcv'}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
            names |= {f'{node.module}.{alias.name}' for alias in node.names}
    return names


def test_every_folder_has_a_layer():
    folders = {path.parent.name for path in ROOT.glob('*/__init__.py')}
    assert folders == set(ALLOWED)


@pytest.mark.parametrize('layer', ALLOWED)
def test_imports_run_one_way(layer):
    for path in (ROOT / layer).rglob('*.py'):
        ours = {name.split('.')[1] for name in imported(path) if name.startswith('mmdpad.')}
        assert ours <= ALLOWED[layer], f'{path.name} imports {sorted(ours - ALLOWED[layer])}'


@pytest.mark.parametrize('layer', ['structures', 'geometry', 'prompts', 'tasks', 'rewards', 'rl'])
def test_the_pure_folders_know_no_model(layer):
    for path in (ROOT / layer).rglob('*.py'):
        heavy = {name.split('.')[0] for name in imported(path)} & HEAVY
        assert not heavy, f'{path.name} imports {sorted(heavy)}'


def test_the_reader_of_annotations_can_be_imported_first():
    """Its steps of pipelines import it, and it needs their reader of images."""
    subprocess.run([sys.executable, '-c', 'import mmdpad.datasets.reason_seg_annotation'],
                   check=True)
