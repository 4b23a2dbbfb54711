# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Train: python tools/train.py configs/dpad/tiny_shapes.py [--work-dir D] [--resume]

Without weights or data: --dry-run lists every problem of a config, --smoke runs it on tiny models.
"""

from mmdpad.cli.train import main

if __name__ == '__main__':
    main()
