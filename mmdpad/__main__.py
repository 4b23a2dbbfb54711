# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""`python -m mmdpad` is the command `mmdpad`."""

from mmdpad.cli import main

if __name__ == '__main__':
    main()
