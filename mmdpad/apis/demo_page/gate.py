# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Guards gradio's server: admits only the requests the page needs and bounds its folder."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_FILE = 64 * 2**20
"""Most bytes in an upload."""
MAX_BODY = 2**20
"""Most bytes in any other request, and in the part of an upload around its file."""
MOST_UPLOADS = 16
"""Uploads at the same time; further ones wait."""
_EVERY = 1.0  # seconds
_API = '/gradio_api/'
_POSTS = ('upload', 'queue/join', 'cancel', 'reset', 'run/')


class Gate:
    """ASGI middleware. Lets through only the gradio routes that the page uses, and bounds what
    they receive and store.

    Args:
        app: The app to guard.
        folder: Holds uploads and pictures; files that are already there are kept.
        most_bytes, most_files, most_seconds: Limits on the total size, number and age of later
            files; the oldest are deleted first.
    """

    def __init__(self, app: ASGIApp, folder: str | os.PathLike, most_bytes: int = 2**30,
                 most_files: int = 2000, most_seconds: float = 3600):
        self.app, self.folder = app, Path(folder)
        self.limits = most_bytes, most_files, most_seconds
        self.kept = frozenset(_paths(self.folder))
        self.uploads = asyncio.Semaphore(MOST_UPLOADS)
        self.tidied, self.lock = float('-inf'), threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        await anyio.to_thread.run_sync(self.tidy)
        method, path = scope['method'], scope['path']
        upload = method == 'POST' and path.rstrip('/') == f'{_API}upload'
        if '://' in path:
            await PlainTextResponse('Only files of this page are here.', 403)(scope, receive, send)
        elif (method not in ('GET', 'HEAD', 'OPTIONS')
              and not path.startswith(tuple(_API + name for name in _POSTS))):
            await PlainTextResponse('The page does not use this.', 404)(scope, receive, send)
        else:
            async with self.uploads if upload else nullcontext():
                with suppress(ClientDisconnect):  # a visitor who left during an upload
                    await self.app(scope, _bounded(receive, MAX_BODY + MAX_FILE * upload), send)

    def tidy(self) -> None:
        """Delete the oldest files beyond the limits, unless it has just done so."""
        with self.lock:
            if time.monotonic() - self.tidied < _EVERY:
                return
            self.tidied = time.monotonic()
            delete_oldest(set(_paths(self.folder)) - self.kept, *self.limits)


def delete_oldest(paths: Iterable[Path], most_bytes: int, most_files: int,
                  most_seconds: float) -> None:
    """Keep the newest files that fit all limits; delete the others, and folders without a file.

    A file's age is the time since its last change.
    """
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            found.append((path.stat(), path))
    found.sort(key=lambda item: item[0].st_mtime, reverse=True)
    size, number, now = 0, 0, time.time()
    for about, path in found:
        if path.is_dir():
            if now - about.st_mtime > 60:  # a new folder may be about to receive files
                with suppress(OSError):
                    path.rmdir()
            continue
        size, number = size + about.st_size, number + 1
        if size > most_bytes or number > most_files or now - about.st_mtime > most_seconds:
            path.unlink(missing_ok=True)


def _paths(folder: Path) -> Iterator[Path]:
    """All paths below; unlike `Path.rglob`, it tolerates entries that disappear meanwhile."""
    for here, folders, files in os.walk(folder):
        yield from (Path(here, name) for name in folders + files)


def _bounded(receive: Receive, most: int) -> Receive:
    """Wrap ``receive`` so that a request is refused once it exceeds ``most`` bytes."""
    async def bounded() -> Message:
        nonlocal most
        message = await receive()
        most -= len(message.get('body', b''))
        if most < 0:
            raise HTTPException(413, 'This request is too large.')
        return message
    return bounded
