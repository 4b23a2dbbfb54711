# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Transforms of the data pipeline: load, resize to the model image, compute targets, pack."""

from ..images import (
    MAX_PIXELS,
    decode_image,
    probe_image,
    probe_image_bytes,
    read_image,
    read_image_if_any,
    to_rgb,
)
from .class_questions import QuestionFromClasses
from .formatting import PackReasoningInputs
from .loading import LoadInstanceMasks, LoadReasoningImage, LoadReasonSegMask
from .model_image import ModelImageResize, TargetsFromBoxes, TargetsFromMask
from .probing import ProbeReasoningImage, pixel_limit, without_pixels
from .questions import QuestionFromExpression, QuestionFromLabel, QuestionFromPhrase
from .response import ComposeResponse
from .solution_targets import TargetsFromSolution
from .text_prompt import QuestionFromTextPrompt

__all__ = [
    'MAX_PIXELS', 'ComposeResponse', 'LoadInstanceMasks', 'LoadReasonSegMask', 'LoadReasoningImage',
    'ModelImageResize', 'PackReasoningInputs', 'ProbeReasoningImage', 'QuestionFromClasses',
    'QuestionFromExpression', 'QuestionFromLabel', 'QuestionFromPhrase', 'QuestionFromTextPrompt',
    'TargetsFromBoxes', 'TargetsFromMask', 'TargetsFromSolution', 'decode_image', 'pixel_limit',
    'probe_image', 'probe_image_bytes', 'read_image', 'read_image_if_any', 'to_rgb',
    'without_pixels'
]
