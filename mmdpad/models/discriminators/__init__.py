# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .clip_discriminator import CLIPDiscriminator

__all__ = ['CLIPDiscriminator']
