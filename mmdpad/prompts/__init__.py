# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .noun_phrase import noun_phrase
from .parser import FAILURE_REASONS, MAX_OBJECTS, follows_template, parse_response
from .solution import parse_objects_solution, parse_solution
from .template import (
    TAGS,
    TEMPLATES,
    build_messages,
    format_objects_response,
    format_response,
    normalize_question,
    well_formed,
)

__all__ = [
    'FAILURE_REASONS', 'MAX_OBJECTS', 'TAGS', 'TEMPLATES', 'build_messages', 'follows_template',
    'format_objects_response', 'format_response', 'normalize_question', 'noun_phrase',
    'parse_objects_solution', 'parse_response', 'parse_solution', 'well_formed'
]
