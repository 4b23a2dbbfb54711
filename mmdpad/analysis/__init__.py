# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What tools/analysis_tools/ compute: studies, comparisons, checks, and their pages."""
