# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""One rollout: `SharedPrefixRollout` against `model.generate`, with the same work.

    python tools/benchmarks/rollout.py
    python tools/benchmarks/rollout.py --mean-tokens 100 --tokens 400
    python tools/benchmarks/rollout.py --policy toy --before ../mmdpad_before

G responses to questions about images (fp32), in one process per side. `generate` is `HFRollout`,
with `num_return_sequences=G`; `generate_replicated`, with the prompt repeated G times.

- `--policy random`: one question; by default end tokens are masked, so every response has the same
  length; with `--mean-tokens` each one may end at any token.
- `--policy toy`: 12 questions by default, other ones in every rollout. `before` and `generate` use
  the same random draws, so their responses are ours up to rounding; `equal_responses` is the share
  of those that are. `--temperature 0 --group-size 1 --prompts 64` measures greedy answers.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from typing import TYPE_CHECKING, Any

from builds import Turns, Worker, add_before, builds, compare

PEERS = ('generate', 'generate_replicated')
DEFAULTS = dict(random=dict(prompts=1, tokens=200, repeats=3, warm_up=1, peers=PEERS),
                toy=dict(prompts=12, tokens=112, repeats=8, warm_up=4, peers=PEERS[:1]))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--policy', choices=DEFAULTS, default='random')
    parser.add_argument('--repeats', type=int, help='measured rollouts of each side (3; toy: 8)')
    parser.add_argument('--warm-up', type=int, help='rollouts before those (1; toy: 4)')
    parser.add_argument('--prompts', type=int,
                        help='prompts in a batch (1; toy: 12); copies of one for a random policy')
    parser.add_argument('--side', type=int, default=840,
                        help='of the image of a random policy, in pixels')
    parser.add_argument('--group-size', type=int, default=8, help='responses per prompt')
    parser.add_argument('--temperature', type=float, default=1.0, help='0: greedy')
    parser.add_argument('--tokens', type=int, help='length limit of a response (200; toy: 112)')
    parser.add_argument('--mean-tokens', type=int,
                        help='let responses of a random policy end, at this mean length')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads of each side')
    parser.add_argument('--peers', nargs='*', choices=PEERS,
                        help='compare with these (toy: `generate`); none without a name')
    add_before(parser)
    args = parser.parse_args()
    for name, value in DEFAULTS[args.policy].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


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
    toy_prompt,
)
from torch import Tensor, nn

from mmdpad.models import HFRollout, SharedPrefixRollout, VLMReasoningHead
from mmdpad.toy import POLICY_WEIGHTS

if TYPE_CHECKING:  # an earlier build, which this may run, has it elsewhere
    from mmdpad.models.heads.encoded_prompt import EncodedPrompt


def main() -> None:
    args = parse_args()
    os.environ.update(OMP_NUM_THREADS=str(args.threads), HF_HUB_OFFLINE='1')
    torch.set_num_threads(args.threads)
    trees = builds(args)
    with tempfile.TemporaryDirectory() as folder:
        policy = POLICY_WEIGHTS if args.policy == 'toy' else make_policy(folder, side=args.side)
        workers = {name: Worker(trees.get(name, trees['mmdpad']), sample, name, policy, args)
                   for name in (*trees, *args.peers)}
        result, facts = compare(workers, args.repeats, args.warm_up)
    ours = facts['mmdpad']['responses']
    tokens = {name: [sum(map(len, step)) for step in fact['responses']][-args.repeats:]
              for name, fact in facts.items()}
    equal = {name: [a == b for step, same in zip(fact['responses'], ours, strict=True)
                    for a, b in zip(step, same, strict=True)] for name, fact in facts.items()}
    print_json(dict(
        result, response_tokens=tokens,
        equal_responses={name: sum(values) / len(values) for name, values in equal.items()},
        tokens_per_second={name: sum(tokens[name]) / sum(seconds)
                           for name, seconds in result['seconds'].items()},
        prompt_tokens=facts['mmdpad']['prompt_tokens'], environment=environment(),
        load_average=os.getloadavg()))


def sample(turns: Turns, side: str, policy: str, args: argparse.Namespace) -> dict[str, Any]:
    """Rollouts of one side, excluding preprocessing."""
    shares = side not in PEERS
    head = make_head(policy, 'shared_prefix' if shares else 'sdpa', args)
    engine, count = SharedPrefixRollout() if shares else HFRollout(), args.group_size
    if side == 'generate_replicated':
        count = 1
    prompts, responses = [], []
    for step in range(args.repeats + args.warm_up):
        numbers = range(step * args.prompts, (step + 1) * args.prompts)
        prompts = encode(head, numbers, args)
        if side == 'generate_replicated':
            prompts = [prompt for prompt in prompts for _ in range(args.group_size)]
        with turns.step():
            rollout = engine(head, prompts, count, args.temperature, args.tokens, seed=step)
        responses.append([ids[mask].tolist() for ids, mask in zip(
            rollout.ids, rollout.mask, strict=True)])
    return dict(responses=responses, prompt_tokens=[len(prompt) for prompt in prompts])


def make_head(policy: str, attn_implementation: str, args: argparse.Namespace) -> VLMReasoningHead:
    """The toy policy; or a random one whose responses never end, or end with probability
    1 / ``mean_tokens`` per token."""
    head = VLMReasoningHead(policy, prompt_template=PROMPT_TEMPLATE,
                            attn_implementation=attn_implementation)
    if args.policy == 'random':
        others = head.model.config.text_config.vocab_size - len(head.vision_token_ids) - 1
        odds = 0.0 if args.mean_tokens is None else others / (args.mean_tokens - 1)
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


def encode(head: VLMReasoningHead, numbers: range,
           args: argparse.Namespace) -> list[EncodedPrompt]:
    """Prompts of the toy policy, by number; those of a random policy are all the same, about 1050
    tokens with an image of 840 pixels."""
    if args.policy == 'toy':
        images, questions = zip(*map(toy_prompt, numbers), strict=True)
        return head.encode_prompts(images, questions)
    return head.encode_prompts([make_image(args.side)], [QUESTION]) * len(numbers)


if __name__ == '__main__':
    main()
