# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .labels import find_clashing_labels, normalize_label
from .noun_phrase import noun_phrase
from .parser import (
    FAILURE_REASONS,
    MAX_OBJECTS,
    follows_template,
    parse_detections,
    parse_question_answer,
    parse_response,
    read_parts,
)
from .places import Place, Places, locate_detections
from .short_answers import (
    normalize_answer,
    read_choice,
    read_number,
    vqa_accuracy,
    with_choices,
)
from .solution import parse_objects_solution, parse_solution
from .template import (
    TAGS,
    TEMPLATES,
    build_messages,
    format_detections,
    format_objects_response,
    format_question_answer,
    format_response,
    format_zoom,
    normalize_question,
    well_formed,
)

__all__ = [
    'FAILURE_REASONS', 'MAX_OBJECTS', 'TAGS', 'TEMPLATES', 'Place', 'Places', 'build_messages',
    'find_clashing_labels', 'follows_template', 'format_detections', 'format_objects_response',
    'format_question_answer', 'format_response', 'format_zoom', 'locate_detections',
    'normalize_answer', 'normalize_label', 'normalize_question', 'noun_phrase',
    'parse_detections', 'parse_objects_solution', 'parse_question_answer', 'parse_response',
    'parse_solution', 'read_choice', 'read_number', 'read_parts', 'vqa_accuracy', 'well_formed',
    'with_choices'
]
