# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Chat templates of the kinds that folders of vision-language models hold, and such folders."""
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mmdpad.toy import POLICY_WEIGHTS

_PARTS = ("{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
          "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}"
          "{{ part.text }}{% endif %}{% endfor %}{% endif %}")
_TURNS = ("{% for m in messages %}<|im_start|>{{ m.role }}\n" + _PARTS
          + "<|im_end|>\n{% endfor %}")
# An assistant's turn as the thinking models render it: its reasoning on lines of its own.
_THINKING_TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and m.content is string %}"
    "{% set reasoning, answer = '', m.content %}{% if '</think>' in m.content %}"
    "{% set reasoning = m.content.split('</think>')[0].split('<think>')[-1] %}"
    "{% set answer = m.content.split('</think>')[-1] %}{% endif %}"
    "<think>\n{{ reasoning.strip('\n') }}\n</think>\n\n{{ answer.lstrip('\n') }}"
    "{% else %}" + _PARTS + "{% endif %}<|im_end|>\n{% endfor %}")
_IMAGE_ONLY = "<|vision_start|><|image_pad|><|vision_end|>"


def chat(opened: str = '', turns: str = _TURNS) -> str:
    """A template that begins the assistant's turn with some text."""
    return (turns + "{% if add_generation_prompt %}<|im_start|>assistant\n" + opened
            + "{% endif %}")


_SWITCH = ("{% if enable_thinking is defined and enable_thinking is false %}"
           "<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}")
# GLM-4.6V's: an instruction behind the question, and a line break that the policy writes.
_OFF = "{% if enable_thinking is defined and not enable_thinking %}"
_GLM_TURNS = (
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n" + _PARTS + _OFF
    + "/nothink{% endif %}{% else %}<|im_start|>assistant{% set content = m.content %}"
    "{% if content is not string %}{% set content = m.content[0].text %}{% endif %}"
    "{% set reasoning = content.split('</think>')[0].split('<think>')[-1] "
    "if '</think>' in content else '' %}{{ '\n<think>' + reasoning.strip() + '</think>\n'"
    " + content.split('</think>')[-1].strip() }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant" + _OFF
    + "{{ '\n<think></think>' }}{% endif %}{% endif %}")
OPENED = {
    'an instruct model': (chat(), ''),
    'a thinking model': (chat('<think>\n', _THINKING_TURNS), '<think>\n'),
    'a tag without a line break': (chat('<think>'), '<think>'),
    'words before the tag': (chat('Let me look at it.\n<think>'), '<think>'),
    'words after the tag': (chat('<think>\nOkay, '), '<think>\nOkay, '),
    'an empty block that is closed': (chat('<think>\n\n</think>\n\n'), ''),
    'a switch that is left alone': (chat(_SWITCH), '<think>\n'),
    'a switch with turns that think': (chat(_SWITCH, _THINKING_TURNS), '<think>\n'),
    'a switch that is turned off': (
        '{% set enable_thinking = false %}' + chat(_SWITCH, _THINKING_TURNS), ''),
    'no end of a turn, a line break before the response': (_GLM_TURNS, ''),
    'no end of a turn, turned off, a line break before the response': (
        '{% set enable_thinking = false %}' + _GLM_TURNS, ''),
    'reasoning closed, an answer opened': (chat('<think>\n\n</think>\n\n<answer>'), '<answer>'),
    'no switch at all': (_TURNS + "<|im_start|>assistant\n{{ '<think>\n' }}", '<think>\n'),
    'a line break before the response': (_TURNS.replace(
        "{{ m.role }}\n", "{{ m.role + ('\n\n' if m.role == 'assistant' else '\n') }}") +
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}", ''),
    'an empty block before the response': (_TURNS.replace(
        "{{ m.role }}\n",
        "{{ m.role }}{% if m.role == 'assistant' %}{{ '\n<think></think>' }}{% endif %}\n") +
        "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}", ''),
    'a tag named in an instruction': (chat(turns=_TURNS.replace(
        '<|im_end|>', ' Put the answer behind <answer>.<|im_end|>')), ''),
    'a system prompt with a date': (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nThink in <think> tags. Today is "
        "{{ strftime_now('%d %B %Y') }}.<|im_end|>\n{% endif %}" + chat('<think>\n'), '<think>\n'),
    'a strict order of roles': (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles should take turns') }}{% endif %}{% endfor %}"
        + chat('<think>\n'), '<think>\n'),
    'no turn of an assistant': (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('no') }}"
        "{% endif %}{% endfor %}" + chat('<think>\n'), '<think>\n'),
    'a turn that takes parts only': (chat('<think>\n', turns=_TURNS.replace(
        '{% if m.content is string %}{{ m.content }}{% else %}', '').replace(
            '{% endfor %}{% endif %}', '{% endfor %}')), '<think>\n'),
}
"""Kind -> template, and what it opens."""

TEXT_ONLY = {
    'adds text to a list': "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + "
                           "'<|im_end|>\n' }}{% endfor %}",
    'prints the list': "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
                       "<|im_end|>\n{% endfor %}<|im_start|>assistant\n",
    'leaves lists out': "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is "
                        "string %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
                        "<|im_start|>assistant\n",
    'takes the texts only': chat(turns=_TURNS.replace(_IMAGE_ONLY, '')),
    'has another image token': chat(turns=_TURNS.replace(_IMAGE_ONLY, '<image>')),
    'has the image twice': chat(turns=_TURNS.replace(_IMAGE_ONLY, 2 * _IMAGE_ONLY)),
    'takes the image only': chat(turns=_TURNS.replace('{{ part.text }}', '')),
    'wants another role first': "{{ raise_exception('A system message comes first') }}",
}
"""What is wrong with it -> template that cannot ask about an image."""

NO_TURN = _TURNS  # ignores `add_generation_prompt`


def policy_folder(path: Path, template: str | None = None, file: str = 'chat_template.jinja',
                  **files: Any) -> str:
    """The shipped toy policy as a folder of another kind.

    Args:
        path: Is made.
        template: Of the chat; None for the toy model's.
        file: That holds it: one of those where transformers finds it.
        **files: Names of JSON files without their endings -> entries to set; None takes one out.
    """
    shutil.copytree(POLICY_WEIGHTS, path)
    if template is not None and file.endswith('.jinja'):
        (path / file).write_text(template)
    elif template is not None:
        (path / 'chat_template.jinja').unlink()
        files = {**files, file.removesuffix('.json'): dict(chat_template=template)}
    for name, entries in files.items():
        change_json(path / f'{name}.json', entries)
    return str(path)


def change_json(path: Path, entries: dict[str, Any]) -> None:
    """Set entries of a JSON file, in an inner one where they are dicts; None takes one out."""
    content = json.loads(path.read_text()) if path.exists() else {}
    for key, value in entries.items():
        if value is None:
            content.pop(key, None)
        elif isinstance(value, dict) and isinstance(content.get(key), dict):
            content[key] = {k: v for k, v in {**content[key], **value}.items() if v is not None}
        else:
            content[key] = value
    path.write_text(json.dumps(content))
