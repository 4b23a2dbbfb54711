# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Sends a policy's weights to vLLM servers, by vLLM's own phases of an update."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, broadcast_object_list, get_rank
from torch import Tensor

from mmdpad.utils.number_checks import check_number

from .vllm_client import Server, ServerError, check_timeout
from .weight_channels import (
    START,
    Channel,
    FilesChannel,
    NCCLChannel,
    Servers,
    WeightTransferError,
    read_state,
)

INCOMPLETE = 'incomplete'
"""Version of the weights of a server from the start of an update to its end. It is also paused."""
WORKER_FOLDER = Path(__file__).parent / 'vllm_worker'
"""Folder that a server should have on its PYTHONPATH."""
BACKENDS = ('files', 'nccl')
# Numbers of a model's configuration that give the shapes of its weights.
_SHAPES = ('size', 'layers', 'heads', 'depth', 'dim', 'experts')


def server_flags(backend: str = 'files') -> list[str]:
    """Make the flags of ``vllm serve`` with which a server takes weights by a backend."""
    return ['--worker-extension-cls', 'mmdpad_weight_updates.WeightUpdates',
            '--weight-transfer-config', json.dumps(dict(backend=f'mmdpad_{backend}'))]


class WeightTransfer:
    """Sends weights to servers, each of which serves either all of them or nothing.

    An update pauses a server, which ends what it was sampling, and gives its weights the version
    :data:`INCOMPLETE`. Only once all weights have arrived does it get the new version and resume.
    A server that fails meanwhile, or whose trainer dies, stays paused until a complete update.

    Args:
        backend: ``'files'``: the weights go through files in a folder that the servers see;
            ``'nccl'``: from GPU to GPU by vLLM's own backend, with the same vLLM in the trainer's
            environment.
        folder: For ``'files'``, an existing folder on a file system that all servers share. None
            for one in memory (or the temporary folder), if they run on this machine.
        chunk_bytes: Weights are sent in parts of at most this size, or one weight if it is larger.
            With ``'files'`` the folder holds one part at a time, and the sender needs host memory
            for one and the next weight. With ``'nccl'`` that is memory of its GPU.
        timeout: Seconds that a server may take for each phase or part. Other processes wait
            meanwhile: it should be less than the timeout of their process group.
        address: For ``'nccl'``, this machine's address as the servers see it. None to find it.

    Raises:
        ValueError: An argument is not one of these.
        ImportError: ``'nccl'`` without vLLM.
    """

    def __init__(self, backend: str = 'files', folder: str | None = None,
                 chunk_bytes: int = 1 << 28, timeout: float = 300.0,
                 address: str | None = None) -> None:
        if backend not in BACKENDS:
            raise ValueError(f'`transfer.backend` should be one of {BACKENDS}, but got {backend!r}')
        check_number('transfer.chunk_bytes', chunk_bytes, 'positive', lambda n: n > 0, True)
        check_timeout('transfer.timeout', timeout)
        if backend != 'files' and folder is not None:
            raise ValueError(f"`transfer.folder` is for `transfer.backend='files'`, but got "
                             f'{folder!r} for {backend!r}; remove it')
        if backend != 'nccl' and address is not None:
            raise ValueError(f"`transfer.address` is for `transfer.backend='nccl'`, but got "
                             f'{address!r} for {backend!r}; remove it')
        if backend == 'nccl' and find_spec('vllm') is None:
            raise ImportError("`transfer.backend='nccl'` needs vllm in this environment too, but "
                              "it is not installed; install the servers' version, or set "
                              "`transfer.backend='files'`")
        self.backend = backend
        self.chunk_bytes = chunk_bytes
        self.timeout = timeout
        self.channel: Channel = (FilesChannel(folder, timeout) if backend == 'files' else
                                 NCCLChannel(address, timeout))

    def check(self, servers: Sequence[Server], model: dict[str, Any] | None = None) -> None:
        """Check that all servers can take weights; none is changed. The first process asks them.

        Their version of vLLM is checked before, by :func:`.check_server`.

        Args:
            servers: One or more.
            model: The policy's configuration as a dictionary; None to accept servers of any model.

        Raises:
            WeightTransferError: Some cannot; it says why, for each.
        """
        if get_rank() == 0:
            self._check(servers, model)

    def send(self, servers: Sequence[Server], weights: Iterable[tuple[str, Tensor]],
             version: str) -> dict[str, str]:
        """Replace all weights of servers; also clears their caches.

        All processes take part, and iterate over the weights; the first one sends its own. Requests
        of all of them should have ended.

        Args:
            servers: One or more. What an earlier call left unfinished on them is dropped.
            weights: Names, as a checkpoint has them, and complete weights.
            version: Name of the weights, which ``/weight_info`` of the servers then says.

        Returns:
            What went wrong, for the URL of each server that did not take the weights. Such a server
            is no longer valid: its version is :data:`INCOMPLETE`, or it does not answer.

        Raises:
            WeightTransferError: No server took them; on all processes.
        """
        if version == INCOMPLETE:
            raise ValueError(f'`version` should be another name than {INCOMPLETE!r}')
        weights = iter(weights)
        barrier()  # nobody samples any more

        def send() -> dict[str, str]:
            try:
                return self._send(servers, weights, version)
            except WeightTransferError:
                deque(weights, maxlen=0)  # the others gather them, whatever happened
                raise

        return _on_first(send, lambda: deque(weights, maxlen=0))

    def _check(self, servers: Sequence[Server], model: dict[str, Any] | None) -> None:
        def check_one(server: Server) -> None:
            state = read_state(server)
            if state['backend'] != (wanted := f'mmdpad_{self.backend}'):
                raise ServerError(server.url, f'should take weights by the backend {wanted!r} '
                                  f'(`transfer.backend`), but got {state["backend"]!r}; {START}')
            theirs = _shapes(state['model'])
            for key, value in _shapes(model or {}).items():
                if theirs.get(key, value) != value:
                    raise ServerError(server.url, f"should serve the policy's model, but `{key}` "
                                      f'is {theirs[key]!r} there and {value!r} here; start it with '
                                      f'the folder of `policy.pretrained`')

        live = Servers(servers)
        live.each(check_one)
        self.channel.check(live)
        if live.failed:
            raise WeightTransferError('\n'.join(live.failed.values()))

    def _send(self, servers: Sequence[Server], weights: Iterator[tuple[str, Tensor]],
              version: str) -> dict[str, str]:
        def post(server: Server, path: str, **body: Any) -> Any:
            return server.post(path, body or None, timeout=self.timeout)

        def begin(server: Server) -> None:
            post(server, '/pause?mode=abort')
            post(server, '/update_weight_version', new_version=INCOMPLETE)
            post(server, '/collective_rpc', method='drop_weight_update')

        def end(server: Server) -> None:
            post(server, '/finish_weight_update')
            # All were computed with the old weights.
            if not post(server, '/reset_prefix_cache')['success']:
                raise ServerError(server.url, 'should clear its cache of prompts, but did not')
            post(server, '/reset_mm_cache')
            post(server, '/reset_encoder_cache')
            post(server, '/update_weight_version', new_version=version)
            post(server, '/resume')

        live = Servers(servers, '\nNo server is left that takes the weights; restart them, then '
                                'resume the run')
        live.each(begin)
        with self.channel.connect(live) as send_part:
            live.each(lambda server: post(server, '/start_weight_update'))
            prepared = ((name, self.channel.prepare(value)) for name, value in weights)
            for part in split(prepared, self.chunk_bytes):
                send_part(part)
                part.clear()
        live.each(end)
        return live.failed


def split(weights: Iterable[tuple[str, Tensor]], chunk_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Yield weights in parts of at most ``chunk_bytes``, or one weight; empty each after its use,
    before the next is gathered."""
    chunk: dict[str, Tensor] = {}
    size = 0
    for name, value in weights:
        if chunk and size + value.nbytes > chunk_bytes:
            yield chunk
            chunk, size = {}, 0
        chunk[name] = value
        size += value.nbytes
        del value
    if chunk:
        yield chunk


def _on_first(work: Callable[[], Any], meanwhile: Callable[[], Any]) -> Any:
    """Work on the first process, and return its result or raise its WeightTransferError on all."""
    outcome: list[Any] = [None, '']
    if get_rank() == 0:
        try:
            outcome[0] = work()
        except WeightTransferError as error:
            outcome[1] = str(error)
    else:
        meanwhile()
    broadcast_object_list(outcome)
    if outcome[1]:
        raise WeightTransferError(outcome[1])
    return outcome[0]


def _shapes(model: dict[str, Any], path: str = '') -> dict[str, Any]:
    """Collect what gives the shapes of a model's weights from its configuration. vLLM has names of
    its own for the kinds of its parts (Qwen3.5's vision tower)."""
    found: dict[str, Any] = {}
    for key, value in model.items():
        if isinstance(value, dict):
            found.update(_shapes(value, f'{path}{key}.'))
        elif (path, key) == ('', 'model_type') or type(value) is int and key.endswith(_SHAPES):
            found[path + key] = value
    return found
