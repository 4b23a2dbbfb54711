# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The cases of :mod:`policy_folders`; importing this adds them."""
from . import adapters, glm, processors, quantized_weights, templates, weights  # noqa: F401
