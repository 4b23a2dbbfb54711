# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""From one format of reasoning data to another; the data sets themselves are the readers."""

from .convert import WRITERS, convert
from .polygons import polygons_from_mask
from .records import (
    ONE_MASK,
    SOURCES,
    Record,
    loading_steps,
    open_sources,
    read_records,
    source_config,
)

__all__ = ['ONE_MASK', 'SOURCES', 'WRITERS', 'Record', 'convert', 'loading_steps', 'open_sources',
           'polygons_from_mask', 'read_records', 'source_config']
