# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from . import metrics
from .metrics import *  # noqa: F403

__all__ = ['metrics', *metrics.__all__]
