# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The cases of :mod:`policy_folders`; importing this adds them."""
from . import (  # noqa: F401
    adapters,
    glm,
    internvl,
    layers,
    processors,
    quantized_weights,
    templates,
    weights,
)
