# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The complete system as a toy: synthetic scenes of shapes (`shapes_world`), and a tiny policy,
CLIP and SAM with their weights, which `python tools/toy/make_all.py` trains from scratch."""
from pathlib import Path

WEIGHTS_DIR = Path(__file__).parent / 'weights'
POLICY_WEIGHTS = str(WEIGHTS_DIR / 'policy')
CLIP_WEIGHTS = f'local-dir:{WEIGHTS_DIR / "clip"}'
SAM_WEIGHTS = str(WEIGHTS_DIR / 'sam' / 'sam_shapes.pth')

__all__ = ['CLIP_WEIGHTS', 'POLICY_WEIGHTS', 'SAM_WEIGHTS', 'WEIGHTS_DIR']
