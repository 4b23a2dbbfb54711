# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What vLLM is asked and answers, in this process or on a server."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.encoded_prompt import EncodedPrompt
from mmdpad.models.non_finite import NonFiniteError

from .sampling import Responses, Sampling

_NEVER = -100.0  # the strongest bias that vLLM allows


def sampling_settings(head: VLMReasoningHead, how: Sampling) -> dict[str, Any]:
    """Make the arguments of ``vllm.SamplingParams`` that all prompts share, all but the seed.

    Only the policy's own end tokens count: with ``ignore_eos``, vLLM does not stop at others of
    generation_config.json, such as a tag within a response.
    """
    if how.temperature > 0:
        draws = dict(n=how.group_size, temperature=how.temperature, top_p=how.top_p,
                     top_k=how.top_k)
    else:  # one response, which counts for the whole group
        draws = dict(n=1, temperature=0.0)
    return dict(**draws, max_tokens=how.max_new_tokens, stop_token_ids=head.end_tokens,
                ignore_eos=True, logprobs=0, detokenize=False,
                logit_bias={token: _NEVER for token in head.vision_token_ids})


def tokens_to_expand(prompt: EncodedPrompt) -> list[int]:
    """A prompt's tokens with one token for each image, which vLLM expands."""
    assert prompt.unexpanded_ids is not None
    return prompt.unexpanded_ids.tolist()


def named_images(prompt: EncodedPrompt, version: str) -> list[tuple[str, Image.Image]]:
    """A prompt's images in RGB, in the order of their tokens, each with a name that tells its
    content and the version of the weights.

    vLLM caches the vision tower's features by the image's name, even when weights change.
    """
    images = [Image.fromarray(image.cpu().permute(1, 2, 0).contiguous().numpy())
              for image in prompt.images]
    digests = [hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
               for image in images]
    return [(f'{version}-{digest}', image) for digest, image in zip(digests, images, strict=True)]


def request_seed(seed: int | Sequence[int], number: int) -> int:
    """Derive a prompt's seed in [0, 2^62); vLLM adds the response's index in its group."""
    seeds = [seed] if isinstance(seed, int) else [*seed]
    digest = hashlib.sha256(repr([*map(int, seeds), int(number)]).encode()).digest()
    return int.from_bytes(digest[:8], 'big') >> 2


def check_prompt(number: int, prompt: EncodedPrompt, seen: Sequence[int],
                 who: str = 'vLLM') -> None:
    """Raise a RuntimeError unless vLLM saw the policy's own prompt, image tokens included."""
    if prompt.input_ids.tolist() != [*seen]:
        raise RuntimeError(
            f'{who} should see the same prompt as the policy, but prompt {number} has '
            f'{len(prompt)} tokens here and {len(seen)} different ones there; check that it reads '
            f'the same processor files, and that its options keep the image as is')


def check_log_probs(outputs: Sequence[Any]) -> None:
    """Raise a :class:`NonFiniteError` if a token's log-probability is not finite: with NaN logits,
    vLLM silently chooses some token."""
    for number, output in enumerate(outputs):
        for row in output.outputs:
            for place, (token, at) in enumerate(zip(row.token_ids, row.logprobs, strict=True)):
                if not math.isfinite(at[token].logprob):
                    raise non_finite(f'of token {place + 1} of a response', number)


def non_finite(where: str, number: int) -> NonFiniteError:
    """Make the error for logits of a prompt's responses that are not finite."""
    return NonFiniteError(
        f"vLLM's logits {where} to prompt {number} of the batch are not finite. Try "
        f"`rollout_engine=dict(type='SharedPrefixRollout')`, which names the first such layer if "
        f'the policy itself is at fault; otherwise set another `rollout_engine.dtype`', number)


def read_outputs(outputs: Sequence[Any], how: Sampling, head: VLMReasoningHead,
                 records_log_probs: bool) -> Responses:
    """Convert vLLM's output to :class:`Responses`.

    Args:
        outputs: B ``RequestOutput`` of vLLM, with a ``CompletionOutput`` for each response.
        how, head: See :func:`sampling_settings`.
        records_log_probs: Whether to keep the log-probabilities, if they are those of the policy:
            not with top-k, top-p or temperature 0.

    Raises:
        NonFiniteError: A log-probability is not finite.
        RuntimeError: A response ended for another reason than an end token or its length.
    """
    check_log_probs(outputs)
    draws = how.temperature > 0
    repeats = 1 if draws else how.group_size
    rows = [row for output in outputs for row in sorted(output.outputs, key=lambda one: one.index)
            for _ in range(repeats)]
    if unknown := {row.finish_reason for row in rows} - {'stop', 'length'}:
        raise RuntimeError(f'vLLM should end a response at an end token or the length limit, but '
                           f'got {sorted(map(str, unknown))}')

    def padded(values: list[list], dtype: torch.dtype, padding: float) -> Tensor:
        return pad_sequence([torch.tensor(row, dtype=dtype) for row in values], batch_first=True,
                            padding_value=padding).to(head.device)

    tokens = [list(row.token_ids) for row in rows]
    logp = None
    if records_log_probs and draws and how.top_p == 1 and how.top_k == 0:
        logp = padded([[at[token].logprob for token, at in zip(ids, row.logprobs, strict=True)]
                       for ids, row in zip(tokens, rows, strict=True)], torch.float32, 0.0)
    return Responses(
        padded(tokens, torch.long, head.pad_token),
        padded([[True] * len(ids) for ids in tokens], torch.bool, False),
        torch.tensor([row.finish_reason == 'length' for row in rows], device=head.device), logp)
