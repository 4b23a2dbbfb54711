# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What is found out about a folder's chat template, and which templates are refused."""
import re

import pytest
from chat_templates import NO_TURN, OPENED, TEXT_ONLY, change_json, chat, policy_folder
from transformers import AutoProcessor

from mmdpad.models import VLMReasoningHead
from mmdpad.models.heads.chat_template import ChatTemplate, find_opened
from mmdpad.models.heads.prompt_encoder import PromptEncoder
from mmdpad.prompts import TEMPLATES, build_messages
from mmdpad.toy import POLICY_WEIGHTS


@pytest.fixture(scope='module')
def processor():
    return AutoProcessor.from_pretrained(POLICY_WEIGHTS)


@pytest.fixture
def look(processor):
    def look(template: str, prompt: str = 'default') -> ChatTemplate:
        processor.chat_template = template
        return ChatTemplate(processor, 'FOLDER', build_messages('a cup', prompt))
    return look


@pytest.mark.parametrize('prompt', TEMPLATES)
@pytest.mark.parametrize('kind', OPENED)
def test_what_a_template_opens(kind, prompt, look):
    """Whatever tags the question itself holds."""
    template, opened = OPENED[kind]
    found = look(template, prompt)
    assert found.opened == opened
    assert found.closes_reasoning == ('that is closed' in kind or 'turned off' in kind)
    end = None if kind.startswith(('no turn', 'no end')) else 506
    if kind != 'a tag named in an instruction':  # there a plain word is first
        assert found.turn_end == end


def test_the_end_of_a_turn_is_a_token_of_its_own(look):
    assert look(chat()).turn_end == 506
    assert look(chat().replace('<|im_end|>', '<|endoftext|>')).turn_end == 504
    assert look(chat().replace('<|im_end|>', ' {{ eos_token }}')).turn_end == 506
    assert look(chat().replace('<|im_end|>', ' END')).turn_end is None
    assert look(chat().replace('<|im_end|>', '')).turn_end is None


@pytest.mark.parametrize('fault', TEXT_ONLY)
def test_a_template_that_cannot_ask_about_an_image_is_refused(fault, look):
    with pytest.raises(ValueError, match=r"chat template of 'FOLDER' (should render|cannot be "
                                         'rendered)'):
        look(TEXT_ONLY[fault])


def test_a_template_that_begins_no_answer_is_refused(look):
    with pytest.raises(ValueError, match=re.escape(
            "but ignores it: the policy would have to write '<|im_start|>assistant'")):
        look(NO_TURN)
    look('{{ messages[0].content[1].text }}<|image_pad|>')  # a base model's has no turns at all


@pytest.mark.parametrize('file', ['chat_template.jinja', 'chat_template.json',
                                  'processor_config.json'])
def test_the_file_is_named_before_weights_are_read(file, tmp_path, monkeypatch):
    folder = policy_folder(tmp_path / 'policy', TEXT_ONLY['takes the texts only'], file)
    monkeypatch.setattr('mmdpad.models.mapped_weights.load_pretrained', None)
    with pytest.raises(ValueError, match=rf'policy. \({file}\) should render the image of a prompt '
                                         "as one '<.image_pad.>', but renders none: it is for "
                                         'text only; replace it'):
        VLMReasoningHead(folder)


@pytest.mark.parametrize('used, other', [
    ('chat_template.json', 'chat_template.jinja'),
    ('processor_config.json', 'chat_template.jinja'),
    ('processor_config.json', 'chat_template.json')])
def test_of_two_files_the_one_that_counts_is_named(used, other, tmp_path):
    texts = {used: TEXT_ONLY['leaves lists out'], other: chat()}
    folder = policy_folder(tmp_path / 'policy')
    (tmp_path / 'policy/chat_template.jinja').unlink()
    for name, text in texts.items():
        if name.endswith('.jinja'):
            (tmp_path / 'policy' / name).write_text(text)
        else:
            change_json(tmp_path / 'policy' / name, dict(chat_template=text))
    with pytest.raises(ValueError, match=rf'\({used}\) should render the image'):
        PromptEncoder(folder, 'default', 1300)


def test_the_digest_is_that_of_the_text(look):
    one, same, other = (look(text).digest for text in (chat(), chat(), chat('<think>')))
    assert one == same != other and len(one) == 16


def test_opened_by_hand():
    assert find_opened('') == find_opened('no <b> tag') == find_opened('a </think> alone') == ''
    assert find_opened('<think>a</think><think>') == '<think>'
    assert find_opened('<think><answer>') == '<think><answer>'
