# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Trying a config without its weights: a whole run on stand-ins, or checks without any run."""
