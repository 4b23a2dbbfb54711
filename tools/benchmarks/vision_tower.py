# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Times the vision tower of this checkout and of an earlier one.

    git worktree add ../mmdpad_before COMMIT
    python tools/benchmarks/vision_tower.py --before ../mmdpad_before

Images are encoded by a random Qwen2.5-VL in the proportions of the 7B model (fp32), without and
with the gradients of the tower's weights. Prints JSON, also with the operations that a pass
dispatches and the attention calls among them. Fails if the features are not the same.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from typing import Any

from builds import Turns, Worker, add_before, builds, compare

CASES = {'features': False, 'features and gradients': True}
TOLERANCE = 1e-4


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_before(parser, required=True)
    parser.add_argument('--images', type=int, default=1, help='images in a pass')
    parser.add_argument('--side', type=int, default=840, help='of an image, in pixels')
    parser.add_argument('--hidden-size', type=int, default=384,
                        help='of the language model; the tower has a sixth of it')
    parser.add_argument('--layers', type=int, default=6, help="two less than the tower's")
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--threads', type=int, default=1, help='CPU threads of each side')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

import torch
from common import (
    PROMPT_TEMPLATE,
    QUESTION,
    environment,
    make_image,
    make_policy,
    print_json,
    unseen,
)
from torch.utils._python_dispatch import TorchDispatchMode

from mmdpad.models import VLMReasoningHead


class Operations(TorchDispatchMode):
    """Counts dispatched operations, and attention calls among them, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.attention = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        self.total += 1
        self.attention += 'scaled_dot_product' in str(function)
        return function(*args, **(kwargs or {}))


def side(turns: Turns, folder: str, trains: bool, args: argparse.Namespace) -> dict[str, Any]:
    """Passes of one side, excluding preprocessing."""
    torch.set_num_threads(args.threads)
    head = VLMReasoningHead(folder, PROMPT_TEMPLATE, freeze_vision=not trains)
    prompts = head.encode_prompts([make_image(args.side, seed) for seed in range(args.images)],
                                  [QUESTION] * args.images)

    def encode() -> torch.Tensor:
        features = torch.cat([prompt.vision[0] for prompt in head.encode_images(unseen(prompts))])
        if trains:
            features.square().sum().backward()
        return features

    for _ in range(args.repeats + 1):
        with turns.step():
            encode()
    with Operations() as operations:
        features = encode().detach()
    return dict(features=features.flatten()[::97].tolist(), operations=operations.total,
                attention_calls=operations.attention)


def main() -> None:
    args = parse_args()
    os.environ.update(OMP_NUM_THREADS=str(args.threads), HF_HUB_OFFLINE='1')
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        make_policy(folder, args.hidden_size, args.layers, args.side)
        for case, trains in CASES.items():
            result, facts = compare(
                {name: Worker(tree, side, folder, trains, args)
                 for name, tree in builds(args).items()}, args.repeats)
            features = torch.tensor([fact.pop('features') for fact in facts.values()])
            if (features[0] - features[1]).abs().max() > TOLERANCE * features.abs().max():
                raise SystemExit(f'The features of both builds should agree to {TOLERANCE}, but '
                                 f'they differ by {(features[0] - features[1]).abs().max():.2g}')
            cases[case] = dict(result, **{
                key: {name: fact[key] for name, fact in facts.items()}
                for key in ('operations', 'attention_calls')})
    print_json(dict(environment=environment(), cases=cases, load_average=os.getloadavg(),
                    setting={name: value for name, value in vars(args).items()
                             if name != 'before'}))


if __name__ == '__main__':
    main()
