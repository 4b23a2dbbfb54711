# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
from PIL import Image

from mmdpad.visualization import plot_reliability

BINS = [dict(low=0.0, high=0.2, n=10, score=0.1, right=0.3),
        dict(low=0.8, high=1.0, n=40, score=0.9, right=0.7)]


def test_each_curve_is_drawn(tmp_path):
    first = plot_reliability({'before': BINS}, str(tmp_path / 'r.png'))
    both = plot_reliability({'before': BINS, 'after $x$': BINS[:1], 'none': []}, first)
    assert both == str(tmp_path / 'r_2.png')
    pictures = [np.asarray(Image.open(path).convert('RGB')) for path in (first, both)]
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()
