# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
from PIL import Image

from mmdpad.visualization import plot_risk_coverage

POINTS = [dict(coverage=.5, risk=.2, threshold=.7), dict(coverage=1., risk=.4, threshold=None)]


def test_each_curve_is_drawn(tmp_path):
    first = plot_risk_coverage({'clip': POINTS}, str(tmp_path / 'r.png'))
    both = plot_risk_coverage({'clip': POINTS, 'sum $x$': POINTS[::-1], 'none': []}, first)
    assert both == str(tmp_path / 'r_2.png')
    pictures = [np.asarray(Image.open(path).convert('RGB')) for path in (first, both)]
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()
