# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Compares a policy with plain transformers, to find out whether its family is handled right.

Notation: B = 2 prompts of different lengths, N = 4 responses, R their longest.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoConfig

from mmdpad.models import HFRollout, SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.heads import shared_prefix
from mmdpad.models.heads.attention_support import check_layers
from mmdpad.models.heads.families import find_family
from mmdpad.models.heads.policy_source import WEIGHTS_HINT
from mmdpad.models.heads.processor_files import describe_files
from mmdpad.models.heads.prompt_encoder import PromptEncoder
from mmdpad.models.rollouts.sampling import Responses
from mmdpad.models.weights import from_folder, load_pretrained

TEMPLATE = 'find "{question}"'
QUESTIONS = ('the red circle', 'whatever somebody who is tired could sit down on')
TEXTS = ('a red star', 'no', 'so it is', 'the second of three')
SIZES = ((256, 256), (256, 320))
TOKENS = 12
"""Tokens of a sampled response."""
BOUNDS = dict(float64=(1e-4, 1e-3), float32=(1e-3, 1e-2), bfloat16=(0.5, 0.5), float16=(0.1, 0.2))
"""By dtype, how far log-probabilities (in nats) and gradients (relative) may be apart."""


@dataclass(frozen=True)
class Finding:
    """A comparison with plain transformers.

    Attributes:
        what: What was compared.
        result: By how much it agrees, or why it was not compared.
        agrees: Whether it does; None if it was not compared.
    """

    what: str
    result: str
    agrees: bool | None = None

    def __str__(self) -> str:
        mark = {True: 'ok', False: 'WRONG', None: ''}[self.agrees]
        return f'{mark:5} {self.what}: {self.result}'


@dataclass
class _Measured:
    """What a policy computes with an attention implementation.

    Attributes:
        ids, mask: (N, R), the tokens of :data:`TEXTS`.
        logp: (N, R), their log-probabilities.
        gradients: Those of the sum of ``logp``, by name; empty if they are not wanted.
        sampled: Responses of an engine; or why there are none.
        never: Tokens that a response may not contain.
    """

    ids: Tensor
    mask: Tensor
    logp: Tensor
    gradients: dict[str, Tensor]
    sampled: Responses | str
    never: list[int]


def check_family(source: str, dtype: str = 'float32', device: str = 'cpu',
                 model_image: tuple[int, int] = (840, 840),
                 gradients: bool = True) -> Iterator[Finding]:
    """Compare log-probabilities, gradients and samples of a policy with those of plain
    transformers, which computes each response alone, behind its own copy of the prompt.

    Args:
        source: A policy's folder or hub name, tiny or not. A user may have registered its family.
        dtype: Type of the weights, one of :data:`BOUNDS`. 16 bits only reveal gross errors.
        device: Device of the model.
        model_image: (width, height) of a model image, for the length of a prompt.
        gradients: Whether to compare gradients, which takes three times the memory of the weights.

    Yields:
        Each finding as soon as it is known.

    Raises:
        FileNotFoundError, ImportError, ValueError: As for
            :class:`mmdpad.models.VLMReasoningHead`.
    """
    family = find_family(source)
    encoder = PromptEncoder(source, 'default', 10**6, family.coordinates)
    yield Finding('files', describe_files(source, encoder.processor).text)
    yield Finding('responses', encoder.responses.describe())
    yield _describe_prompt(encoder, *model_image)
    encoder.template = TEMPLATE
    images = [_make_image(encoder, *size) for size in SIZES]
    ways = ['sdpa', shared_prefix.NAME]
    try:
        check_layers(shared_prefix.NAME, from_folder(AutoConfig, source, WEIGHTS_HINT), family)
    except ValueError as error:
        ways.remove(shared_prefix.NAME)
        yield Finding('shared prefix', str(error))
    found = {way: _measure(source, way, dtype, device, images, gradients) for way in ways}
    plain = _Plain(load_pretrained(family.model_class, source, WEIGHTS_HINT,
                                   dtype=getattr(torch, dtype)).eval().to(device), encoder, images)
    first, (nats, relative) = found['sdpa'], BOUNDS[dtype]
    expected = plain.log_probs(first.ids, first.mask, first.never, gradients)
    for way, measured in found.items():
        yield _within(f'log-probabilities, {way}', measured.logp - expected, nats)
        if gradients:
            yield _compare_gradients(f'gradients, {way}', measured.gradients, plain.gradients,
                                     relative)
        yield _check_samples(plain, measured, nats)


def _describe_prompt(encoder: PromptEncoder, width: int, height: int) -> Finding:
    image = _make_image(encoder, width, height)
    prompt, (rows, columns) = encoder(image, QUESTIONS[0]), image.shape[-2:]
    changed = '' if (columns, rows) == (width, height) else (
        f', which the processor makes of {width} x {height}')
    return Finding('prompt', f'{len(prompt)} tokens with a short question, '
                   f'{int((prompt.token_types == 1).sum())} of them for an image of {columns} x '
                   f'{rows}{changed}')


def _make_image(encoder: PromptEncoder, width: int, height: int) -> Tensor:
    """Make random pixels (3, h, w) of the size that the processor gives such an image."""
    size = encoder.kept_size(torch.zeros(3, height, width, dtype=torch.uint8))
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8,
                         generator=torch.Generator().manual_seed(width))


def _measure(source: str, way: str, dtype: str, device: str, images: Sequence[Tensor],
             gradients: bool) -> _Measured:
    head = VLMReasoningHead(source, TEMPLATE, dtype=dtype, max_prompt_tokens=10**6,
                            attn_implementation=way).eval().to(device)
    prompts = head.encode_prompts(images, QUESTIONS)
    sampled: Responses | str
    if way == shared_prefix.NAME:
        sampled = SharedPrefixRollout(records_log_probs=True)(
            head, prompts, group_size=2, max_new_tokens=TOKENS, seed=0).to('cpu')
    else:
        try:
            sampled = HFRollout()(head, prompts, temperature=0, max_new_tokens=TOKENS).to('cpu')
        except ImportError as error:  # transformers is too old to generate with this family
            sampled = str(error)
    ids, mask = head.encode_responses([head.encoder.responses.opened + text for text in TEXTS])
    with torch.set_grad_enabled(gradients):
        logp, _ = head.log_probs(prompts, ids, mask)
        if gradients:
            logp.sum().backward()
    measured = _Measured(ids, mask, logp.detach().cpu(), _gradients(head.model),
                         sampled, head.vision_token_ids)
    del head
    gc.collect()  # before the next model is loaded
    return measured


def _gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


class _Plain:
    """The reference: a forward pass of transformers for each response.

    Args:
        model: The model of transformers.
        encoder: For the text of a prompt and the processor.
        images: B model images.
    """

    def __init__(self, model: Any, encoder: PromptEncoder, images: Sequence[Tensor]) -> None:
        self.model = model
        self.encoder = encoder
        self.images = images

    @property
    def gradients(self) -> dict[str, Tensor]:
        """Those of :meth:`log_probs` so far."""
        return _gradients(self.model)

    def log_probs(self, ids: Tensor, mask: Tensor, never: Sequence[int],
                  gradients: bool = False) -> Tensor:
        """Compute log-probabilities (N, R) of responses, 0 where the mask is False.

        Args:
            ids, mask: (N, R), N a multiple of B, prompt-major.
            never: Tokens of probability 0.
            gradients: Whether to add the gradients of their sum to those of the weights.
        """
        result = torch.zeros(mask.shape, dtype=torch.float64)
        for row, (response, own) in enumerate(zip(ids, mask, strict=True)):
            with torch.set_grad_enabled(gradients):
                scores = self.scores(row * len(self.images) // len(ids), response[own], never)
                logp = scores.gather(1, response[own][:, None])[:, 0]
                if gradients:
                    logp.sum().backward()
            result[row, own] = logp.detach().double()
        return result

    def scores(self, number: int, response: Tensor, never: Sequence[int]) -> Tensor:
        """Log-probabilities (T, V) of all tokens at the places of a response (T,) to a prompt."""
        values = self.encoder.processor(
            text=[self.encoder.write(QUESTIONS[number])], images=[self.images[number]],
            return_mm_token_type_ids=True, return_tensors='pt')
        shape = values['input_ids'].shape
        inputs = {name: pad(value, (0, len(response)), value=int(name == 'attention_mask'))
                  if value.shape == shape else value for name, value in values.items()}
        inputs['input_ids'][0, shape[1]:] = response
        inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
        logits = self.model(**inputs).logits[0, -len(response) - 1:-1].cpu()
        if logits.dtype != torch.float64:
            logits = logits.float()
        logits = logits.index_fill(1, torch.tensor(never, dtype=torch.long), -torch.inf)
        return logits.log_softmax(dim=-1)


def _within(what: str, difference: Tensor, bound: float, of: str = '') -> Finding:
    largest = float(difference.abs().max())
    return Finding(what, f'{of}off by at most {largest:.1e} nats (bound: {bound:g})',
                   largest <= bound)


def _check_samples(plain: _Plain, measured: _Measured, bound: float) -> Finding:
    """Compare an engine's own log-probabilities; without any, its tokens should be the most likely
    ones."""
    if isinstance(measured.sampled, str):
        return Finding('HFRollout', measured.sampled)
    ids, mask, logp = measured.sampled.ids, measured.sampled.mask, measured.sampled.logp
    with torch.no_grad():
        if logp is not None:
            expected = plain.log_probs(ids, mask, measured.never)
            return _within('SharedPrefixRollout', (logp - expected)[mask], bound,
                           f'log-probabilities of {int(mask.sum())} sampled tokens ')
        below = [plain.scores(row, response[own], measured.never).amax(dim=1) - plain.scores(
            row, response[own], measured.never).gather(1, response[own][:, None])[:, 0]
            for row, (response, own) in enumerate(zip(ids, mask, strict=True))]
    return _within('HFRollout', torch.cat(below), bound,
                   f'{int(mask.sum())} greedy tokens, below the most likely ones, ')


def _compare_gradients(what: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor],
                       bound: float) -> Finding:
    """Compare the gradients of each weight by their distance, relative to their norm."""
    if odd := sorted(found.keys() ^ expected.keys()):
        return Finding(what, f'only one of both has those of {odd[0]} ({len(odd)} such weights)',
                       False)
    norms = {name: float(value.norm()) for name, value in expected.items()}
    least = 1e-3 * max(norms.values())  # below, a gradient is rounding
    distances = {name: float((found[name] - value).norm()) / max(norms[name], least)
                 for name, value in expected.items()}
    worst = max(distances, key=lambda name: (math.isnan(distances[name]), distances[name]))
    agrees = distances[worst] <= bound
    return Finding(what, f'of {len(distances)} weights off by at most {distances[worst]:.1e} of '
                   f'their norm (bound: {bound:g})' + ('' if agrees else f', in {worst}'), agrees)
