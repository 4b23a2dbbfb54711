# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The demo page: python tools/web_demo.py [CONFIG] [--weights FILE]; docs/demo_page.md."""

from mmdpad.cli.demo import main

if __name__ == '__main__':
    main()
