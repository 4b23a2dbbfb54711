# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""From one format of reasoning data to another; the data sets themselves are the readers. The names
are imported when they are first used: those of ``formats.py`` bring nothing along."""

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
