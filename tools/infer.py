# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Infer: python tools/infer.py photo.jpg "What keeps the rain off?" [--config C] [--weights W]"""

from mmdpad.cli.infer import main

if __name__ == '__main__':
    main()
