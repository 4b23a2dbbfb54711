# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Conversion between formats of reasoning data; the data sets themselves are the readers. Names
are imported on first use, and those in ``formats.py`` import nothing else."""

from typing import TYPE_CHECKING

from mmdpad.utils.late_exports import late_exports

if TYPE_CHECKING:
    from .formats import ONE_MASK, SOURCES, TARGETS, loading_steps, source_config
    from .polygons import polygons_from_mask
    from .records import Record, open_sources, read_records
    from .writers import WRITERS, convert

__all__ = ['ONE_MASK', 'SOURCES', 'TARGETS', 'WRITERS', 'Record', 'convert', 'loading_steps',
           'open_sources', 'polygons_from_mask', 'read_records', 'source_config']
__getattr__, __dir__ = late_exports(__name__, {
    'formats': ('ONE_MASK', 'SOURCES', 'TARGETS', 'loading_steps', 'source_config'),
    'polygons': ('polygons_from_mask',),
    'records': ('Record', 'open_sources', 'read_records'),
    'writers': ('WRITERS', 'convert'),
})
