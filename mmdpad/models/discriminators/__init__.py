# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .clip_discriminator import CLIPDiscriminator
from .discriminative_reward import DiscriminativeOptions, DiscriminativeReward

__all__ = ['CLIPDiscriminator', 'DiscriminativeOptions', 'DiscriminativeReward']
