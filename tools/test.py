# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Evaluate: python tools/test.py CONFIG [CHECKPOINT] [--resume]; without a checkpoint, the start
policy."""

from mmdpad.cli.test import main

if __name__ == '__main__':
    main()
