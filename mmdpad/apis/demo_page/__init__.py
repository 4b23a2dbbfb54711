# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A page in the browser: a question about an image, the reasoning while it is written, the mask.

Only :mod:`.page` needs gradio, and only :func:`main` imports it.
"""

from .command_line import main

__all__ = ['main']
