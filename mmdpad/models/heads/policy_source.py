# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks of a policy's folder before its weights are read, shared by the head, the converters and
dry runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig, ProcessorMixin
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

from mmdpad.models.cost.shapes import PolicyShape
from mmdpad.models.published_layout import check_layout
from mmdpad.models.sources import check_files, find_model
from mmdpad.models.weight_names import compare_names, head_problem, stored_names
from mmdpad.models.weights import from_folder

from .attention_support import SHARED_PREFIX, check_layers
from .families import find_family
from .lora import check_lora
from .processor_files import image_settings
from .quantization import (
    check_prequantized,
    check_stored,
    quantization_config,
    read_quantization,
)

EXAMPLE = 'Qwen/Qwen2.5-VL-7B-Instruct'
WEIGHTS_HINT = 'The folder should hold the weights of the model that its config.json describes'
_MARK = 'about_policy'
_BLANK = torch.zeros(3, 64, 64, dtype=torch.uint8)
_COPY = 'copy the tokenizer files from the model that this one was trained from'


def check_policy(policy: Mapping[str, Any]) -> tuple[str, Any]:
    """Check the folder and settings of a policy before its weights are read.

    Args:
        policy: ``pretrained``, ``lora``, ``quantization``, ``freeze_vision``, ``memory_budget`` and
            ``attn_implementation`` of :class:`.vlm_reasoning_head.VLMReasoningHead`.

    Returns:
        The folder or hub name, and the ``quantization_config`` for ``from_pretrained``, or None.

    Raises:
        FileNotFoundError, ValueError, ImportError: As for that class.
    """
    quantization, lora = policy.get('quantization'), policy.get('lora')
    # Refused before anything is read.
    settings = None if quantization is None else quantization_config(quantization, lora)
    source, folder = find_model('model.policy.pretrained', policy['pretrained'], EXAMPLE)
    family = find_family(source)
    check_files(source, folder)
    check_prequantized(source, quantization, lora)
    check_layout(family.model_class, source, WEIGHTS_HINT)
    config = from_folder(AutoConfig, source, WEIGHTS_HINT)
    check_layers(policy.get('attn_implementation') or SHARED_PREFIX, config, family)
    with torch.device('meta'):
        model = family.model_class(config)
    family.check_parts(model)
    if settings is not None and settings.llm_int8_skip_modules is None:
        settings.llm_int8_skip_modules = [*family.vision_modules(model), 'lm_head']
    if lora is not None:
        check_lora(family, source, lora, WEIGHTS_HINT,
                   policy.get('freeze_vision', False))
    if policy.get('memory_budget') is not None:
        PolicyShape.of(config, lora)
    if Path(source).is_dir() and (problem := head_problem(folder)):
        raise ValueError(problem)
    return source, settings


@contextmanager
def about_policy() -> Iterator[None]:
    """Mark errors within the block for :func:`is_about_policy`; their types do not change."""
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        setattr(error, _MARK, True)
        raise


def is_about_policy(error: BaseException) -> bool:
    """Whether an error is about a policy's folder, or about how it is used."""
    return getattr(error, _MARK, False)


def policy_problems(policy: Mapping[str, Any]) -> Iterator[str]:
    """Yield what :func:`check_policy` refuses, and weights that do not fit, one line each.

    Nothing is loaded. :class:`.prompt_encoder.PromptEncoder` checks the processor.
    """
    try:
        source, _ = check_policy(policy)
        model_class = find_family(source).model_class
        if read_quantization(source) is not None:
            check_stored(model_class, source, stored_names(Path(source)))
        else:
            report = compare_names(model_class, Path(source))
            if report.problems:
                yield report.refusal(WEIGHTS_HINT)
    except (OSError, ValueError, ImportError) as error:
        yield from str(error).splitlines()


def load_processor(source: str) -> ProcessorMixin:
    """Load the processor of a policy.

    Raises:
        ValueError: Its files are damaged, it does not process both text and images, its image
            processor refuses any image, or its tokens do not match the model.
    """
    _check_image_processor(source)
    processor = from_folder(AutoProcessor, source, 'The folder should hold tokenizer, processor '
                            'and chat template as they were published')
    _check_processor(source, processor)
    return processor


def _check_processor(source: str, processor: Any) -> None:
    images = getattr(processor, 'image_processor', None)
    if not (isinstance(processor, ProcessorMixin) and images
            and getattr(processor, 'tokenizer', None)):
        raise ValueError(f'{source!r} should hold a processor of text and images, but transformers '
                         f'loads it as {type(processor).__name__}; correct `processor_class` in '
                         f'{image_settings(source)[0]} and tokenizer_config.json')
    try:
        images(_BLANK, return_tensors='pt')
    except (ValueError, TypeError, KeyError) as error:
        size = {name: value for name, value in dict(images.size).items() if value is not None}
        fix = ('rename `min_pixels` and `max_pixels` in its `size` to `shortest_edge` and '
               '`longest_edge`' if size.keys() & {'min_pixels', 'max_pixels'} else 'correct it')
        raise ValueError(f'{image_settings(source)[0]} of {source!r} should describe an image '
                         f'processor, but that cannot process an image: {error} (`size` is '
                         f'{size}); {fix}') from error
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    _check_tokens(source, processor, config)


def _check_tokens(source: str, processor: Any, config: PreTrainedConfig) -> None:
    name = getattr(processor, 'image_token', None)
    own = processor.tokenizer.convert_tokens_to_ids(name) if name else None
    if own != config.image_token_id:
        raise ValueError(
            f'The tokenizer of {source!r} should have the image token {name!r} at the '
            f'`image_token_id` of config.json, {config.image_token_id}, but has it at {own}; '
            f'{_COPY}')
    size, highest = config.get_text_config().vocab_size, len(processor.tokenizer) - 1
    if highest >= size:
        raise ValueError(
            f'The tokenizer of {source!r} should have no token beyond the `vocab_size` of '
            f'config.json, {size}, but has tokens up to {highest}; {_COPY}, or enlarge the '
            f'embedding (`resize_token_embeddings`) and save the model again')


def _check_image_processor(source: str) -> None:
    """Refuse a class that transformers lacks, as in the first Qwen2.5-VL folders."""
    file, settings = image_settings(source)
    name = settings.get('image_processor_type')
    if isinstance(name, str) and get_image_processor_class_from_name(
            name.removesuffix('Fast')) is None:
        raise ValueError(
            f'`image_processor_type` in {file} of {source!r} should be a class of transformers, '
            f'but is {name!r}; '
            + ('set it to "Qwen2VLImageProcessor", which does the same' if 'Qwen' in name else
               'correct it'))
