# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .building import build_selector
from .consensus_selector import ConsensusSelector
from .decoder_score_selector import DecoderScoreSelector
from .discrimination_selector import DiscriminationSelector
from .likelihood_selector import LikelihoodSelector
from .oracle_selector import OracleSelector
from .selector import Asked, Selector
from .weighted_selector import WeightedSelector

__all__ = ['Asked', 'ConsensusSelector', 'DecoderScoreSelector', 'DiscriminationSelector',
           'LikelihoodSelector', 'OracleSelector', 'Selector', 'WeightedSelector',
           'build_selector']
