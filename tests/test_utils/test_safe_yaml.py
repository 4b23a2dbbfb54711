# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from mmdpad.utils import parse_value
from mmdpad.utils.configs import UnreadableConfig, open_config

DATA = dict(size=[1, 2], model=dict(type='A', rate=0.5, name=None))


@pytest.mark.parametrize('suffix', ['json', 'yaml', 'yml'])
def test_plain_data_is_read(suffix, tmp_path):
    path = tmp_path / f'a.{suffix}'
    Config(DATA).dump(path)
    assert open_config(str(path)).to_dict() == DATA


def test_tuples_that_mmengine_writes_are_read(tmp_path):
    path = str(tmp_path / 'a.yaml')
    Config(dict(size=(1, (2, 3)))).dump(path)
    assert 'python/tuple' in Path(path).read_text() and open_config(path)['size'] == (1, (2, 3))


@pytest.mark.promise('Files', 'A YAML or JSON config that asks for code to be run',
                     'reading it runs none, nor do its bases; the error names the file')
@pytest.mark.parametrize('tag', [
    'object/apply:builtins.open ["{}", "w"]', 'object/new:io.open ["{}", "w"]',
    'object/apply:os.system ["touch {}"]'])
def test_yaml_runs_no_code(tag, tmp_path, tried):
    fired, path = tmp_path / 'fired', tmp_path / 'evil.yaml'
    path.write_text(f'a: 1\nb: !!python/{tag.format(fired)}\n')
    (tmp_path / 'heir.json').write_text(json.dumps(dict(_base_='evil.yaml')))
    for name in ('evil.yaml', 'heir.json'):
        with pytest.raises(UnreadableConfig, match=f'{name}.*line 2 has !!python/object/'):
            open_config(str(tmp_path / name))
    assert not fired.exists()
    yaml.load(path.read_text(), yaml.Loader)
    assert fired.exists()
    tried('3 tags, in a config and in its base')


@pytest.mark.promise('Files', 'A YAML or JSON config that is broken or deep',
                     'one kind of error names the file')
@pytest.mark.parametrize('name, content', [
    ('a.json', '{"a":'), ('a.json', '{"a":' * 10**5), ('a.yaml', 'a: [1'), ('a.yaml', 'a: ' * 99),
    ('a.yaml', '!!python/name:os.system'), ('a.yaml', '[' * 3000)])
def test_broken_configs_are_named(name, content, tmp_path, tried):
    (tmp_path / name).write_text(content)
    with pytest.raises(UnreadableConfig, match=name):
        open_config(str(tmp_path / name))
    tried('6 files')


@pytest.mark.promise('Files', 'A value of --cfg-options that looks like code', 'it stays a string')
def test_options_of_the_command_line_are_data(tmp_path, tried):
    fired = tmp_path / 'fired'
    code = f'__import__("os").system("touch {fired}")'
    values = {code: code, f'dict(a={code})': dict(a=code), f'[{code},b]': [code, 'b'],
              'lambda:0': 'lambda:0'}
    for text, value in values.items():
        assert parse_value(text) == value
    assert not fired.exists()
    tried(f'{len(values)} values')
