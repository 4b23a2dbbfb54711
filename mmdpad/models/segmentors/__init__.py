# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .concept_agent import ConceptAgent
from .reasoning_segmentor import ReasoningSegmentor

__all__ = ['ConceptAgent', 'ReasoningSegmentor']
