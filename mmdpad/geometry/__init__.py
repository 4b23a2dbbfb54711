# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Boxes, points and masks as plain functions: which frame, what counts as inside, what overlaps."""
