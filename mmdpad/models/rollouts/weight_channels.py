# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The ways in which weights get to vLLM servers: through files, or by NCCL."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mmdpad.utils.vllm_versions import find_vllm

from .vllm_client import Server, ServerError

START = 'start it by `mmdpad serve-rollouts`'
_MEMORY = '/dev/shm'  # a folder of Linux
_PREFIX = 'mmdpad-weights-'


class WeightTransferError(RuntimeError):
    """Weights could not be sent, or a server could not take any."""


class Servers:
    """The servers of one update; those that fail are left out.

    Attributes:
        live: Those that have not failed.
        failed: What went wrong, by URL.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self.live = [*servers]
        self.failed: dict[str, str] = {}

    def each(self, step: Callable[[Server], Any]) -> list[Any]:
        """Run a step on all of them at the same time, and return its results.

        Raises:
            WeightTransferError: None is left.
        """
        with ThreadPoolExecutor(max(len(self.live), 1)) as pool:
            futures = [(server, pool.submit(step, server)) for server in self.live]
        results = []
        for server, future in futures:
            try:
                results.append(future.result())
            except ServerError as error:
                self.live.remove(server)
                self.failed[server.url] = str(error)
        if not self.live:
            raise WeightTransferError('\n'.join(self.failed.values())
                                      or '`servers` should hold at least one, but got none')
        return results


class Channel(Protocol):
    """A way in which weights get to servers."""

    def check(self, servers: Servers) -> None:
        """Find out which servers can be reached this way; the others fail."""

    def prepare(self, value: Tensor) -> Tensor:
        """Bring a weight to where it is sent from."""

    def connect(self, servers: Servers
                ) -> AbstractContextManager[Callable[[dict[str, Tensor]], None]]:
        """Yield a function that sends some weights to all servers, for one update."""


class FilesChannel:
    """Through files of safetensors, each deleted as soon as all servers have read it."""

    def __init__(self, folder: str | None, timeout: float) -> None:
        self.is_shared = folder is not None  # other machines' locks may not be seen there
        self.parent = folder or (_MEMORY if os.access(_MEMORY, os.W_OK) else tempfile.gettempdir())
        self.timeout = timeout

    def check(self, servers: Servers) -> None:
        """See :class:`Channel`."""
        with self.connect(servers):
            pass

    def prepare(self, value: Tensor) -> Tensor:
        """See :class:`Channel`."""
        return value.detach().cpu().contiguous()

    @contextmanager
    def connect(self, servers: Servers) -> Iterator[Callable[[dict[str, Tensor]], None]]:
        """See :class:`Channel`; each server says what it sees of the folder.

        Raises:
            WeightTransferError: The folder cannot be written to, or no server is left.
        """
        token = secrets.token_hex(16)
        try:
            made = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=self.parent)
        except OSError as error:
            raise self._unwritable(error) from error
        with made as folder, _locked(folder):
            Path(folder, 'probe').write_text(token)
            if not self.is_shared:
                _remove_abandoned(self.parent)
            servers.each(lambda server: self._probe(server, folder, token))
            yield lambda part: self._send(servers, Path(folder, 'part.safetensors'), part)

    def _probe(self, server: Server, folder: str, token: str) -> None:
        try:
            server.post('/init_weight_transfer_engine',
                        dict(init_info=dict(folder=folder, token=token)), timeout=self.timeout)
        except ServerError as error:
            if error.status is None:
                raise
            raise ServerError(
                server.url, f'should see the folder {folder} of this machine, but {error.what}; '
                f'set `transfer.folder` to one that the servers share, and run them as a user who '
                f'may read it', error.status) from error

    def _send(self, servers: Servers, path: Path, part: dict[str, Tensor]) -> None:
        try:
            save_file(part, path)
        except (OSError, SafetensorError) as error:
            raise self._unwritable(error) from error
        update = dict(update_info=dict(path=str(path)))
        servers.each(lambda server: server.post('/update_weights', update, timeout=self.timeout))
        path.unlink()

    def _unwritable(self, error: Exception) -> WeightTransferError:
        return WeightTransferError(f'the folder {self.parent} should take a part of the weights, '
                                   f'but {error}; set `transfer.folder` to another, or a smaller '
                                   f'`transfer.chunk_bytes`')


@contextmanager
def _locked(folder: str | Path) -> Iterator[bool]:
    """Lock a folder within the block, unless another process does; say whether that worked. The
    lock ends with the process, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            worked = True
        except OSError:  # or there are no locks
            worked = False
        yield worked
    finally:
        os.close(descriptor)


def _remove_abandoned(parent: str) -> None:
    """Remove the folders of trainers on this machine that were killed amid an update."""
    for folder in Path(parent).glob(f'{_PREFIX}*'):
        if os.access(folder / 'probe', os.W_OK):  # else it is of another user, or just being made
            with suppress(FileNotFoundError), _locked(folder) as is_abandoned:
                if is_abandoned:
                    shutil.rmtree(folder, ignore_errors=True)


class NCCLChannel:
    """From GPU to GPU, by vLLM's own classes for both sides. Not run yet: it needs GPUs.

    This process and all workers of the servers form a group. It is made anew when the servers are
    others than before, or one was started again.
    """

    def __init__(self, address: str | None, timeout: float) -> None:
        self.address = address
        self.timeout = timeout
        self.engine: Any = None
        self.link = ''
        self.urls: list[str] = []

    def check(self, servers: Servers) -> None:
        """See :class:`Channel`; nothing is connected yet.

        Raises:
            WeightTransferError: There is no GPU here, or vLLM here lacks what is needed.
        """
        instead = "set `transfer.backend='files'` here and for the servers"
        if not torch.cuda.is_available():
            raise WeightTransferError(f"`transfer.backend='nccl'` needs a GPU here, but there is "
                                      f'none; {instead}')
        try:
            from vllm.distributed.weight_transfer import WeightTransferTrainerFactory  # noqa: F401
            from vllm.distributed.weight_transfer.nccl_engine import (
                NCCLTrainerInitInfo,  # noqa: F401
            )
        except ImportError as error:
            raise WeightTransferError(f"`transfer.backend='nccl'` needs vLLM's side of a trainer, "
                                      f'but {error}; install the vLLM of the servers here too, or '
                                      f'{instead}') from error
        installed = find_vllm()
        own = installed.version if installed else 'none'

        def check_one(server: Server) -> None:
            if (theirs := read_state(server)['vllm']) != own:
                raise ServerError(server.url, f'should run the vLLM of the trainer, {own}, for '
                                  f"`transfer.backend='nccl'`, but got {theirs}; install the same, "
                                  f'or {instead}')
        servers.each(check_one)

    def prepare(self, value: Tensor) -> Tensor:
        """See :class:`Channel`."""
        return value.detach().to('cuda')

    @contextmanager
    def connect(self, servers: Servers) -> Iterator[Callable[[dict[str, Tensor]], None]]:
        """See :class:`Channel`.

        Raises:
            WeightTransferError: A server did not join in time, or left.
        """
        links = servers.each(lambda server: read_state(server)['link'])
        urls = [server.url for server in servers.live]
        if self.engine is None or urls != self.urls or {*links} != {self.link}:
            self.engine = None
            self._within_timeout(servers, lambda: self._join(servers))
            self.urls = urls
        engine, self.engine = self.engine, None  # one that failed is not used again

        def send_part(part: dict[str, Tensor]) -> None:
            engine.source = _Part(part)
            self._within_timeout(servers, engine.send_weights)
        yield send_part
        self.engine = engine

    def _join(self, servers: Servers) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        sizes = servers.each(lambda server: server.get('/get_world_size')['world_size'])
        address = self.address or _address_towards(servers.live[0].url)
        port = _free_port()
        self.link = f'{address}:{port}'
        info = NCCLTrainerInitInfo(master_address=address, master_port=port,
                                   world_size=1 + sum(sizes), rank=0)
        self.engine = WeightTransferTrainerFactory.trainer_init(
            info, client=_Fleet(servers.live, sizes, self.timeout), source=_Part({}))

    def _within_timeout(self, servers: Servers, work: Callable[[], None]) -> None:
        """NCCL itself waits for ever for a member that is gone."""
        done: Future[None] = Future()
        device = torch.cuda.current_device()

        def run() -> None:
            try:
                torch.cuda.set_device(device)
                work()
                done.set_result(None)
            except (RuntimeError, ValueError, OSError) as error:
                done.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        urls = ', '.join([*servers.failed, *(server.url for server in servers.live)])
        try:
            done.result(self.timeout)
        except (RuntimeError, ValueError, OSError, TimeoutError) as error:
            what = str(error) or f'it took more than {self.timeout:g} s'
            raise WeightTransferError(
                f'all servers should take weights by NCCL, but {what}; start them and the training '
                f'again ({urls})') from error


class _Part:
    """Some weights, as vLLM's ``WeightSource`` offers them."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights

    def metadata(self) -> list[Any]:
        from vllm.distributed.weight_transfer import ParamMeta
        return [ParamMeta(name, value.dtype, tuple(value.shape))
                for name, value in self.weights.items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.weights.items())


class _Fleet:
    """Several servers as one, for vLLM's ``VLLMWeightSyncClient``. Starting and finishing an update
    is left to :class:`.weight_transfer.WeightTransfer`, which sends many parts in between."""

    def __init__(self, servers: Sequence[Server], sizes: Sequence[int], timeout: float) -> None:
        self.servers = [*servers]
        self.timeout = timeout
        first = [1 + sum(sizes[:number]) for number in range(len(sizes))]
        self.offsets = dict(zip((server.url for server in servers), first, strict=True))

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._post('/init_weight_transfer_engine', lambda server: dict(
            init_info={**init_info, 'rank_offset': self.offsets[server.url]}))

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._post('/update_weights', lambda server: dict(update_info=update_info))

    def start_weight_update(self) -> None:
        pass

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        pass

    def _post(self, path: str, body: Callable[[Server], dict[str, Any]]) -> None:
        servers = Servers(self.servers)
        servers.each(lambda server: server.post(path, body(server), timeout=self.timeout))
        if servers.failed:  # the others wait for it
            raise WeightTransferError('\n'.join(servers.failed.values()))


def read_state(server: Server) -> dict[str, Any]:
    """Ask a server how it takes weights: ``vllm`` (its version), ``backend``, ``link`` and
    ``model`` (its configuration).

    Raises:
        ServerError: It cannot take any, or does not answer.
    """
    try:
        return server.post('/collective_rpc', dict(method='weight_update_state'))['results'][0]
    except ServerError as error:
        if error.status == 404:
            raise ServerError(server.url, 'should be in development mode, in which it takes '
                              f'weights, but is not; {START}, or with VLLM_SERVER_DEV_MODE=1',
                              404) from error
        if error.status is None:
            raise
        raise ServerError(server.url, f'should know how to take weights, but {error.what}; '
                          f'{START}', error.status) from error


def _address_towards(url: str) -> str:
    """This machine's address as the machine of ``url`` sees it; no packet is sent."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname, parts.port or 80))
        return probe.getsockname()[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('', 0))
        return probe.getsockname()[1]
