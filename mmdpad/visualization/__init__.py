# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .answer import draw_answer, draw_grid, draw_row
from .curves import plot_curves
from .reliability_curve import plot_reliability
from .risk_coverage_curve import plot_risk_coverage

__all__ = ['draw_answer', 'draw_grid', 'draw_row', 'plot_curves', 'plot_reliability',
           'plot_risk_coverage']
