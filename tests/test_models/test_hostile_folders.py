# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Folders in Hugging Face format that bring code along."""
from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from exploits import assert_real, write_checkpoint
from jinja2 import Template
from transformers import AutoProcessor, dynamic_module_utils

from mmdpad.models.heads.families import find_family
from mmdpad.models.heads.prompt_encoder import PromptEncoder
from mmdpad.models.hf_folder import import_policy
from mmdpad.models.weights import load_pretrained
from mmdpad.toy import POLICY_WEIGHTS

CONFIGS = ('config.json', 'processor_config.json', 'tokenizer_config.json')
AUTO = ('AutoConfig', 'AutoModel', 'AutoModelForImageTextToText', 'AutoProcessor',
        'AutoImageProcessor')


@pytest.fixture(autouse=True)
def a_user_who_says_yes(monkeypatch, tmp_path):
    """To transformers' question whether to run a folder's code."""
    monkeypatch.setattr('builtins.input', lambda *_: 'y')
    monkeypatch.setattr(dynamic_module_utils, 'HF_MODULES_CACHE', str(tmp_path / 'modules'))


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(POLICY_WEIGHTS, tmp_path / 'hub'))


def bring_code(folder: Path, sentinel: Path, **replaced: str) -> None:
    """``auto_map`` in every config, to a module that makes ``sentinel``; and other entries."""
    (folder / 'evil.py').write_text(f'open({str(sentinel)!r}, "w")\nclass Evil: pass\n')
    for name in CONFIGS:
        content = json.loads((folder / name).read_text())
        content['auto_map'] = dict.fromkeys(AUTO, 'evil.Evil') | {
            'AutoTokenizer': ['evil.Evil', 'evil.Evil']}
        content |= {key: value for key, value in replaced.items() if key in content}
        (folder / name).write_text(json.dumps(content))


@pytest.mark.promise('Files', 'A model folder that brings Python code (`auto_map`)',
                     'no code runs and no prompt appears; if the code is needed, that is the error')
def test_code_of_a_folder_is_not_run(folder, tmp_path, tried):
    bring_code(folder, tmp_path / 'fired')
    PromptEncoder(str(folder), 'default', 1000).write('what?')  # transformers has such a class
    import_policy(str(folder))
    bring_code(folder, tmp_path / 'fired', processor_class='Evil', tokenizer_class='Evil')
    with pytest.raises(ValueError, match='hub.*needs custom Python code, which is never run'):
        PromptEncoder(str(folder), 'default', 1000)
    assert not (tmp_path / 'fired').exists()
    with contextlib.suppress(Exception):
        AutoProcessor.from_pretrained(folder)  # where the user's yes is heard
    assert (tmp_path / 'fired').exists()
    tried('with classes that transformers has and without, a user who types yes')


@pytest.mark.promise('Files', 'A model folder whose weights are a pickle with code',
                     'no code runs; the error names the folder and what it asks for')
@pytest.mark.parametrize('form', ['zip', 'legacy'])
def test_pickled_weights_of_a_folder_run_no_code(form, folder, tmp_path, tried):
    (folder / 'model.safetensors').unlink()
    path = write_checkpoint(folder / 'pytorch_model.bin', form, tmp_path / 'fired')
    model_class = find_family(str(folder)).model_class
    for load in (import_policy, lambda path: load_pretrained(model_class, path, 'Fetch it.')):
        with pytest.raises(ValueError, match='hub.*asks for .*io.open, which could run code'):
            load(str(folder))
    assert_real(path, tmp_path / 'fired')
    tried('pytorch_model.bin in two forms, by the policy and by from_hf.py')


@pytest.mark.promise('Files', 'A chat template that reaches for Python',
                     'the sandbox refuses; the error names the folder')
def test_a_chat_template_reaches_nothing(folder, tried):
    reaching = "{{ ''.__class__.__name__ }}"
    assert Template(reaching).render() == 'str'  # outside of a sandbox
    templates = (reaching, '{% include "config.json" %}', '{% for')
    for text in templates:
        (folder / 'chat_template.jinja').write_text(text)
        with pytest.raises(ValueError, match='chat template of .*hub.* cannot be rendered'):
            PromptEncoder(str(folder), 'default', 1000).write('what?')
    tried(f'{len(templates)} templates')


@pytest.mark.promise('Files', 'A model folder with broken or hostile JSON',
                     'an error that names the folder')
@pytest.mark.parametrize('content', ['{"a":', '{"a":' * 10**5, '[]', 'null', '\x00', '1' * 9999],
                         ids=range(6))
@pytest.mark.parametrize('name', ['config.json', 'tokenizer.json', 'processor_config.json'])
def test_broken_files_of_a_folder_are_named(name, content, folder, tried):
    (folder / name).write_text(content)
    with pytest.raises((ValueError, OSError), match='hub'):
        find_family(str(folder))
        PromptEncoder(str(folder), 'default', 1000)
    tried('6 contents in each of 3 files')
