# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Studies, comparisons and checks behind tools/analysis_tools/, and their pages."""
