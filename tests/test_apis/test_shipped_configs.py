# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from pathlib import Path

import pytest

from mmdpad.apis import find_config, shipped_configs

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize('name', ['tiny_shapes', 'tiny_shapes.py', 'dpad/tiny_shapes',
                                  'mmdpad::dpad/tiny_shapes.py'])
def test_names(name):
    assert Path(find_config(name)) == ROOT / 'configs/dpad/tiny_shapes.py'


def test_a_file_goes_before_a_name(tmp_path, monkeypatch):
    (tmp_path / 'tiny_shapes').touch()
    monkeypatch.chdir(tmp_path)
    assert find_config('tiny_shapes') == 'tiny_shapes'
    assert find_config(tmp_path / 'tiny_shapes') == str(tmp_path / 'tiny_shapes')


def test_unknown_names_are_told_with_similar_ones():
    with pytest.raises(FileNotFoundError, match="'tiny_shape' does not exist.*'tiny_shapes'"):
        find_config('tiny_shape')
    with pytest.raises(FileNotFoundError, match="'no/such.py' does not.*such as 'dpad/tiny"):
        find_config('no/such.py')
    with pytest.raises(FileNotFoundError):
        find_config('_base_/default_runtime')


def test_the_installed_package_has_them_inside(tmp_path, monkeypatch):
    package = tmp_path / 'mmdpad'
    config = package / '.mim' / 'configs' / 'dpad' / 'mine.py'
    config.parent.mkdir(parents=True)
    config.touch()
    monkeypatch.setattr(shipped_configs, '_PACKAGE', package)
    assert find_config('mine') == str(config)
    monkeypatch.setattr(shipped_configs, '_PACKAGE', tmp_path / 'elsewhere' / 'mmdpad')
    with pytest.raises(FileNotFoundError, match='does not exist'):
        find_config('mine')
