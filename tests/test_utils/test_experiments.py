# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest

from mmdpad.utils import check_file, config_parser, load_config

CONFIG = 'mmdpad::dpad/tiny_shapes.py'


def load(*options):
    return load_config(config_parser('', 'a=1').parse_args([CONFIG, '--cfg-options', *options]))


def test_options_override_entries():
    config = load('train_cfg.max_iters=7', 'custom_hooks.0.form=raw', 'new.size=[1,(2,3)]')
    assert config.train_cfg.max_iters == 7 and config.custom_hooks[0].form == 'raw'
    assert config.new.size == [1, (2, 3)]


def test_entries_of_a_list_are_named_by_type_or_name():
    config = load('custom_hooks.DiscriminativeRewardHook.form=raw',
                  'train_dataloader.dataset.pipeline.ModelImageResize.size=[56,84]',
                  'custom_hooks.DiscriminativeRewardHook.name=near', 'custom_hooks.near.weight=2')
    assert config.custom_hooks[0].form == 'raw' and config.custom_hooks[0].weight == 2
    assert [step['size'] for step in config.train_dataloader.dataset.pipeline
            if step.type == 'ModelImageResize'] == [[56, 84]]


def test_what_was_typed_arrives():
    config = load('model.policy.prompt_template=Find {question} in the image',
                  'train_dataloader.dataset.data_root=/content/drive/My Drive/x',
                  'val_dataloader.dataset.data_root="/data/a,b"',
                  'model.decoder=dict(_delete_=True, type=BoxDecoder)',
                  "model.rollout_engine.engine_options={'enforce_eager':True}")
    assert config.model.policy.prompt_template == 'Find {question} in the image'
    assert config.train_dataloader.dataset.data_root == '/content/drive/My Drive/x'
    assert config.val_dataloader.dataset.data_root == '/data/a,b'
    assert config.model.decoder == dict(type='BoxDecoder')
    assert config.model.rollout_engine.engine_options == dict(enforce_eager=True)


@pytest.mark.parametrize('option', ['train_cfg.max_iters', 'a=[1,2', "a={'b': 1"])
def test_an_option_that_cannot_be_read_is_a_usage_error(option, capsys):
    with pytest.raises(SystemExit) as ended:
        load('b=1', option)
    assert ended.value.code == 2
    (said, ) = [line for line in capsys.readouterr().err.splitlines() if 'error:' in line]
    assert 'argument --cfg-options: ' in said and repr(option) in said


@pytest.mark.parametrize('option, message', [
    ('custom_hooks.9.form=raw', 'a list of 1'), ('custom_hooks.form=raw', 'a list of 1'),
    ('custom_hooks.MaskRewardHook.weight=2', 'have their type or `name` as names and .* got `Mask'),
    ('train_cfg.max_iters.x=1', 'max_iters')])
def test_an_option_that_does_not_fit_the_config_ends_with_one_line(option, message):
    with pytest.raises(SystemExit, match=f'--cfg-options do not fit config .*{message}') as ended:
        load(option)
    assert '\n' not in str(ended.value)


@pytest.mark.parametrize('line, told', [
    ('from mmdpad.rewards import BoxIouReward as name', 'BoxIouReward from mmdpad.rewards'),
    ('from mmdpad.reward import BoxIoUReward as name', 'mmdpad.reward')])
def test_an_import_of_what_is_not_there_ends_with_one_line(tmp_path, line, told):
    config = tmp_path / 'pure.py'
    config.write_text(f'{line}\nrewards = [dict(type=name)]\n')
    with pytest.raises(SystemExit, match=f'Failed to import {told}.*line 1.*correct the import'):
        load_config(config_parser('', 'a=1').parse_args([str(config)]))


def test_a_folder_is_no_missing_file(tmp_path):
    (tmp_path / 'a.jsonl').touch()
    check_file('log', None)
    check_file('log', str(tmp_path / 'a.jsonl'))
    with pytest.raises(SystemExit, match=r"^log '.*' should be a file, but is a folder; name a fi"):
        check_file('log', str(tmp_path))
    with pytest.raises(SystemExit, match=r"^log '.*b\.jsonl' does not exist; correct the path$"):
        check_file('log', str(tmp_path / 'b.jsonl'))
