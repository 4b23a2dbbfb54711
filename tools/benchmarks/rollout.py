# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""One rollout: `SharedPrefixRollout` against `model.generate`, with the same work.

    python tools/benchmarks/rollout.py
    python tools/benchmarks/rollout.py --mean-tokens 100 --tokens 400

G responses to one question about one image by a random policy (fp32). By default end tokens are
masked, so every response has the same length; with `--mean-tokens` each one may end at any token.
`generate` is `HFRollout`, with `num_return_sequences=G` and with the prompt repeated G times.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Callable
from typing import Any


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--repeats', type=int, default=3, help='measured runs of each')
    parser.add_argument('--prompts', type=int, default=1, help='copies of the prompt in a batch')
    parser.add_argument('--side', type=int, default=840, help='of the image, in pixels')
    parser.add_argument('--group-size', type=int, default=8, help='responses per prompt')
    parser.add_argument('--tokens', type=int, default=200, help='length limit of a response')
    parser.add_argument('--mean-tokens', type=int, help='let responses end, at this mean length')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

import torch
from common import (
    PROMPT_TEMPLATE,
    QUESTION,
    alternate,
    environment,
    make_image,
    make_policy,
    print_json,
    summary,
)
from torch import Tensor, nn

from mmdpad.models import HFRollout, SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.rollouts import Responses


def main() -> None:
    args = parse_args()
    os.environ['HF_HUB_OFFLINE'] = '1'
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        make_policy(folder, side=args.side)
        heads = [make_head(folder, name, args.mean_tokens) for name in ('shared_prefix', 'sdpa')]
    rollouts = make_rollouts(*heads, args)
    tokens = {name: int(rollout().mask.sum()) for name, rollout in rollouts.items()}
    result = summary(alternate(rollouts, args.repeats))
    print_json(dict(
        result, response_tokens=tokens, environment=environment(),
        tokens_per_second={name: tokens[name] / result['median'][name] for name in tokens},
        prompt_tokens=len(encode(heads[0], args.side)), load_average=os.getloadavg()))


def make_head(folder: str, attn_implementation: str, mean_tokens: int | None) -> VLMReasoningHead:
    """A policy whose responses never end, or end with probability 1 / ``mean_tokens`` per token."""
    head = VLMReasoningHead(folder, prompt_template=PROMPT_TEMPLATE,
                            attn_implementation=attn_implementation)
    others = head.model.config.text_config.vocab_size - len(head.vision_token_ids) - 1
    odds = 0.0 if mean_tokens is None else others / (mean_tokens - 1)
    head.model.lm_head = EndOdds(head.model.lm_head, head.end_tokens, odds)
    return head


class EndOdds(nn.Module):
    """An output head for which an end token is ``odds`` times as likely as a usual token."""

    def __init__(self, head: nn.Module, end_tokens: list[int], odds: float) -> None:
        super().__init__()
        self.head = head
        self.register_buffer('ends', torch.tensor(end_tokens))
        self.score = math.log(odds) if odds else -math.inf

    def forward(self, states: Tensor) -> Tensor:
        logits = self.head(states)
        level = logits.logsumexp(dim=-1, keepdim=True) - math.log(logits.shape[-1])
        return logits.index_copy(-1, self.ends, (level + self.score).expand(
            *logits.shape[:-1], len(self.ends)))


def encode(head: VLMReasoningHead, side: int) -> Any:
    """The prompt, about 1050 tokens with an image of 840 pixels."""
    return head.encode_prompts([make_image(side)], [QUESTION])[0]


def make_rollouts(shared: VLMReasoningHead, plain: VLMReasoningHead,
                  args: argparse.Namespace) -> dict[str, Callable[[], Responses]]:
    """Name -> one rollout, excluding preprocessing."""
    prompts, count = [encode(shared, args.side)] * args.prompts, args.group_size
    options = dict(max_new_tokens=args.tokens, seed=0)
    return {
        'mmdpad': lambda: SharedPrefixRollout()(shared, prompts, count, **options),
        'generate': lambda: HFRollout()(plain, prompts, count, **options),
        'generate_replicated': lambda: HFRollout()(
            plain, [prompt for prompt in prompts for _ in range(count)], **options)}


if __name__ == '__main__':
    main()
