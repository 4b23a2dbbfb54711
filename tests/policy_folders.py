# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Folders of policies as people have them, each with what should become of it.

A case is a function that changes a copy of a plain folder. To add one, here or in a module that
`tests/test_models/test_heads/test_published_folders.py` imports:

    @case('a template without a place for the image', refused='chat_template.jinja.* image')
    def _(folder: Path) -> None:
        (folder / 'chat_template.jinja').write_text('...')

Every case is asserted for the load and for `--dry-run`, which have to agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """A folder and the verdict on it.

    Attributes:
        make: Changes a copy of the plain folder of :func:`mmdpad.testing.policy_folder
            .make_policy_folder`, in place.
        refused: A pattern that the error and the problem of the dry run hold (`re.search`); None
            where the folder is read.
        policy: Further entries of `model.policy`.
        training: Whether the verdict is that on a training, else on an evaluation.
        family: The `model_type` of the plain folder.
        same: Whether log-probabilities are those of the plain folder, to 1e-5; for what is read.
        needs: Packages without which the case is skipped.
    """

    make: Callable[[Path], None]
    refused: str | None = None
    policy: dict[str, Any] = field(default_factory=dict)
    training: bool = True
    family: str = 'qwen2_5_vl'
    same: bool = True
    needs: tuple[str, ...] = ()


CASES: dict[str, Case] = {}
"""Name -> case."""


def case(name: str, **verdict: Any) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Adds a function that changes a folder to :data:`CASES`; arguments of :class:`Case`."""
    def add(make: Callable[[Path], None]) -> Callable[[Path], None]:
        assert name not in CASES, f'two cases are called {name!r}'
        CASES[name] = Case(make, **verdict)
        return make
    return add


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding='utf-8'))


def change_json(path: Path, *dropped: str, **entries: Any) -> None:
    """Sets and drops entries of a JSON file; a file that is not there is made."""
    content = read_json(path) if path.exists() else {}
    content = {key: value for key, value in content.items() if key not in dropped} | entries
    path.write_text(json.dumps(content, indent=2), encoding='utf-8')


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Rewrites `model.safetensors`."""
    path = folder / 'model.safetensors'
    save_file(change(load_file(path)), path, metadata=dict(format='pt'))


@case('as transformers writes it')
def _(folder: Path) -> None:
    pass


@case('a leftover adapter_config.json', refused='adapter_config.json')
def _(folder: Path) -> None:
    change_json(folder / 'adapter_config.json', peft_type='LORA', r=4, base_model_name_or_path='x',
                target_modules=['q_proj'])
