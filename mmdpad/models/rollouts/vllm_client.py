# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Talks to one vLLM server over HTTP."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from packaging.version import Version
from PIL import Image

from mmdpad.models.heads.encoded_prompt import EncodedPrompt
from mmdpad.utils.number_checks import check_number

from .vllm_requests import named_images, tokens_to_expand

VERSIONS = ('0.30', '0.34')
"""vLLM from the first to below the second: 0.29 does not say which prompt it saw."""
_BY_COMMAND = '`mmdpad serve-rollouts CONFIG` does'
_LOWEST = -9999.0  # what vLLM answers for a log-probability of minus infinity or NaN
_SHOWN = 500  # characters of a server's own message
_NO_LIMIT = dict(count=999)  # what vLLM means where no limit of images is set
_CONNECT = 10.0  # seconds for a connection, before any work is done
_AT_FAULT = (400, 413, 422)  # other errors of a client tell of another program at that address


def check_timeout(name: str, seconds: float) -> float:
    """Check a setting that says how long to wait for an answer, and return it.

    Raises:
        ValueError: It is no positive, finite number.
    """
    return check_number(name, seconds, 'a positive number of seconds',
                        lambda value: 0 < value < math.inf)


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

    @property
    def refused(self) -> bool:
        """Whether the request was at fault, so that another server would refuse it, too."""
        return self.status in _AT_FAULT

    @property
    def is_non_finite(self) -> bool:
        """Whether log-probabilities were NaN, which 0.30 and 0.31 cannot write as JSON."""
        return 'not JSON compliant' in self.what


class Server:
    """One ``vllm serve`` process. Its methods may be called from several threads.

    Args:
        url: Such as ``http://127.0.0.1:8000``, without a path.

    Raises:
        ValueError: ``url`` is not one.
    """

    def __init__(self, url: str) -> None:
        problem = ValueError(f"`urls` should hold addresses such as 'http://127.0.0.1:8000', "
                             f'without a path, but got {url!r}; correct it')
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018, which raises the error of one that is no port
        except ValueError as error:
            raise problem from error
        if parts.scheme not in ('http', 'https') or not parts.hostname or (
                parts.path.strip('/') or parts.query or parts.fragment):
            raise problem
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


def find_servers(urls: Sequence[str]) -> list[Server]:
    """Make the servers at some addresses.

    Raises:
        ValueError: There is none, one is given twice, or one is no address.
    """
    servers = [Server(url) for url in ([urls] if isinstance(urls, str) else urls)]
    if len({server.url for server in servers}) < max(len(servers), 1):
        raise ValueError(f'`urls` should hold at least one address, and none twice, '
                         f'but got {urls!r}; `mmdpad serve-rollouts CONFIG` starts a server and '
                         f'prints its address')
    return servers


class Logprob(NamedTuple):
    """As vLLM's, of one token."""

    logprob: float


@dataclass
class Row:
    """One response, as vLLM's ``CompletionOutput``."""

    index: int
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]]
    finish_reason: str


class Answer(NamedTuple):
    """The responses to a prompt, as vLLM's ``RequestOutput``."""

    prompt_token_ids: list[int]
    outputs: list[Row]


def generate(server: Server, prompt: EncodedPrompt, settings: Mapping[str, Any], version: str,
             timeout: float) -> Answer:
    """Ask a server for the responses to a prompt: tokens in, tokens out.

    Args:
        server: The server.
        prompt: Its images are sent as PNG files, so exactly.
        settings: Arguments of ``vllm.SamplingParams``.
        version: Of the weights that the server should have.
        timeout: Seconds to wait for the answer.

    Raises:
        ServerError: It does not answer in time, or with something else, or has other weights.
    """
    images = [dict(type='image_url', uuid=name, url=_as_url(image))
              for name, image in named_images(prompt, version)]
    answer = server.post('/inference/v1/generate', dict(
        token_ids=tokens_to_expand(prompt), content_parts=images, return_token_ids=True,
        sampling_params={**settings, 'logit_bias': {
            str(token): bias for token, bias in settings['logit_bias'].items()}},
        cache_salt=version), timeout)
    state = server.get('/weight_info')
    try:
        if (found := state['weight_version']) != version:
            raise ServerError(server.url, f'should have the weights of version {version}, but has '
                              f'those of {found}: it was restarted, or another run uses it')
        return _read_answer(answer)
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(server.url, f'answered with something other than tokens and their '
                          f'log-probabilities ({type(error).__name__}: {error})') from error


def _as_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, 'PNG', compress_level=1)
    return 'data:image/png;base64,' + b64encode(file.getvalue()).decode()


def _read_answer(answer: Mapping[str, Any]) -> Answer:
    rows = []
    for choice in answer['choices']:
        values = [float(one['logprob']) for one in choice['logprobs']['content']]
        rows.append(Row(choice['index'], choice['token_ids'], [
            {token: Logprob(value if value > _LOWEST else float('-inf'))}
            for token, value in zip(choice['token_ids'], values, strict=True)],
            choice['finish_reason']))
        if choice['finish_reason'] not in ('stop', 'length'):
            raise ValueError(f"a response that ended by {choice['finish_reason']!r}")
    return Answer([*answer['prompt_token_ids']], rows)


def check_server(server: Server, dtype: str) -> tuple[int, int]:
    """Check that a server answers, and that it was started as sampling for training needs.

    Args:
        server: The server.
        dtype: The type that its weights should have.

    Returns:
        The maximum number of tokens in a prompt and its response, and of images in a prompt.

    Raises:
        ServerError: It does not answer, or something about it is wrong.
    """
    try:
        return _check_server(server, dtype)
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(server.url, f'should be one of vLLM, but answers otherwise '
                          f'({type(error).__name__}: {error}); correct the address') from error


def is_supported(version: str) -> bool:
    """Whether a version of vLLM can be used, see :data:`VERSIONS`."""
    first, end = map(Version, VERSIONS)
    return first <= Version(Version(version).base_version) < end


def _check_server(server: Server, dtype: str) -> tuple[int, int]:
    try:
        found = server.get('/version')['version']
    except ServerError as error:
        raise ServerError(server.url, f'{error.what}; start it by `mmdpad serve-rollouts CONFIG`, '
                          f'or correct the address in `urls`', error.status) from error
    if not is_supported(found):
        raise ServerError(server.url, f'should run vLLM from {VERSIONS[0]} to below {VERSIONS[1]}, '
                          f'but runs {found}; start it in an environment with another version')
    try:
        info = server.get('/server_info?config_format=json', 60.0)['vllm_config']
    except ServerError as error:
        if error.status != 404:
            raise
        raise ServerError(server.url, f'should let its weights be changed, but does not; start it '
                          f'with VLLM_SERVER_DEV_MODE=1, as {_BY_COMMAND}', 404) from error
    model = info['model_config']
    for name, value, wanted in _settings(info, dtype):
        if value != wanted:
            raise ServerError(server.url, f'should have `{name}` = {wanted!r}, but has '
                              f'{value!r}; start it with that, as {_BY_COMMAND}')
    try:
        server.post('/inference/v1/generate', {})
    except ServerError as error:
        if error.status in (403, 404):
            raise ServerError(server.url, f'should take and give tokens, but does not; start it '
                              f'with `--enable-scale-out`, as {_BY_COMMAND}', 404) from error
        if error.status is None:
            raise
    images = model['multimodal_config']['limit_per_prompt'].get('image', _NO_LIMIT)
    return int(model['max_model_len']), int(images['count'])


def _settings(info: Mapping[str, Any], dtype: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name of each setting that matters, its value and the value that it should have."""
    model = info['model_config']
    yield 'dtype', str(model['dtype']).removeprefix('torch.'), dtype
    yield 'logprobs_mode', model['logprobs_mode'], 'processed_logprobs'
    if info['device_config']['device'] == 'cpu':
        # It cannot take back the draw of a prompt that it has only begun.
        yield ('enable_chunked_prefill', info['scheduler_config']['enable_chunked_prefill'], False)
