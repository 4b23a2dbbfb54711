# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Sentences about keys and values that a class refuses."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmdpad.models.weights import first_line
from mmdpad.utils import renamed

from .signatures import GIVEN

# Errors that classes raise for wrong settings.
REFUSALS = (TypeError, ValueError, LookupError, AttributeError, AssertionError)
# mmengine takes `_delete_` out only where an inherited dict is replaced.
NOTHING_TO_DELETE = ('remove it, since there is no inherited dict for it to delete (in the pure '
                      'Python style, assign a new dict instead)')


def describe_refusal(path: str, entry: Mapping[str, Any], error: BaseException) -> str:
    """The key of a config entry and the message of the error that a class raised for it."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    line = re.sub(r'^class `\w+` in \S+: ', '', first_line(Exception(text)))
    named = re.match(r'`([\w.]+)` ', line)
    if named and named[1].partition('.')[0] in entry:
        return f'`{path}.{line[1:]}'
    return f'`{path}`: {line}'


def unknown_keys(given: Iterable[str], known: Iterable[str], path: str, taker: str,
                 kind: str = 'argument') -> Iterator[str]:
    """Yield a sentence for each unknown key that lists the known ones. ``kind`` is that of an old
    name in :mod:`mmdpad.utils.renamed`."""
    known = set(known)
    for name in sorted(set(given) - known, key=str):
        close = difflib.get_close_matches(str(name), sorted(known), n=1)
        advice = renamed.advice(kind, name) or (
            NOTHING_TO_DELETE if name == '_delete_' else
            f'did you mean `{close[0]}`?' if close else 'correct or remove it')
        yield (f'`{path}.{name}`: {taker} takes no argument {name!r}, but '
               f'{", ".join(sorted(known - GIVEN))}; {advice}')
