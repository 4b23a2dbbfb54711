# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The version, and what mmdpad needs of the packages it builds on. Imports nothing.

``setup.py``, ``tools/set_up/`` and the check in ``mmdpad/__init__.py`` all read ``REQUIRED``.
"""

__version__ = '0.1.0'

# mmcv's window is the one mmdet 3.3.0 asserts. pip cannot install it for a current torch, so
# setup.py leaves it out: `mmdpad build-mmcv` builds it.
REQUIRED = {
    'torch': '>=2.6,<3.0',  # what transformers 5.20 asks for; with an older one it knows no models
    'mmengine': '>=0.10.6,<1.0.0',  # an older one does not import beside torch 2.6
    'mmcv': '>=2.0.0rc4,<2.2.0',
    'mmdet': '>=3.2.0,<4.0.0',
    'transformers': '>=5.20.0,<6.0.0',
}
