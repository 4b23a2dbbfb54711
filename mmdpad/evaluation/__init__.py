# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from . import functional, metrics
from .metrics import *  # noqa: F403

__all__ = ['functional', 'metrics', *metrics.__all__]
