# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .composition import RewardComposition, build_term, write_term
from .discriminative import discriminative_reward
from .format import SegmentationFormatReward, ThinkingFormatReward
from .geometric import BoxIoUReward, BoxL1Reward, PointL1Reward, score_objects
from .length import ReasoningLengthReward, RepetitionReward
from .quantile import QuantileReward
from .reference import score_response
from .text import distinct_n, repetition

__all__ = [
    'BoxIoUReward', 'BoxL1Reward', 'ReasoningLengthReward', 'PointL1Reward', 'QuantileReward',
    'RepetitionReward', 'RewardComposition', 'SegmentationFormatReward', 'ThinkingFormatReward',
    'build_term', 'discriminative_reward', 'distinct_n', 'repetition', 'score_objects',
    'score_response', 'write_term'
]
