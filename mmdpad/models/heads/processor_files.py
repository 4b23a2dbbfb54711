# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Which of a folder's files transformers reads a processor from, where several could be meant."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from transformers import ProcessorMixin

from mmdpad.models.sources import find_folder, read_json

PROCESSOR = 'processor_config.json'
IMAGES = 'preprocessor_config.json'
TOKENIZER = 'tokenizer.json'
# Where transformers looks for a processor's chat template, by precedence -> its key; None if it is
# the whole file.
_TEMPLATES = {PROCESSOR: 'chat_template', 'chat_template.json': None, 'chat_template.jinja': None,
              'tokenizer_config.json': 'chat_template'}
_CONFIG = 'tokenizer_config.json'  # its template is not used for images
# Steps before the vocabulary. Since transformers 5, a class such as Qwen2Tokenizer has its own.
_STEPS = ('normalizer', 'pre_tokenizer')


class FileReport(NamedTuple):
    """The files of a processor.

    Attributes:
        text: Which files are read and which are hidden by others, in one line.
        changes_tokens: Whether the tokenizer differs from its file.
    """

    text: str
    changes_tokens: bool


def image_settings(source: str) -> tuple[str, Mapping[str, Any]]:
    """Return the file that describes the image processor, and its settings.

    Since transformers 5, an entry in processor_config.json takes precedence over
    preprocessor_config.json.
    """
    nested = read_json(source, PROCESSOR).get('image_processor')
    if isinstance(nested, dict):
        return PROCESSOR, nested
    return IMAGES, read_json(source, IMAGES)


def template_files(source: str) -> list[str]:
    """List the files with a chat template, the one that is read first."""
    if not (folder := find_folder(source)):
        return []
    return [name for name, entry in _TEMPLATES.items() if (folder / name).is_file()
            and (entry is None or read_json(source, name).get(entry))]


def describe_files(source: str, processor: ProcessorMixin) -> FileReport:
    """Describe the files that a processor was read from.

    Args:
        source: Folder or hub name.
        processor: Its processor, as transformers loads it.
    """
    name, settings = image_settings(source)
    images = f'the image processor is that of {name}'
    if name == PROCESSOR and (hidden := read_json(source, IMAGES)):
        other = sorted(key for key in hidden.keys() & settings.keys()
                       if hidden[key] != settings[key])
        differs = f', although it has another {", ".join(other)}' if other else ''
        images += f' ({IMAGES} is not read{differs})'
    tokenizer = f'the tokenizer that of {TOKENIZER}'
    stored = _read_steps(source)
    if not stored:
        tokenizer = 'the tokenizer that of vocab.json and merges.txt'
    changed = _changed_steps(stored, processor)
    if changed:
        kind = type(getattr(processor, 'tokenizer', None)).__name__
        named = str(read_json(source, _CONFIG).get('tokenizer_class')).removesuffix('Fast') == kind
        tokenizer += (f', but with the {" and ".join(changed)} of {kind}, so that it may split '
                      f'texts into other tokens (' + (
                          f'to keep those of the file, set `tokenizer_class` in {_CONFIG} to '
                          f'"PreTrainedTokenizerFast")' if named else
                          f'transformers chooses it by the `model_type`, not by {_CONFIG})'))
    templates = [name for name in template_files(source) if name != _CONFIG]
    template = f'the chat template that of {templates[0]}' if templates else ''
    if templates[1:]:
        template += f' ({" and ".join(templates[1:])} not read)'
    return FileReport('; '.join(filter(None, [images, tokenizer, template])), bool(changed))


def _read_steps(source: str) -> dict[str, Any]:
    """Read tokenizer.json, if possible without the vocabulary, which takes most of a second."""
    folder = find_folder(source)
    if folder is None or not (folder / TOKENIZER).is_file():
        return {}
    text, _, _ = (folder / TOKENIZER).read_text(encoding='utf-8').partition('\n  "model": {')
    with suppress(ValueError):
        return json.loads(f'{text.rstrip().removesuffix(",")}\n}}')
    return read_json(source, TOKENIZER)


def _changed_steps(stored: Mapping[str, Any], processor: Any) -> list[str]:
    """List the steps of tokenizer.json that the class of the tokenizer replaces by its own."""
    backend = getattr(processor.tokenizer, 'backend_tokenizer', None)
    if not stored or backend is None:
        return []
    empty: dict[str, Any] = dict(
        version='1.0', truncation=None, padding=None, added_tokens=[], decoder=None,
        post_processor=None, model=dict(type='BPE', vocab={}, merges=[]))
    given = Tokenizer.from_str(json.dumps(empty | {step: stored.get(step) for step in _STEPS}))
    return [step for step in _STEPS
            if _state(getattr(given, step)) != _state(getattr(backend, step))]


def _state(step: Any) -> str:
    """A step as JSON, without what only changes the offsets of tokens."""
    if step is None:
        return ''
    return re.sub(r',?"trim_offsets":(true|false)', '', step.__getstate__().decode())
