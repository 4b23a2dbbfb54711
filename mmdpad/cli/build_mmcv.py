# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""`mmdpad build-mmcv`: tools/set_up/build_mmcv.py, wherever mmdpad is installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from . import SET_UP_TOOLS


def main(argv: Sequence[str] = (), prog: str | None = None) -> None:
    """Becomes the tool, which has a process of its own, as in the set-up of a checkout."""
    tool = str(SET_UP_TOOLS / 'build_mmcv.py')
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, tool, *argv])
