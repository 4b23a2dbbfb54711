# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Parametrized tests of which the default suite runs a few cases, the most different ones."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(values: Iterable[Any], fast: Iterable[Any]) -> list[Any]:
    """Marks all cases as slow but a few.

    Args:
        values: The cases of `pytest.mark.parametrize`; a tuple is one value for each argument.
        fast: Those that stay in the default suite, each one of `values`.
    """
    values, fast = list(values), list(fast)
    unknown = [value for value in fast if value not in values]
    assert not unknown, f'`fast` should be among the cases, but got {unknown}'
    return [value if value in fast else pytest.param(
        *(value if isinstance(value, tuple) else (value, )), marks=pytest.mark.slow)
        for value in values]
