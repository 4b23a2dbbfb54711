# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What goes into a page that needs no other file: text that stays text, and pictures."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from .text_panel import printable


def safe(value: Any) -> str:
    """Any text, model text too, escaped and with its control characters replaced."""
    return escape(printable(str(value)))


def data_url(data: bytes, kind: str) -> str:
    """A picture file's content as an address; ``kind`` is 'png' or 'jpeg'."""
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


def as_jpeg(image: np.ndarray, longest: int) -> bytes:
    """An image (H, W, 3) uint8 RGB as JPEG, made smaller if a side has more than ``longest``
    pixels."""
    picture = Image.fromarray(image)
    picture.thumbnail((longest, longest))
    buffer = io.BytesIO()
    picture.save(buffer, format='JPEG', quality=80)
    return buffer.getvalue()
