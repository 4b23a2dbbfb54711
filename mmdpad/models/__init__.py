# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from . import decoders, discriminators, heads, rollouts, scorers, segmentors, selectors
from .decoders import *  # noqa: F403
from .discriminators import *  # noqa: F403
from .heads import *  # noqa: F403
from .rollouts import *  # noqa: F403
from .scorers import *  # noqa: F403
from .segmentors import *  # noqa: F403
from .selectors import *  # noqa: F403

__all__ = [*decoders.__all__, *discriminators.__all__, *heads.__all__, *rollouts.__all__,
           *scorers.__all__, *segmentors.__all__, *selectors.__all__]
