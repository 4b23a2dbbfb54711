# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The cases of :mod:`policy_folders`; importing this adds them."""
from . import adapters, layers, processors, quantized_weights, templates, weights  # noqa: F401
