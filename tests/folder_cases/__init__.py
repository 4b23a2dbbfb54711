# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The cases of :mod:`policy_folders`; importing this adds them."""
from . import processors, quantized_weights, weights  # noqa: F401
