# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""mmengine's inferencer, without the optimizers that add seconds to its import."""

from mmdpad.utils.start_up import import_mmengine

import_mmengine()

from mmengine.infer import BaseInferencer  # noqa: E402

__all__ = ['BaseInferencer']
