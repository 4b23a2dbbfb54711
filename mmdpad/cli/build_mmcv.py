# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""`mmdpad build-mmcv`: tools/set_up/build_mmcv.py, wherever mmdpad is installed."""

from __future__ import annotations

from collections.abc import Sequence

from . import TOOLS, become


def main(argv: Sequence[str] = (), prog: str | None = None) -> None:
    """Run the tool in place of this process, as the set-up of a checkout does."""
    become(TOOLS / 'set_up' / 'build_mmcv.py', argv)
