# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .answers import AnswerReward, EvidenceIoUReward, score_answer, score_evidence
from .composition import Place, RewardComposition, build_term, write_term
from .conversation import CropContainsTargetReward, TurnCostReward
from .detection import (
    CountReward,
    DetectionAPReward,
    DetectionF1Reward,
    DetectionIoUReward,
    RejectionReward,
)
from .discriminative import DISCRIMINATIVE_FORMS, discriminative_reward
from .discriminative_term import DiscriminativeOptions, DiscriminativeReward
from .format import SegmentationFormatReward, ThinkingFormatReward
from .geometric import BoxIoUReward, BoxL1Reward, PointL1Reward, score_objects
from .length import ReasoningLengthReward, RepetitionReward
from .listing import ListedReward, list_rewards
from .mask import MaskReward
from .quantile import QuantileReward
from .reference import score_response
from .sharing import build_discriminator
from .text import distinct_n, repetition

__all__ = [
    'DISCRIMINATIVE_FORMS', 'AnswerReward', 'BoxIoUReward', 'BoxL1Reward', 'CountReward',
    'CropContainsTargetReward', 'DetectionAPReward', 'DetectionF1Reward', 'DetectionIoUReward',
    'DiscriminativeOptions', 'DiscriminativeReward', 'EvidenceIoUReward', 'ListedReward',
    'MaskReward', 'Place', 'PointL1Reward', 'QuantileReward', 'ReasoningLengthReward',
    'RejectionReward', 'RepetitionReward', 'RewardComposition', 'SegmentationFormatReward',
    'ThinkingFormatReward', 'TurnCostReward', 'build_discriminator', 'build_term',
    'discriminative_reward', 'distinct_n', 'list_rewards', 'repetition', 'score_answer',
    'score_evidence', 'score_objects', 'score_response', 'write_term'
]
