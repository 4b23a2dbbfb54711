# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Measures how much of an optimizer's steps survives in 16-bit weights.

    python tools/benchmarks/low_precision.py

The toy policy learns SFT targets about random images with AdamW, set as in the recipe except for
the learning rate; every variant sees the same batches. The variants:

    float32                           arithmetic in float32
    float32, autocast                 float32 weights, arithmetic in bfloat16 (AmpOptimWrapper's)
    bfloat16, float16                 weights, gradients and optimizer state in that type
    bfloat16, stochastic rounding     float32 steps and state; a weight is randomly rounded up or
                                      down, in proportion to the distance (arXiv 2010.06192)
    bfloat16, adapter                 a float32 adapter (`lora`) on bfloat16 weights

Prints JSON: for each learning rate and variant, after the first and after the last step,

    moved     share of the trained weights that have changed
    arrived   the variant's change of all weights, projected on that of float32: 1 is all of it
              (None for the adapter, which has other weights)
    finite    whether all weights are finite
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import Any

WAYS: dict[str, dict[str, Any]] = {
    'float32': dict(dtype='float32'),
    'float32, autocast': dict(dtype='float32'),
    'bfloat16': dict(dtype='bfloat16'),
    'float16': dict(dtype='float16'),
    'bfloat16, stochastic rounding': dict(dtype='bfloat16'),
    'bfloat16, adapter': dict(dtype='bfloat16', lora=dict(r=8)),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rates', type=float, nargs='+', default=(1e-6, 1e-5, 1e-4),
                        metavar='LR', help='learning rates')
    parser.add_argument('--steps', type=int, default=20)
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=list(WAYS),
                        help='float32 is always included')
    parser.add_argument('--threads', type=int, default=1)
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

import torch
from common import PROMPT_TEMPLATE, environment, make_image, print_json
from torch import Tensor, nn

from mmdpad.models import VLMReasoningHead
from mmdpad.toy import POLICY_WEIGHTS
from mmdpad.toy.seeding import seeded

QUESTIONS = ('the red square', 'the blue circle')
RESPONSES = ('<think>the red square is above the circle</think>',
             '<think>the only blue thing is left of the square</think>')


def round_stochastically(values: Tensor) -> Tensor:
    """float32 to bfloat16: rounded up with the probability given by the truncated part."""
    noise = torch.randint(1 << 16, values.shape, dtype=torch.int32)
    return ((values.view(torch.int32) + noise) & -(1 << 16)).view(torch.float32).bfloat16()


class RoundedAdamW:
    """AdamW with float32 steps and state, and only bfloat16 weights."""

    def __init__(self, weights: list[nn.Parameter], **options: Any) -> None:
        self.weights = weights
        self.exact = [nn.Parameter(weight.detach().float()) for weight in weights]
        self.inner = torch.optim.AdamW(self.exact, **options)

    def step(self) -> None:
        for exact, weight in zip(self.exact, self.weights, strict=True):
            exact.data = weight.data.float()
            exact.grad = None if weight.grad is None else weight.grad.float()
        self.inner.step()
        for exact, weight in zip(self.exact, self.weights, strict=True):
            weight.data = round_stochastically(exact.data)


def train(way: str, rate: float, steps: int) -> dict[int, list[Tensor]]:
    """The trained weights, in float64, at the start and after the first and the last step."""
    with seeded():
        head = VLMReasoningHead(POLICY_WEIGHTS, PROMPT_TEMPLATE, **WAYS[way])
    weights = [parameter for parameter in head.parameters() if parameter.requires_grad]
    kind = RoundedAdamW if 'stochastic' in way else torch.optim.AdamW
    optimizer = kind(weights, lr=rate, betas=(0.9, 0.999), weight_decay=1e-2)
    arithmetic = torch.autocast('cpu', torch.bfloat16) if 'autocast' in way else nullcontext()
    seen = {0: [weight.detach().double() for weight in weights]}
    torch.manual_seed(0)
    for step in range(1, steps + 1):
        images = [make_image(112, 2 * step + number) for number in range(len(QUESTIONS))]
        with arithmetic:
            loss, _ = head.supervised_loss(head.encode_prompts(images, QUESTIONS), RESPONSES)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        head.zero_grad()
        if step in (1, steps):
            seen[step] = [weight.detach().double() for weight in weights]
    return seen


def change(seen: dict[int, list[Tensor]], step: int) -> Tensor:
    """The change of all weights, concatenated."""
    return torch.cat([(after - before).flatten()
                      for before, after in zip(seen[0], seen[step], strict=True)])


def compare(seen: dict[int, list[Tensor]], exact: dict[int, list[Tensor]],
            adapter: bool) -> dict[str, dict[str, Any]]:
    result = {}
    for step in seen:
        if step:
            own, right = change(seen, step), change(exact, step)
            result[f'{step} step{"s" * (step > 1)}'] = dict(
                moved=float((own != 0).double().mean()),
                arrived=None if adapter or not own.isfinite().all() else
                float(own @ right / (right @ right)),
                finite=bool(own.isfinite().all()))
    return result


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {}
    for rate in args.rates:
        exact = train('float32', rate, args.steps)
        result[f'{rate:g}'] = {
            way: compare(exact if way == 'float32' else train(way, rate, args.steps), exact,
                         'adapter' in way)
            for way in WAYS if way in ('float32', *args.ways)}
    print_json(dict(environment=environment(), setting=vars(args), weights=result))


if __name__ == '__main__':
    main()
