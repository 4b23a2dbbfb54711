# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks that a folder's weights fit the model in its config.json, without reading them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

from .folder_files import read_header, weight_files
from .weights import LoadReport, first_line, load_safe

_ROWS = 4096


def compare_names(model_class: type[PreTrainedModel], folder: Path) -> LoadReport:
    """Load a folder's tensors on the meta device with transformers, and report what does not fit.

    Args:
        model_class: A class of transformers.
        folder: A complete folder, see :func:`.folder_files.file_problems`, whose weights are not
            quantized.

    Raises:
        ValueError: A file is damaged, or asks for code.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    state = {name: torch.empty(value.shape, device='meta')
             for path in weight_files(folder) for name, value in _outlines(path).items()}
    with _silence():
        model, info = cast(Any, model_class).from_pretrained(
            None, config=config, state_dict=state, device_map='meta', output_loading_info=True,
            ignore_mismatched_sizes=True)
    return LoadReport.of_loading(model, info, str(folder))


def stored_names(folder: Path) -> list[str]:
    """List the names of all tensors in a folder.

    Raises:
        ValueError: A file is damaged, or asks for code.
    """
    return [name for path in weight_files(folder) for name in _outlines(path)]


def head_problem(folder: Path) -> str | None:
    """Report a stored output head that differs from the embedding that config.json ties it to.

    transformers 5 loads such a head; earlier versions ignored it.

    Returns:
        The problem, or None if there is no such head.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if not getattr(config, 'tie_word_embeddings', False):
        return None
    values: dict[str, Any] = {}
    for path in weight_files(folder):
        for name in _outlines(path):
            if name.endswith(('lm_head.weight', 'embed_tokens.weight')):
                values[name.split('.')[-2]] = (path, name)
    if len(values) < 2 or _equal(*values.values()):
        return None
    path, name = values['lm_head']
    return (f'{folder / "config.json"} ties the output head to the embedding '
            f'(`tie_word_embeddings`), but {name!r} in {path.name} has different values; to use '
            f'them, set `tie_word_embeddings` to false, also in `text_config`; otherwise remove '
            f'them from the file')


def _outlines(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file on the meta device."""
    if path.suffix == '.safetensors':
        try:
            return {name: torch.empty(entry['shape'], device='meta')
                    for name, entry in read_header(path).items()}
        except ValueError as error:
            raise ValueError(f'{path} {first_line(error)}; download it again') from error
    state = load_safe(str(path), 'meta')
    if not (isinstance(state, Mapping) and all(isinstance(v, Tensor) for v in state.values())):
        raise ValueError(f'{path} should map names to tensors, but holds '
                         f'{type(state).__name__}; save the `state_dict` alone')
    return dict(state)


def _equal(one: tuple[Path, str], other: tuple[Path, str]) -> bool:
    return all(a.equal(b) for a, b in zip(_parts(*one), _parts(*other), strict=True))


def _parts(path: Path, name: str) -> Iterator[Tensor]:
    if path.suffix == '.safetensors':
        with safe_open(path, 'pt') as file:
            value = file.get_slice(name)
            for start in range(0, value.get_shape()[0], _ROWS):
                yield value[start:start + _ROWS]
    else:
        yield from load_safe(str(path))[name].split(_ROWS)


@contextmanager
def _silence() -> Iterator[None]:
    """Silence transformers' own report of what does not fit, since we print one."""
    before = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
