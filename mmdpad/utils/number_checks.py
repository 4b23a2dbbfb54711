# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks of settings that are numbers."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any


def check_number(name: str, value: object, wanted: str, holds: Callable[[float], bool],
                 whole: bool = False) -> Any:
    """Check a setting and return it. A boolean is no number.

    Args:
        name: Its name, for the message.
        value: Its value.
        wanted: Its range in words, as after 'should be'.
        holds: Whether a number is in the range; False for NaN, as with any comparison.
        whole: Whether it should be a whole number. Configs may write 1e2, which is returned as an
            int.

    Raises:
        ValueError: It is not such a number.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not holds(float(value)):
        raise ValueError(f'`{name}` should be {wanted}, but got {value!r}; correct it')
    if whole and not float(value).is_integer():
        raise ValueError(f'`{name}` should be a whole number, but got {value!r}; correct it')
    return int(value) if whole else value
