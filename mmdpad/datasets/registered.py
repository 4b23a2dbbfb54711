# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Imports all data sets, which registers them: where the registry looks."""

from . import *  # noqa: F403
