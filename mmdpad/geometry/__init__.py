# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Plain functions on boxes, points and masks: frames, distances, overlap and targets."""
