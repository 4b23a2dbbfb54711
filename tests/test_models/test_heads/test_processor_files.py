# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What transformers reads of a folder, where several files could be meant."""
import shutil
from pathlib import Path

import pytest
import transformers
from policy_folders import as_vocabulary, change_json, read_json

from mmdpad.models import VLMReasoningHead
from mmdpad.models.heads import vlm_reasoning_head
from mmdpad.models.heads.policy_source import load_processor
from mmdpad.models.heads.processor_files import describe_files, image_settings
from mmdpad.toy.policy_folder import make_policy_folder

IMAGES, PROCESSOR = 'preprocessor_config.json', 'processor_config.json'


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    return make_policy_folder(tmp_path_factory.mktemp('plain'), 'qwen2_5_vl')


@pytest.fixture
def folder(plain, tmp_path):
    return Path(shutil.copytree(plain, tmp_path / 'policy'))


def describe(folder):
    return describe_files(str(folder), load_processor(str(folder)))


def test_a_plain_folder(folder):
    assert describe(folder) == (
        'the image processor is that of preprocessor_config.json; the tokenizer that of '
        'tokenizer.json; the chat template that of chat_template.jinja', False)


def test_a_processor_config_that_hides_another(folder):
    """As in a folder that was saved again by transformers 5 beside its former files."""
    former = read_json(folder / IMAGES)
    transformers.AutoProcessor.from_pretrained(folder).save_pretrained(folder)
    change_json(folder / IMAGES, **former)
    text, _ = describe(folder)
    assert text.startswith('the image processor is that of processor_config.json '
                           '(preprocessor_config.json is not read); ')
    change_json(folder / IMAGES, size=dict(shortest_edge=112**2, longest_edge=448**2))
    text, _ = describe(folder)
    assert '(preprocessor_config.json is not read, although it has another size)' in text
    # So it is: transformers does not read the file, either.
    images = load_processor(str(folder)).image_processor
    assert images.size['longest_edge'] == former['size']['longest_edge'] != 448**2
    assert image_settings(str(folder))[0] == PROCESSOR
    (folder / PROCESSOR).unlink()
    assert load_processor(str(folder)).image_processor.size['longest_edge'] == 448**2
    assert image_settings(str(folder))[0] == IMAGES


def test_a_processor_config_without_images_hides_nothing(folder):
    change_json(folder / PROCESSOR, processor_class='Qwen2_5_VLProcessor')
    assert describe(folder).text.startswith('the image processor is that of preprocessor_config')


def test_a_template_that_hides_another(folder):
    """Of the three places that transformers knows, the newest comes last."""
    template = (folder / 'chat_template.jinja').read_text()
    change_json(folder / 'chat_template.json', chat_template=template + '{# used #}')
    assert load_processor(str(folder)).chat_template.endswith('{# used #}')
    assert describe(folder).text.endswith(
        'the chat template that of chat_template.json (chat_template.jinja not read)')


@pytest.mark.parametrize('kind, lost', [('TokenizersBackend', ''), ('PreTrainedTokenizerFast', ''),
                                        ('Qwen2Tokenizer', 'normalizer and pre_tokenizer')])
def test_a_class_that_replaces_steps_of_the_tokenizer(folder, monkeypatch, kind, lost):
    change_json(folder / 'tokenizer_config.json', tokenizer_class=kind)
    change_json(folder / 'tokenizer.json', normalizer=dict(type='Lowercase'))
    text, changes = describe(folder)
    tokenizer = load_processor(str(folder)).tokenizer
    assert (tokenizer.decode(tokenizer('A')['input_ids']) == 'a') != changes == bool(lost)
    assert (f'tokenizer.json, but with the {lost} of Qwen2Tokenizer, so that' in text) == bool(lost)
    assert ('set `tokenizer_class` in tokenizer_config.json' in text) == bool(lost)
    levels = {}
    monkeypatch.setattr(vlm_reasoning_head, 'print_log', lambda text, logger=None, level=20:
                        levels.setdefault(text.partition(': ')[2], level))
    VLMReasoningHead(str(folder))
    assert levels[text] == (30 if changes else 20)


def test_a_class_that_the_model_type_chooses(folder):
    """Of Qwen3.5, transformers overrules tokenizer_config.json."""
    processor = load_processor(str(folder))
    processor.tokenizer = transformers.Qwen2Tokenizer.from_pretrained(folder)
    text, changes = describe_files(str(folder), processor)
    assert changes and 'transformers chooses it by the `model_type`, not by tokenizer_conf' in text


def test_offsets_of_tokens_do_not_matter(folder):
    steps = read_json(folder / 'tokenizer.json')
    for part in steps['pre_tokenizer']['pretokenizers']:
        if part['type'] == 'ByteLevel':
            part['trim_offsets'] = not part['trim_offsets']
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    change_json(folder / 'tokenizer.json', **steps)
    assert not describe(folder).changes_tokens


def test_no_tokenizer_json(folder):
    as_vocabulary(folder)
    assert describe(folder).text.split('; ')[1] == 'the tokenizer that of vocab.json and merges.txt'
