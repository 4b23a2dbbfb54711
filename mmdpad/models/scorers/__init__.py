# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .box_scorer import BoxScorer, GivenAnswer, ScoredObjects
from .calibration import Calibration
from .combined_scorer import CombinedScorer
from .discrimination_scorer import DiscriminationScorer
from .likelihood_scorer import LikelihoodScorer

__all__ = ['BoxScorer', 'Calibration', 'CombinedScorer', 'DiscriminationScorer', 'GivenAnswer',
           'LikelihoodScorer', 'ScoredObjects']
