# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Samples responses on vLLM servers while the trainer may update."""

from __future__ import annotations

import inspect
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.logging import print_log
from torch.distributed.tensor import DTensor

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.encoded_prompt import EncodedPrompt
from mmdpad.models.heads.named_weights import check_handover, named_weights, weights_version
from mmdpad.models.precision import find_wrong_dtype
from mmdpad.registry import ROLLOUTS
from mmdpad.utils.number_checks import check_number

from .agreement import most_rounding
from .engine import RolloutEngine
from .sampling import Responses, Sampling, evaluating
from .vllm_client import (
    Answer,
    Server,
    ServerError,
    check_server,
    check_timeout,
    find_servers,
    generate,
)
from .vllm_requests import (
    check_prompt,
    non_finite,
    read_outputs,
    request_seed,
    sampling_settings,
)
from .weight_transfer import WeightTransfer

_DTYPES = ('float32', 'bfloat16', 'float16')  # of vLLM
_PROBE = 8
"""Tokens of the response whose log-probabilities are compared before the first rollout."""
T = TypeVar('T')


@ROLLOUTS.register_module()
class VLLMServerRollout(RolloutEngine):
    """Samples on vLLM servers, which run in environments of their own, on this machine or others.

    `mmdpad serve-rollouts CONFIG` starts one. Each process sends its prompts to the servers with
    the fewest requests in flight. Weights are sent whenever they have changed, once the requests
    that use the old ones have been answered; every answer is tied to the version of the weights
    that its server has. A server that fails is not used again: its requests go to the others, and
    if none is left, the rollout fails with what was seen of each. Draws are vLLM's own, as for
    :class:`.VLLMRollout`. Run with vLLM 0.30 and 0.32 on a CPU, not yet on a GPU.

    Args:
        urls: Addresses, such as ``['http://127.0.0.1:8000']``.
        dtype: Type of the servers' weights.
        max_requests: Maximum number of requests in flight per process and server. A request holds
            one prompt with all its responses.
        timeout: Seconds to wait for one answer; a server that takes longer is not used again.
        records_log_probs: See :class:`RolloutEngine`; not with top-k, top-p or temperature 0.
        transfer: Arguments of :class:`.WeightTransfer`.

    Raises:
        ValueError: A number is out of range, or ``dtype`` is none of vLLM's; or see
            :func:`.find_servers`.
    """

    copies_weights = True
    keeps_turns = True  # unless `enable_prefix_caching` is off
    batches_at_once = 4  # vLLM replaces samples that end itself
    samples_elsewhere = True

    def __init__(self, urls: Sequence[str], dtype: str = 'bfloat16', max_requests: int = 32,
                 timeout: float = 600.0, records_log_probs: bool = True,
                 transfer: dict | None = None) -> None:
        self.servers = find_servers(urls)
        check_number('max_requests', max_requests, 'at least 1', lambda n: n >= 1, True)
        if problem := find_wrong_dtype('dtype', dtype, _DTYPES):
            raise ValueError(problem)
        self.dtype = dtype
        self.timeout = check_timeout('timeout', timeout)
        self.records_log_probs = records_log_probs
        self.transfer = WeightTransfer(**(transfer or {}))
        self.version = ''  # of the weights that the servers have
        self.max_model_len = self.max_images = 0  # the smallest of the servers'
        self.lost: dict[str, str] = {}  # address -> why it is not used any more
        self.max_requests = max_requests
        self._is_probed = False
        self._pending: Future[Responses] | None = None
        self._change = threading.Condition()  # of `lost` and the two below
        self._in_flight: Counter[str] = Counter()
        self._turn = get_rank()

    def check_policy(self, head: VLMReasoningHead) -> None:
        """Check the servers, and whether the policy's weights can be sent to them.

        Raises:
            ValueError: See :func:`.check_handover`.
            ServerError, WeightTransferError: See :meth:`check_servers`.
        """
        check_handover(head.model)
        self.check_servers(head.model.config.to_dict())

    def check_servers(self, model: dict[str, Any]) -> None:
        """Check that all servers can be used; none is changed.

        Args:
            model: The policy's configuration, as config.json has it.

        Raises:
            ServerError: A server does not answer, or is of no use: see :func:`.check_server`.
            WeightTransferError: A server cannot take weights, or has another model.
        """
        limits, problems = [], {}
        for server in self.servers:
            try:
                limits.append(check_server(server, self.dtype))
            except ServerError as error:
                problems[server.url] = str(error)
        for others in all_gather_object(problems):  # one that only another process cannot reach
            problems.update(others)
        if problems:
            raise ServerError(', '.join(problems), 'cannot be used: '
                              + '; '.join(problems.values()))
        self.max_model_len, self.max_images = map(min, zip(*limits, strict=True))
        self.transfer.check(self.servers, model)

    def expect_conversations(self, images: int, tokens: int) -> None:
        """See :class:`RolloutEngine`."""
        if tokens > self.max_model_len or images > self.max_images:
            raise ValueError(
                f'vLLM servers should take {tokens} tokens and {images} images, those of a prompt '
                f'and a conversation, but one takes {self.max_model_len} tokens and '
                f'{self.max_images} image(s); start it by `mmdpad serve-rollouts CONFIG` with this '
                f"run's config")

    def submit(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt],
               **sampling: Any) -> Future[Responses]:
        """See :class:`RolloutEngine`; and :meth:`sample` for errors, which ``result()`` raises
        unless they concern the weights."""
        given = inspect.signature(RolloutEngine.__call__).bind(self, head, prompts, **sampling)
        given.apply_defaults()
        settings = {name: given.arguments[name] for name in Sampling._fields}
        if settings['prompt_numbers'] is None:
            settings['prompt_numbers'] = range(len(prompts))
        with torch.no_grad():
            return self._start(head, prompts, Sampling(**settings))

    def sample(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt],
               how: Sampling) -> Responses:
        """See :class:`RolloutEngine`.

        Raises:
            ServerError: A server refused a request, or none is left.
            WeightTransferError: No server took the weights.
            RuntimeError: A server built another prompt or computes other probabilities.
            ValueError: Prompts and responses have more tokens than a server takes.
            NonFiniteError: A server's logits are NaN or infinite.
        """
        return self._start(head, prompts, how).result()

    def _start(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt],
               how: Sampling) -> Future[Responses]:
        if (needed := max(map(len, prompts)) + how.max_new_tokens) > self.max_model_len:
            raise ValueError(f'vLLM servers should take at least {needed} tokens, those of a '
                             f'prompt and its response, but one takes {self.max_model_len}; start '
                             f'it with `--max-model-len {needed}`')
        if not self.holds_weights:
            self.hand_over(head)
        if not self._is_probed:
            with torch.autocast(head.device.type, enabled=False):
                for server in self._working():
                    self._probe(server, head, prompts[0])
            self._is_probed = True
        settings = sampling_settings(head, how)
        jobs = [_in_background(self._ask, number, prompt,
                               {**settings, 'seed': request_seed(how.seed, own)}, self.version)
                for number, (prompt, own) in enumerate(zip(prompts, how.prompt_numbers,
                                                           strict=True))]
        self._pending = _in_background(self._collect, jobs, self._pending, how, head)
        return self._pending

    def _collect(self, jobs: Sequence[Future[Answer]], earlier: Future[Responses] | None,
                 how: Sampling, head: VLMReasoningHead) -> Responses:
        """Wait until all requests have ended, so that weights may change, and read them."""
        wait(jobs)
        if earlier is not None:
            wait([earlier])
        return read_outputs([job.result() for job in jobs], how, head, self.records_log_probs)

    @torch.no_grad()
    def hand_over(self, head: VLMReasoningHead) -> None:
        """Send the weights if they have changed, once pending requests have been answered; all
        processes take part.

        Raises:
            ServerError: No server is left.
            WeightTransferError: No server took the weights.
        """
        version = weights_version(head.model)
        if version == self.version:
            return
        if self._pending is not None:
            wait([self._pending])
        # A server that one process has lost is used by none. No process sends before all wait.
        for lost in all_gather_object(self.lost):
            self.lost.update(lost)
        self.version = ''
        # An AMP context around the rollout must not change the weights that are sent.
        with torch.autocast(head.device.type, enabled=False):
            failed = self.transfer.send(self._working(), named_weights(head.model), version)
        for url, what in failed.items():
            self._lose(url, what)
        self.version = version

    def _probe(self, server: Server, head: VLMReasoningHead, prompt: EncodedPrompt) -> None:
        """Compare a server's log-probabilities of a short response with the policy's.

        The tokens of a prompt do not show that a server prepares images otherwise, or was started
        with another config.json. Sharded weights are not compared.
        """
        if any(isinstance(p, DTensor) for p in head.parameters()):
            return
        how = Sampling(1, 1.0, _PROBE, 1.0, 0, 0, [0])
        settings = {**sampling_settings(head, how), 'seed': 0}
        try:
            answer = generate(server, prompt, settings, self.version, self.timeout)
        except ServerError as error:
            if error.is_non_finite:
                raise non_finite('of a response', 0) from error
            if error.refused:
                raise
            self._lose(server.url, str(error))
            return
        check_prompt(0, prompt, answer.prompt_token_ids, f'vLLM server {server.url}')
        found = read_outputs([answer], how, head, True)
        with evaluating(head.model):
            expected, _ = head.log_probs([prompt], found.ids, found.mask)
        assert found.logp is not None
        distance = float((found.logp - expected)[found.mask].abs().mean())
        bound = 0.5 if self.dtype != 'float32' else most_rounding(head)
        if not distance < bound:
            raise RuntimeError(
                f'vLLM server {server.url} should sample the policy that is trained, but with its '
                f'weights its log-probabilities are off by {distance:.2g} nats on average, more '
                f'than rounding explains ({bound:g}); start it with the folder '
                f'{head.model.name_or_path}, as `mmdpad serve-rollouts CONFIG` does')

    def _working(self) -> list[Server]:
        working = [server for server in self.servers if server.url not in self.lost]
        if not working:
            raise ServerError(', '.join(self.lost), 'cannot be used any more, and no other is '
                              'left: ' + '; '.join(self.lost.values())
                              + '; restart them, then resume the run')
        return working

    def _lose(self, url: str, what: str) -> None:
        with self._change:
            is_new = url not in self.lost
            self.lost.setdefault(url, what)
            self._change.notify_all()
        if is_new:
            print_log(f'{what}. It is not used again in this run; restart it, and resume the run '
                      f'to use it', logger='current', level=logging.WARNING)

    def _ask(self, number: int, prompt: EncodedPrompt, settings: dict[str, Any],
             version: str) -> Answer:
        """Get the responses to one prompt from some server with this version of the weights."""
        while True:
            server = self._take_turn()
            try:
                answer = generate(server, prompt, settings, version, self.timeout)
            except ServerError as error:
                if error.is_non_finite:
                    raise non_finite('of a response', number) from error
                if error.refused:
                    raise
                self._lose(server.url, str(error))
                continue
            finally:
                with self._change:
                    self._in_flight[server.url] -= 1
                    self._change.notify_all()
            check_prompt(number, prompt, answer.prompt_token_ids, f'vLLM server {server.url}')
            return answer

    def _take_turn(self) -> Server:
        """Choose the server with the fewest requests in flight, the next one if several have, once
        that is fewer than ``max_requests``."""
        with self._change:
            while True:
                first = self._turn % len(self.servers)
                working = self._working()
                server = min((one for one in [*self.servers[first:], *self.servers[:first]]
                              if one in working), key=lambda one: self._in_flight[one.url])
                if self._in_flight[server.url] < self.max_requests:
                    self._turn += 1
                    self._in_flight[server.url] += 1
                    return server
                self._change.wait()


def _in_background(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """Call a function in a thread that does not keep the process alive. The future cannot be
    cancelled: whoever changes the weights waits for it."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # for whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
