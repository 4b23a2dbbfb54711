# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Import all data sets to register them; the registry imports this module."""

from . import *  # noqa: F403
