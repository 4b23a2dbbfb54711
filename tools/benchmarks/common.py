# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Shared by the benchmarks: a random policy with its prompt, alternating runs, and their summary.

A benchmark prints one JSON object. Its ratios come from runs of one process tree that took turns,
so a machine that slows down affects both sides.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.logging import MMLogger
from PIL import Image
from torch import Tensor
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
)

from mmdpad.evaluation.provenance import package_versions, processor_name
from mmdpad.models import VLMReasoningHead
from mmdpad.structures import RolloutBatch
from mmdpad.toy import POLICY_WEIGHTS
from mmdpad.toy.seeding import seeded
from mmdpad.toy.shapes_world import SHAPES_IMAGE_SIZE, SHAPES_PROMPT_TEMPLATE, make_scene

if TYPE_CHECKING:  # an earlier build, which this may run, has it elsewhere
    from mmdpad.models.heads.encoded_prompt import EncodedPrompt

MMLogger.get_current_instance().setLevel('WARNING')  # logs would go where the result goes
PATCH, MERGE = 14, 2
HEAD_DIM = 64
PROMPT_TEMPLATE = SHAPES_PROMPT_TEMPLATE
QUESTION = ' '.join(['which of these could be the roof of a house'] * 14)
"""A question of about 140 tokens: with 900 of an image, a prompt has about 1050."""


def make_policy(folder: str | Path, hidden_size: int = 384, layers: int = 6, side: int = 840,
                vocab_size: int = 3584, seed: int = 0) -> str:
    """Write a random Qwen2.5-VL that :class:`mmdpad.models.VLMReasoningHead` loads.

    A small copy of the 7B model in its proportions: at the default sizes, the output head has 8 %
    of the language model's parameters and the vision tower takes about a quarter of the language
    model's time for a prompt (see :func:`make_config`). Tokenizer and chat template are the
    toy policy's; the vocabulary is padded, as Qwen's is.

    Args:
        folder: Where to write; created if missing.
        hidden_size: A multiple of 192: 3 query heads of 64 channels share one key-value head.
        layers: Layers of the language model.
        side: The processor keeps images unchanged if their sides are multiples of 28 pixels and
            their area is at most ``side * side``; 840 makes 900 tokens.
        vocab_size: At least the tokenizer's 512.
        seed: Seed of the weights.

    Returns:
        The folder as a string.
    """
    if hidden_size % (3 * HEAD_DIM):
        raise ValueError(f'`hidden_size` should be a multiple of {3 * HEAD_DIM}, but got '
                         f'{hidden_size}')
    with seeded(seed):
        model = Qwen2_5_VLForConditionalGeneration(make_config(hidden_size, layers, vocab_size))
    model.save_pretrained(folder)
    write_processor(folder, side)
    return str(folder)


def write_processor(folder: str | Path, side: int) -> None:
    """Write the toy policy's tokenizer and chat template with an image processor of 14 pixels per
    patch; see :func:`make_policy` for ``side``."""
    processor = Qwen2_5_VLProcessor.from_pretrained(POLICY_WEIGHTS)
    processor.image_processor = Qwen2VLImageProcessor(
        patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2,
        size=dict(shortest_edge=(2 * PATCH * MERGE)**2, longest_edge=side**2))
    processor.save_pretrained(folder)


def token_ids() -> dict[str, int]:
    """The special tokens of that tokenizer, by their names in a config."""
    return {name: value for name, value in
            Qwen2_5_VLConfig.from_pretrained(POLICY_WEIGHTS).to_dict().items()
            if name.endswith('_token_id')}


def make_config(hidden_size: int, layers: int, vocab_size: int) -> Qwen2_5_VLConfig:
    """The 7B model's proportions: an MLP of 16/3 the width, a vision tower with one block of full
    attention in eight and windows of 112 pixels in the others."""
    ids = token_ids()
    rope = dict(rope_type='default', rope_theta=1e6, mrope_section=[8, 12, 12])
    text = dict(vocab_size=vocab_size, hidden_size=hidden_size,
                intermediate_size=hidden_size * 16 // 3, num_hidden_layers=layers,
                num_attention_heads=hidden_size // HEAD_DIM,
                num_key_value_heads=hidden_size // (3 * HEAD_DIM),
                max_position_embeddings=4096, rope_parameters=rope, tie_word_embeddings=False,
                **{name: ids[name] for name in ('bos_token_id', 'eos_token_id', 'pad_token_id')})
    depth = layers + 2
    vision = dict(depth=depth, hidden_size=hidden_size // 6, intermediate_size=hidden_size * 4 // 9,
                  num_heads=hidden_size // 192, patch_size=PATCH, spatial_merge_size=MERGE,
                  temporal_patch_size=2, window_size=112, out_hidden_size=hidden_size,
                  fullatt_block_indexes=list(range(7, depth, 8)))
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False,
                            **ids)


def make_image(side: int = 840, seed: int = 0) -> torch.Tensor:
    """A random image: uint8 (3, side, side), RGB."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, side, side), dtype=np.uint8)
    return torch.from_numpy(pixels)


def toy_prompt(number: int, split: str = 'train') -> tuple[Tensor, str]:
    """The model image, uint8 (3, 112, 112), and the question of a toy scene; the prompt template of
    the toy policy is :data:`PROMPT_TEMPLATE`, too."""
    scene = make_scene(split, number)
    image = np.array(Image.fromarray(scene.image).resize(SHAPES_IMAGE_SIZE))
    return torch.from_numpy(image).permute(2, 0, 1), scene.question.text


class EndlessHead(VLMReasoningHead):
    """A policy whose responses never end: end tokens are masked, just like vision tokens."""

    @property
    def vision_token_ids(self) -> list[int]:
        return [*super().vision_token_ids, *self.end_tokens]


def unseen(prompts: Sequence[EncodedPrompt]) -> list[EncodedPrompt]:
    """The same prompts as in a new step: a frozen vision tower has no features for them yet."""
    return [replace(prompt, vision=None) for prompt in prompts]


def random_rollout(prompts: Sequence[EncodedPrompt], lengths: Tensor,
                   generator: torch.Generator | None = None) -> RolloutBatch:
    """Random responses of given lengths (N,), as many to each prompt, with random advantages."""
    rows, longest, count = len(lengths), int(lengths.max()), len(prompts)
    samples = [DetDataSample(metainfo=dict(question=QUESTION)) for _ in prompts]
    return RolloutBatch(
        samples, samples, rows // count, [''] * rows, [None] * rows,
        response_ids=torch.randint(500, (rows, longest), generator=generator),
        response_mask=torch.arange(longest) < lengths[:, None],
        truncated=torch.zeros(rows, dtype=torch.bool), reasoning_tokens=torch.zeros(rows),
        prompts=unseen(prompts),
        advantages=torch.randn(rows, generator=generator).reshape(count, -1))


def environment() -> dict[str, Any]:
    """What the numbers depend on besides the code, as far as a program can determine it."""
    return dict(
        date=datetime.now(timezone.utc).isoformat(timespec='seconds'),
        command=' '.join(['python', *sys.argv]),
        cpu=processor_name(), cpu_count=os.cpu_count(), threads=torch.get_num_threads(),
        **package_versions(('torch', 'transformers', 'mmdpad', 'trl')))


def alternate(functions: dict[str, Callable[[], Any]],
              repeats: int = 5) -> dict[str, list[float]]:
    """Run functions in turn, after one warm-up run each.

    Returns:
        Name -> seconds of each of the ``repeats`` measured runs.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}


def summary(seconds: dict[str, list[float]], ours: str = 'mmdpad') -> dict[str, Any]:
    """Medians of the result of :func:`alternate`, and how many times as long the others take.

    Returns:
        ``seconds`` (all runs), ``median`` and ``ratio`` by name; ``ratio_range``: the lowest and
        the highest ratio of two runs in one turn.
    """
    medians = {name: median(values) for name, values in seconds.items()}
    others = [name for name in seconds if name != ours]
    turns = {name: [a / b for a, b in zip(seconds[name], seconds[ours], strict=True)]
             for name in others}
    return dict(seconds=seconds, median=medians,
                ratio={name: medians[name] / medians[ours] for name in others},
                ratio_range={name: [min(turns[name]), max(turns[name])] for name in others})


def print_json(result: dict[str, Any]) -> None:
    """Print a result, numbers to five digits."""
    print(json.dumps(_rounded(result), indent=2))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f'{value:.5g}') if isinstance(value, float) else value
