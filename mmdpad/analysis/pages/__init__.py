# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""HTML pages about a run, its rollouts, or a study."""
