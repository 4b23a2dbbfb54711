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
PURE = BASE | {'prompts', 'rewards', 'rl'}
PARTS = PURE | {'datasets', 'models', 'testing'}
ALLOWED = {
    'structures': {'structures', 'utils'},
    'prompts': PURE - {'rewards', 'rl'},
    'rewards': PURE,
    'rl': BASE | {'rl'},
    'utils': {'utils'},
    'datasets': PARTS - {'models'},
    'models': PARTS - {'datasets'},
    'testing': PARTS,
    'evaluation': PARTS | {'evaluation'},
    'visualization': PURE | {'visualization'},
    'engine': PARTS | {'engine', 'evaluation', 'visualization'},
    'apis': PARTS | {'apis', 'engine', 'evaluation', 'visualization'},
    'cli': PARTS | {'cli', 'apis', 'engine', 'evaluation', 'visualization'},
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


@pytest.mark.parametrize('layer', ['structures', 'prompts', 'rewards', 'rl'])
def test_the_pure_folders_know_no_model(layer):
    for path in (ROOT / layer).rglob('*.py'):
        heavy = {name.split('.')[0] for name in imported(path)} & HEAVY
        assert not heavy, f'{path.name} imports {sorted(heavy)}'


def test_the_reader_of_annotations_can_be_imported_first():
    """Its steps of pipelines import it, and it needs their reader of images."""
    subprocess.run([sys.executable, '-c', 'import mmdpad.datasets.reason_seg_annotation'],
                   check=True)
