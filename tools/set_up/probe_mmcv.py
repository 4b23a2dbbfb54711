# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks whether mmcv's operators load and work; run in a separate process, which they may crash.

    python -X faulthandler tools/set_up/probe_mmcv.py [cpu | cuda]

Prints the CUDA version that the operators were built with, or 'not available'.
"""

import sys

import torch
from mmcv.ops import get_compiling_cuda_version, nms

device = sys.argv[1] if len(sys.argv) > 1 else 'cpu'
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.]], device=device)
_, kept = nms(boxes, torch.tensor([.9, .8], device=device), 0.5)
assert kept.tolist() == [0], kept
print(get_compiling_cuda_version())
