# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The policy: a vision-language model that answers questions about images.

Notation: B prompts, G responses to each, N = B * G (prompt-major), P prompt tokens, R response
tokens (right-padded).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import repeat
from typing import Any, Literal

import torch
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, ProcessorMixin

from mmdpad.models.free_memory import free_memory
from mmdpad.models.mapped_weights import load_mapped
from mmdpad.models.non_finite import DTYPE_KEY, NonFiniteError, diagnose
from mmdpad.models.precision import read_dtype
from mmdpad.prompts import build_messages, well_formed
from mmdpad.registry import MODELS
from mmdpad.structures import fill

from . import replicated_prefix, shared_prefix, vision_tower
from .adapter_reach import describe_reach
from .attention_support import check_attention
from .encoded_prompt import EncodedPrompt, Replies, parts_of
from .experts import set_experts
from .families import find_family
from .lora import SCALING, adapter_off, adapter_scaling, add_lora
from .policy_source import WEIGHTS_HINT, about_policy, check_policy
from .processor_files import describe_files
from .prompt_encoder import PromptEncoder, check_max_prompt_tokens
from .quantization import (
    check_loaded,
    check_trainable,
    describe_quantization,
    keep_trainable,
    prequantized_config,
)
from .recomputation import MemoryBudget, check_memory_budget
from .recurrent_layers import has_recurrence, share_states
from .token_log_probs import token_log_probs

CPU_PATCHES = 2048
"""Patches that go through the vision tower at a time on a CPU, whose cache holds those of a small
tower."""


@MODELS.register_module()
class VLMReasoningHead(BaseModule):
    """A vision-language model with its own processor: encodes prompts, and computes
    log-probabilities of responses.

    The ``model_type`` in the config.json of ``pretrained`` determines its family
    (:mod:`.families`).

    Args:
        pretrained: A local folder in Hugging Face format, or a hub name (``Qwen/...``), see
            :func:`mmdpad.models.sources.is_hub_name`.
        prompt_template: See :func:`mmdpad.prompts.build_messages`.
        dtype: Type of the weights, one of :data:`mmdpad.models.precision.DTYPES`: ``'float32'``
            (master weights; use an AMP optimizer wrapper for bfloat16 arithmetic), ``'bfloat16'``
            or ``'float16'`` under an adapter and for evaluation, ``'float64'`` to check numbers.
        attn_implementation: 'shared_prefix' computes prompt and image once for all G responses
            (:mod:`.shared_prefix`), and all windows of one length at once in the vision tower
            (:mod:`.vision_tower`). With one of transformers' own ('sdpa', 'eager',
            'flash_attention_2'), the text part computes them once per response
            (:mod:`.replicated_prefix`), and the tower is transformers'; the results are the same.
            'shared_prefix' needs layers of the kinds in the family's ``shared_layers``.
        freeze_vision: Freeze the vision tower, and a projector if there is one behind it.
        gradient_checkpointing: Recompute activations in the backward pass.
        memory_budget: Recompute activations only as far as an update would otherwise take more than
            this many GB (10^9 bytes) for activations, logits and gradients, whatever
            ``gradient_checkpointing`` says; 'auto': as the device has left at the first update
            (:class:`.MemoryBudget`). What is recomputed does not change the results.
        max_prompt_tokens: Longer prompts (image tokens included) are an error.
        lora: Train a low-rank adapter instead of the weights, for example ``dict(r=16,
            lora_alpha=32)``: arguments of ``peft.LoraConfig``, see :func:`.lora.add_lora`. By
            default it adapts the linear layers of the language model's attention and MLP; with
            ``target_modules='language_and_vision'`` also those of the vision tower's blocks.
            Needs ``pip install "mmdpad[lora]"``.
        quantization: With ``lora``, keep the language model's linear weights in 4 or 8 bits
            (QLoRA, arXiv 2305.14314), for example ``dict(load_in_4bit=True)``: arguments of
            ``transformers.BitsAndBytesConfig``, see :func:`.quantization.quantization_config`.
            Needs ``pip install "mmdpad[qlora]"``.
        coordinates: The coordinates that the prompt asks for and that responses are parsed in, one
            of :data:`mmdpad.geometry.coordinates.COORDINATES`; None for its family's. Set it for a
            model that was trained to write others.
        low_precision_training: Allow training 16-bit weights, which is an error otherwise. Only for
            optimizers that compensate for the rounding, by stochastic rounding, compensated sums
            or their own float32 copies.

    Attributes:
        coordinates, low_precision_training: As above; the coordinates are never None.
        end_tokens: Tokens that end a response, see :class:`.ResponseCodec`.
        pad_token: Padding after a response's end.
        adapter_keys: Names of the adapter's weights in this module's state; empty without one.
        is_recurrent: Whether layers carry a recurrent state through the shared prefix
            (:mod:`.recurrent_layers`).
        vision_is_fixed: Whether features of images never change (frozen, or without an adapter).

    Raises:
        FileNotFoundError: ``pretrained`` looks like a path and does not exist, or lacks
            config.json.
        ValueError: The family is unknown, the weights do not fit the model (missing or unexpected
            keys, shapes), the attention does not handle its layers, or an argument is wrong.
        ImportError: A package that an argument needs is not installed.
    """

    def __init__(self,
                 pretrained: str,
                 prompt_template: str = 'default',
                 dtype: str = 'float32',
                 attn_implementation: str = shared_prefix.NAME,
                 freeze_vision: bool = False,
                 gradient_checkpointing: bool = False,
                 max_prompt_tokens: int = 1300,
                 lora: dict | None = None,
                 quantization: dict | None = None,
                 coordinates: str | None = None,
                 low_precision_training: bool = False,
                 memory_budget: float | Literal['auto'] | None = None) -> None:
        super().__init__()
        check_memory_budget(memory_budget)
        check_max_prompt_tokens(max_prompt_tokens)
        self.low_precision_training = low_precision_training
        build_messages('', prompt_template, coordinates or 'pixels')
        check_attention(attn_implementation, dtype)
        with about_policy():
            source, settings = check_policy(dict(pretrained=pretrained, lora=lora,
                                                 quantization=quantization,
                                                 freeze_vision=freeze_vision,
                                                 memory_budget=memory_budget,
                                                 attn_implementation=attn_implementation))
            self.source, self.lora = source, lora
            self.family = find_family(source)
            self.coordinates = coordinates or self.family.coordinates
            self.encoder = PromptEncoder(source, prompt_template, max_prompt_tokens,
                                         self.coordinates)
        self.end_tokens = self.encoder.responses.end_tokens
        self.pad_token = self.encoder.responses.pad_token
        print_log(f'{source!r}: {self.encoder.responses.describe()}', logger='current')
        files = describe_files(source, self.processor)
        print_log(f'{source!r}: {files.text}', logger='current',
                  level=logging.WARNING if files.changes_tokens else logging.INFO)
        if settings is not None:
            print_log(f'{source!r}: ' + describe_quantization(self.family.model_class, source,
                                                              settings, dtype), logger='current')
        self.model = self._load_model(source, dtype, quantization_config=settings,
                                      config=prequantized_config(source))
        if getattr(self.model, 'is_quantized', False):
            check_loaded(self.model, source)
            keep_trainable(self.model)
        shares = attn_implementation == shared_prefix.NAME
        self._response_states = (shared_prefix if shares else replicated_prefix).response_states
        tower = self.family.tower(self.model)
        self.model.set_attn_implementation(
            {'text_config': attn_implementation,
             'vision_config': 'sdpa' if shares else attn_implementation})
        set_experts(self.model)
        if shares:
            vision_tower.speed_up(tower)
            share_states(self.family.language(self.model))
        self.is_recurrent = shares and has_recurrence(self.model)
        if freeze_vision:
            for parameter in self.family.vision_parameters(self.model):
                parameter.requires_grad_(False)
        self.adapter_keys: frozenset[str] = frozenset()
        if lora is not None:
            add_lora(self.model, lora)
            self.adapter_keys = frozenset(
                name for name, p in self.named_parameters() if p.requires_grad)
            # Saved in checkpoints, since names and shapes do not depend on the scaling.
            self.register_buffer(SCALING, adapter_scaling(self.model))
            print_log(describe_reach(self.model), logger='current')
        self.vision_is_fixed = not any(
            p.requires_grad for p in self.family.vision_parameters(self.model))
        if gradient_checkpointing:
            # The first is the new name of the second.
            enable = getattr(self.model, 'activation_checkpointing_enable',
                             self.model.gradient_checkpointing_enable)
            enable({'use_reentrant': False})
        self.memory_budget = None if memory_budget is None else MemoryBudget(
            self.model, memory_budget, lora, getattr(self.model, 'is_quantized', False),
            self.vision_is_fixed, attn_implementation)

    def init_weights(self) -> None:
        """Do nothing, since the weights are loaded. (mmengine calls this before training.)"""

    def check_trainable(self) -> None:
        """Check that the weights can be trained.

        Raises:
            ValueError: The weights in ``pretrained`` are quantized, and there is no ``lora``; or
                ``memory_budget`` is 'auto', and what the device has left is unknown.
        """
        check_trainable(self.source, self.lora)
        if self.memory_budget is not None and self.memory_budget.bytes is None:
            free_memory(self.device)

    @property
    def processor(self) -> ProcessorMixin:
        return self.encoder.processor

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def has_adapter(self) -> bool:
        return bool(self.adapter_keys)

    def adapter_off(self) -> AbstractContextManager[None]:
        """A context in which the model has the weights of ``pretrained``, without its adapter."""
        return adapter_off(self.model)

    @property
    def vision_token_ids(self) -> list[int]:
        """Tokens that represent images or videos. A response may not contain them, since the model
        would take them for another image."""
        ids = (getattr(self.model.config, name, None) for name in self.family.vision_tokens)
        return sorted({number for number in ids if number is not None})

    def encode_prompts(self, images: Sequence[Tensor],
                       questions: Sequence[str],
                       tasks: Sequence[str | None] | None = None) -> list[EncodedPrompt]:
        """Encode B prompts as tokens and pixels, see :class:`PromptEncoder`.

        Args:
            images: B uint8 tensors (3, h, w), RGB, the model images.
            questions: B normalized questions.
            tasks: B names of their tasks, None for the first; None if all are of the first.

        Raises:
            ValueError: A task is unknown, the processor would resize an image, or a prompt is
                longer than ``max_prompt_tokens``.
        """
        tasks = [None] * len(questions) if tasks is None else tasks
        return [self.encoder(*asked) for asked in zip(images, questions, tasks, strict=True)]

    def encode_images(self, prompts: Sequence[EncodedPrompt]) -> list[EncodedPrompt]:
        """Encode the images of B prompts by the vision tower, all in one call; without gradients on
        a CPU, in calls of up to :data:`CPU_PATCHES` if it is not sharded.

        If the tower is not trained, it encodes each image once: the features are stored in the
        given prompts, or in the parts of a started conversation.
        """
        new = [part for part in parts_of(prompts) if part.vision is None]
        if self.vision_is_fixed:  # conversations of a group share a part
            new = list({id(part): part for part in new}.values())
        if not new:
            return list(prompts)
        trains, batches = torch.is_grad_enabled() and not self.vision_is_fixed, [new]
        # Processes that share a sharded tower call it equally often, whatever each has to encode.
        is_sharded = any(isinstance(module, FSDPModule) for module in self.model.modules())
        if not trains and self.device.type == 'cpu' and not is_sharded:
            sizes = [self.family.patches(self.model, part) for part in new]
            batches = [new[some.start:some.stop] for some in fill(sizes, CPU_PATCHES)]
        with torch.set_grad_enabled(trains):
            seen = iter([features for batch in batches
                         for features in self.family.encode_images(self.model, batch)])
        if self.vision_is_fixed:
            for part in new:
                part.vision = next(seen)
            return list(prompts)
        return [prompt.with_vision(seen) for prompt in prompts]

    def encode_responses(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode N SFT targets as the tokens after a prompt, each with an end token, without the
        tag that the chat template opens, which is in the prompt.

        Returns:
            (N, R) long token ids, right-padded, and (N, R) bool, True for a response's tokens.

        Raises:
            ValueError: See :meth:`.ResponseCodec.encode`.
        """
        rows = [torch.tensor(self.encoder.responses.encode(text, self.vision_token_ids))
                for text in texts]
        mask = pad_sequence([torch.ones_like(row).bool() for row in rows], batch_first=True)
        return pad_sequence(rows, batch_first=True, padding_value=self.pad_token), mask

    def decode(self, response_ids: Tensor) -> list[str]:
        """Decode (N, R) token ids, see :class:`.ResponseCodec`: with the tag that the chat template
        opens, without end, padding and special tokens."""
        return self.encoder.responses.decode(response_ids.tolist())

    def count_tokens(self, text: str | None) -> int | None:
        """Count the tokens of a text, without special tokens; None for None."""
        if text is None:
            return None
        return len(self.processor.tokenizer(well_formed(text),
                                            add_special_tokens=False)['input_ids'])

    def log_probs(self, prompts: Sequence[EncodedPrompt], response_ids: Tensor,
                  response_mask: Tensor, temperature: float = 1.0,
                  replies: Replies | None = None,
                  entropy: str | None = None) -> tuple[Tensor, Tensor | None]:
        """Compute log-probabilities of responses under softmax(logits / temperature).

        Each image is encoded once. Vision tokens have probability 0, as in sampling.

        Args:
            prompts: B prompts.
            response_ids: (N, R) long; N a multiple of B, prompt-major.
            response_mask: (N, R) bool, True for the tokens that the policy chose. Those before the
                last of them are replies in a conversation, those after it are padding.
            temperature: The sampling temperature.
            replies: N lists of the replies with images, in order; None if there are none.
            entropy: 'grad' or 'no_grad' to also return the entropy of each token's distribution,
                with or without gradients.

        Returns:
            (N, R) float32 log-probabilities (float64 for a float64 model), and the entropies in
            nats (N, R), or None; 0 where the mask is False.
        """
        ids, mask = response_ids.to(self.device), response_mask.to(self.device)
        if self.memory_budget is not None and self.training and torch.is_grad_enabled():
            self.memory_budget.apply(self.model, prompts, mask, entropy, self._response_states
                                     is shared_prefix.response_states, replies or ())
        further = [reply for own in replies or () for reply in own]
        encoded = self.encode_images([*prompts, *further])
        rest = iter(encoded[len(prompts):])
        states = self._response_states(
            self.model, encoded[:len(prompts)], ids, mask,
            None if replies is None else [[next(rest) for _ in own] for own in replies])
        logp, entropies = token_log_probs(
            states, self.model.lm_head, ids[mask], temperature, self.vision_token_ids, entropy)

        def placed(values: Tensor) -> Tensor:
            return values.new_zeros(mask.shape).masked_scatter(mask, values)

        return placed(logp), None if entropies is None else placed(entropies)

    def explain_non_finite(self, prompts: Sequence[EncodedPrompt], ids: Tensor) -> str:
        """Explain why the logits after some tokens are NaN or infinite, see
        :func:`mmdpad.models.non_finite.diagnose`.

        Args:
            prompts: B prompts.
            ids: (B, t) long, the tokens after them.
        """
        # The log-probability of one more token, whichever it is, needs the logits in question.
        ids = torch.nn.functional.pad(ids, (0, 1), value=self.end_tokens[0])
        return self._diagnose(prompts, ids, torch.ones_like(ids).bool())

    def _diagnose(self, prompts: Sequence[EncodedPrompt], ids: Tensor, mask: Tensor) -> str:
        # Otherwise a fixed vision tower would not encode the images again.
        prompts = [prompt.with_vision(repeat(None)) for prompt in prompts]
        return diagnose(self.model, lambda: self.log_probs(prompts, ids, mask), DTYPE_KEY)

    def supervised_loss(self, prompts: Sequence[EncodedPrompt],
                        texts: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean cross entropy of SFT targets over all tokens of the batch, end tokens
        included.

        Args:
            prompts: B prompts.
            texts: N SFT targets; N a multiple of B, prompt-major.

        Returns:
            The scalar loss in nats per token, and scalars for the log: ``perplexity`` and
            ``response_tokens`` (mean length).

        Raises:
            NonFiniteError: The loss is NaN or infinite, on this process or another one.
        """
        ids, mask = self.encode_responses(texts)
        logp, _ = self.log_probs(prompts, ids, mask)
        loss = -logp.sum() / mask.sum()
        self._check_loss(loss, prompts, ids, mask, logp)
        return loss, dict(perplexity=loss.detach().exp(),
                          response_tokens=mask.sum(dim=1).float().mean())

    def _check_loss(self, loss: Tensor, prompts: Sequence[EncodedPrompt], ids: Tensor,
                    mask: Tensor, logp: Tensor) -> None:
        """Raise on all processes if the loss of one is not finite. All processes repeat their pass,
        since a sharded model needs all of them."""
        failed = loss.detach().isfinite().logical_not().float()
        all_reduce(failed, 'max')
        if not failed:
            return
        why = self._diagnose(prompts, ids, mask)
        rows = logp.isfinite().all(dim=1).logical_not().nonzero()
        if not rows.numel():
            raise NonFiniteError('The loss of a batch on another process is not finite')
        prompt = int(rows[0]) * len(prompts) // len(ids)
        raise NonFiniteError(f'The log-probabilities of the SFT target for prompt {prompt} of the '
                             f'batch are not finite. {why}', prompt)

    def _load_model(self, source: str, dtype: str, **arguments: Any) -> PreTrainedModel:
        return load_mapped(
            self.family.model_class, source, WEIGHTS_HINT,
            read_dtype('model.policy.dtype', dtype),
            needs_values=bool(self.lora and self.lora.get('use_dora')),
            **{name: value for name, value in arguments.items() if value is not None})
