# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The policy: a vision-language model that is asked a question about an image.

Notation: B prompts, G responses to each, N = B * G (prompt-major), P prompt tokens (left-padded),
R response tokens (right-padded), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoProcessor, BatchFeature, Qwen2_5_VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mmdpad.prompts import build_messages
from mmdpad.registry import MODELS

from .lora import adapter_off, add_lora


@MODELS.register_module()
class VLMReasoningHead(BaseModule):
    """Qwen2.5-VL with its own processor: prompts to tokens, and log-probabilities of responses.

    Args:
        pretrained: A local folder in Hugging Face format, or a hub name (``Qwen/...``). A string
            that looks like a path (it exists, or starts with ``.``, ``/`` or ``~``, or has more
            than one ``/``) has to exist.
        prompt_template: See :func:`mmdpad.prompts.build_messages`.
        dtype: Of the weights: ``'float32'`` (master weights; use an AMP optimizer wrapper for
            bfloat16 arithmetic), ``'bfloat16'`` for evaluation, ``'float64'`` to check numbers.
        attn_implementation: As in transformers: ``'sdpa'``, ``'eager'``, ``'flash_attention_2'``.
        freeze_vision: Keep the vision tower as it is.
        gradient_checkpointing: Recompute activations in the backward pass.
        max_prompt_tokens: Longer prompts (image tokens included) are an error.
        lora: Train a low-rank adapter instead of the weights, for example ``dict(r=16,
            lora_alpha=32)``: arguments of ``peft.LoraConfig``, see :func:`.lora.add_lora`. By
            default it sits in the linear layers of the language model's attention and MLP. Needs
            ``pip install "mmdpad[lora]"``.

    Attributes:
        adapter_keys: Names of the adapter's weights in this module's state; empty without one.

    Raises:
        FileNotFoundError: ``pretrained`` looks like a path and is not there, or lacks
            config.json.
        ValueError: The weights do not fit the model (missing or unexpected keys, shapes), or
            ``lora`` has wrong arguments.
        ImportError: ``lora`` is given and peft is not installed.
    """

    def __init__(self,
                 pretrained: str,
                 prompt_template: str = 'default',
                 dtype: str = 'float32',
                 attn_implementation: str = 'sdpa',
                 freeze_vision: bool = False,
                 gradient_checkpointing: bool = False,
                 max_prompt_tokens: int = 1300,
                 lora: dict | None = None) -> None:
        super().__init__()
        build_messages('', prompt_template)
        self.prompt_template = prompt_template
        self.max_prompt_tokens = max_prompt_tokens
        source = _check_source(pretrained)
        self.processor = AutoProcessor.from_pretrained(source)
        self.processor.tokenizer.padding_side = 'left'
        self.model = _load_model(source, dtype, attn_implementation)
        if freeze_vision:
            self.model.model.visual.requires_grad_(False)
        self.adapter_keys: frozenset[str] = frozenset()
        if lora is not None:
            add_lora(self.model, lora)
            self.adapter_keys = frozenset(
                name for name, p in self.named_parameters() if p.requires_grad)
        if gradient_checkpointing:
            self.model.gradient_checkpointing_enable({'use_reentrant': False})

    def init_weights(self) -> None:
        """Nothing: the weights came with ``pretrained`` (mmengine calls this before training)."""

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def has_adapter(self) -> bool:
        return bool(self.adapter_keys)

    def adapter_off(self) -> AbstractContextManager[None]:
        """A context in which the model is what ``pretrained`` holds, without its adapter."""
        return adapter_off(self.model)

    @property
    def vision_token_ids(self) -> list[int]:
        """Tokens that stand for images or videos. A response may not hold them: the model would
        take a sampled one for a further image."""
        config = self.model.config
        names = ('image_token_id', 'video_token_id', 'vision_start_token_id',
                 'vision_end_token_id', 'vision_token_id')
        return sorted({getattr(config, name) for name in names
                       if getattr(config, name, None) is not None})

    @property
    def end_tokens(self) -> list[int]:
        """Tokens that end a response; the first is the one that a given response is taught with."""
        ends = self.model.generation_config.eos_token_id
        if ends is None:
            return [self.processor.tokenizer.eos_token_id]
        return [ends] if isinstance(ends, int) else list(ends)

    def encode_prompts(self, images: Sequence[Tensor], questions: Sequence[str]) -> BatchFeature:
        """Tokens and pixels of B prompts, on this module's device.

        Args:
            images: B uint8 tensors (3, h, w), RGB, of the prompt's size.
            questions: B normalised questions.

        Returns:
            ``input_ids``, ``attention_mask``, ``mm_token_type_ids`` (B, P) left-padded,
            ``pixel_values`` and ``image_grid_thw`` (B, 3) as the processor makes them.

        Raises:
            ValueError: The processor would resize an image, so that the model's coordinates were
                not those of the prompt image; or a prompt is longer than ``max_prompt_tokens``.
        """
        texts = [self.processor.apply_chat_template(build_messages(q, self.prompt_template),
                                                    add_generation_prompt=True, tokenize=False)
                 for q in questions]
        prompts = self.processor(text=texts, images=[image.cpu() for image in images],
                                 padding=True, return_mm_token_type_ids=True, return_tensors='pt')
        patch = self.processor.image_processor.patch_size
        for image, (_, rows, columns) in zip(images, prompts['image_grid_thw'].tolist(),
                                             strict=True):
            if (rows * patch, columns * patch) != tuple(image.shape[-2:]):
                raise ValueError(
                    f'A prompt image should have a size that the processor keeps, but '
                    f'(height, width) = {tuple(image.shape[-2:])} becomes '
                    f'{(rows * patch, columns * patch)}; set `PromptResize(size=...)` to '
                    f'multiples of {patch * self.processor.image_processor.merge_size} within '
                    f'the min_pixels and max_pixels of the processor')
        longest = int(prompts['attention_mask'].sum(dim=1).max())
        if longest > self.max_prompt_tokens:
            raise ValueError(f'A prompt should have at most `max_prompt_tokens` = '
                             f'{self.max_prompt_tokens} tokens, but one has {longest}; use a '
                             f'smaller prompt image or raise the limit')
        return prompts.to(self.device)

    def encode_responses(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens of N given responses, each with the end token behind it.

        Returns:
            (N, R) long token ids, right-padded, and (N, R) bool, True for those of a response.

        Raises:
            ValueError: A text holds a special token, which no response can hold.
        """
        tokenizer = self.processor.tokenizer
        special = {*tokenizer.all_special_ids, *self.vision_token_ids}
        rows = []
        for text in texts:
            ids = tokenizer(text, add_special_tokens=False)['input_ids']
            if special.intersection(ids):
                found = tokenizer.decode([i for i in ids if i in special])
                raise ValueError(f'A response should be text without special tokens, but got '
                                 f'{found!r} in {text!r}; remove them')
            rows.append(torch.tensor([*ids, self.end_tokens[0]]))
        mask = pad_sequence([torch.ones_like(row).bool() for row in rows], batch_first=True)
        return pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id), mask

    def decode(self, response_ids: Tensor) -> list[str]:
        """Texts of (N, R) token ids, special tokens left out."""
        return self.processor.tokenizer.batch_decode(response_ids, skip_special_tokens=True,
                                                     clean_up_tokenization_spaces=False)

    def count_tokens(self, text: str | None) -> int | None:
        """Length of a text by the model's tokenizer, without special tokens; None for None."""
        if text is None:
            return None
        return len(self.processor.tokenizer(text, add_special_tokens=False)['input_ids'])

    def log_probs(self, prompts: BatchFeature, response_ids: Tensor, response_mask: Tensor,
                  temperature: float = 1.0,
                  entropy: str | None = None) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of responses under softmax(logits / temperature).

        The vision tower sees each of the B images once. Vision tokens have probability 0, as in
        sampling.

        Args:
            prompts: What :meth:`encode_prompts` returns, B prompts.
            response_ids: (N, R) long; N a multiple of B, prompt-major.
            response_mask: (N, R) bool.
            temperature: That of the sampling.
            entropy: 'grad' or 'no_grad' to return the entropy of each token's distribution too,
                with or without gradients.

        Returns:
            (N, R) float32 log-probabilities (float64 of a float64 model), 0 where the mask is
            False; and the entropies in nats (N, R), or None.
        """
        group_size = len(response_ids) // len(prompts['input_ids'])
        ids, mask = response_ids.to(self.device), response_mask.to(self.device)

        def repeat(values: Tensor) -> Tensor:
            return values.repeat_interleave(group_size, dim=0)

        vision = self.model.model.get_image_features(
            prompts['pixel_values'], prompts['image_grid_thw'], return_dict=True)
        features = [f for f in vision.pooler_output for _ in range(group_size)]
        input_ids = torch.cat([repeat(prompts['input_ids']), ids], dim=1)
        attention_mask = torch.cat([repeat(prompts['attention_mask']), mask.long()], dim=1)
        token_types = torch.cat(
            [repeat(prompts['mm_token_type_ids']), torch.zeros_like(ids).int()], dim=1)
        position_ids, _ = self.model.model.get_rope_index(
            input_ids, token_types, repeat(prompts['image_grid_thw']),
            attention_mask=attention_mask)
        # The logits that predict a response stand one position before it.
        first = prompts['input_ids'].shape[1] - 1
        keep = torch.arange(first, first + ids.shape[1], device=ids.device)
        logits = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
            mm_encoder_outputs={'image': BaseModelOutputWithPooling(pooler_output=features)},
            logits_to_keep=keep, use_cache=False).logits
        # At least float32; a float64 model keeps its precision.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
        logits[..., self.vision_token_ids] = -torch.inf
        logp = -cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction='none')
        logp = logp.reshape(ids.shape).masked_fill(~mask, 0.0)
        if entropy is None:
            return logp, None
        return logp, _entropy(logits if entropy == 'grad' else logits.detach())

    def supervised_loss(self, prompts: BatchFeature,
                        texts: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross entropy of given responses, over all tokens of the batch (end tokens too).

        Args:
            prompts: What :meth:`encode_prompts` returns, B prompts.
            texts: N responses; N a multiple of B, prompt-major.

        Returns:
            The scalar loss in nats per token, and scalars for the log: ``perplexity`` and
            ``response_tokens`` (mean length).
        """
        ids, mask = self.encode_responses(texts)
        logp, _ = self.log_probs(prompts, ids, mask)
        loss = -logp.sum() / mask.sum()
        return loss, dict(perplexity=loss.detach().exp(),
                          response_tokens=mask.sum(dim=1).float().mean())


def _entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits), (..., V) -> (...); impossible tokens add nothing."""
    logp = logits.log_softmax(dim=-1)
    return -(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(dim=-1)


def _check_source(pretrained: str) -> str:
    """A folder that holds a model, or a hub name as it is."""
    path = Path(pretrained).expanduser()
    looks_like_path = (path.exists() or pretrained.startswith(('.', '/', '~'))
                       or pretrained.count('/') > 1)
    if not looks_like_path:
        return pretrained
    if not (path / 'config.json').is_file():
        raise FileNotFoundError(
            f'`pretrained` should be a folder in Hugging Face format (with config.json, weights, '
            f'tokenizer and processor) or a hub name such as Qwen/Qwen2.5-VL-7B-Instruct, but '
            f'{str(path)!r} {"has no config.json" if path.exists() else "is not there"}; '
            f'download the model there or set `model.policy.pretrained`')
    return str(path)


def _load_model(source: str, dtype: str,
                attn_implementation: str) -> Qwen2_5_VLForConditionalGeneration:
    """Load weights; keys that are missing, unexpected or of another shape are an error."""
    model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        source, dtype=getattr(torch, dtype), attn_implementation=attn_implementation,
        output_loading_info=True)
    faults: dict[str, Any] = {name: keys for name, keys in report.items() if keys}
    if faults:
        found = '; '.join(f'{name}: {len(keys)}, for example {sorted(map(str, keys))[:3]}'
                          for name, keys in faults.items())
        raise ValueError(f'The weights in {source!r} should fit the model that its config.json '
                         f'describes, but {found}')
    return model
