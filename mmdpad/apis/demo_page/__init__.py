# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A browser page: ask a question about an image, watch the reasoning, see the mask.

`mmdpad demo` (:mod:`mmdpad.cli.demo`) opens it. Only :mod:`.page` and :mod:`.gate` need gradio
and its dependencies.
"""
