# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A page in the browser: a question about an image, the reasoning while it is written, the mask.

`mmdpad demo` (:mod:`mmdpad.cli.demo`) opens it. Only :mod:`.page` and :mod:`.gate` need gradio and
what comes with it.
"""
