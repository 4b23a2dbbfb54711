# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Talks to one vLLM server over HTTP."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

_SHOWN = 500  # characters of a server's own message
_CONNECT = 10.0  # seconds for a connection, before any work is done


class ServerError(RuntimeError):
    """A server did not answer, or answered with an error.

    Args:
        url: The server.
        what: What was seen.
        status: The HTTP status of its answer; None if there was none.
    """

    def __init__(self, url: str, what: str, status: int | None = None) -> None:
        super().__init__(f'vLLM server {url} {what}')
        self.url = url
        self.what = what
        self.status = status


class Server:
    """One ``vllm serve`` process. Its methods may be called from several threads.

    Args:
        url: Such as ``http://127.0.0.1:8000``, without a path.

    Raises:
        ValueError: ``url`` is not one.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ('http', 'https') or not parts.hostname or parts.path.strip('/'):
            raise ValueError(f'`rollout_engine.urls` should hold addresses such as '
                             f"'http://127.0.0.1:8000', without a path, but got {url!r}; "
                             f'correct it')
        self.url = f'{parts.scheme}://{parts.netloc}'

    def get(self, path: str, timeout: float = 30.0) -> Any:
        """Ask for a path; see :meth:`post`."""
        return self._request('GET', path, None, timeout)

    def post(self, path: str, json: Any = None, timeout: float = 30.0) -> Any:
        """Send a request.

        Args:
            path: Such as ``/pause?mode=wait``.
            json: The body; None for none.
            timeout: Seconds to wait for the answer.

        Returns:
            The answer, decoded from JSON; None if it is empty.

        Raises:
            ServerError: There is no answer in time, it is an error, or it is not JSON.
        """
        return self._request('POST', path, json, timeout)

    def _request(self, method: str, path: str, json: Any, timeout: float) -> Any:
        import requests  # opens a socket, to see whether there is IPv6
        try:
            with requests.Session() as session:
                session.trust_env = False  # a proxy for the internet leads to no server of ours
                answer = session.request(method, self.url + path, json=json,
                                         timeout=(min(_CONNECT, timeout), timeout))
        except requests.Timeout:
            raise ServerError(self.url, f'did not answer {method} {path} within {timeout:g} s'
                              ) from None
        except requests.RequestException as error:
            raise ServerError(self.url, f'does not answer {method} {path} '
                              f'({type(error).__name__})') from error
        if not answer.ok:
            raise ServerError(self.url, f'answered {method} {path} with status '
                              f'{answer.status_code}: {answer.text[:_SHOWN]}', answer.status_code)
        if not answer.content:
            return None
        try:
            return answer.json()
        except requests.JSONDecodeError as error:
            raise ServerError(self.url, f'answered {method} {path} with something other than '
                              f'JSON: {answer.text[:_SHOWN]}', answer.status_code) from error
