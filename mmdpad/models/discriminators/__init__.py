# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .clip_discriminator import CLIPDiscriminator
from .discriminative_reward import DiscriminativeOptions, DiscriminativeReward
from .sharing import build_discriminator

__all__ = ['CLIPDiscriminator', 'DiscriminativeOptions', 'DiscriminativeReward',
           'build_discriminator']
