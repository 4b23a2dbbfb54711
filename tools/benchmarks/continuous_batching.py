# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Decoding passes of an evaluation: batch after batch against continuous batching, simulated.

    python tools/benchmarks/continuous_batching.py
    python tools/benchmarks/continuous_batching.py --questions 779 --batch-size 64 --spread 1

The answers' lengths are log-normal within limits, in random order. No model runs; both sides follow
the rules of `SharedPrefixRollout` (without guesses): batch after batch, samples leave once a
quarter has ended, and are fed until then; in a stream, the next questions enter once an eighth of
the samples has ended, at most so many batches are held, and ended samples are not fed.
"""

from __future__ import annotations

import argparse
from collections import deque


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--questions', type=int, default=779, help='number of questions')
    parser.add_argument('--batch-size', type=int, default=64, help='questions in a batch')
    parser.add_argument('--shortest', type=int, default=40, help='tokens of the shortest answer')
    parser.add_argument('--longest', type=int, default=1024, help='tokens of the longest answer')
    parser.add_argument('--median', type=int, default=200, help='tokens of a usual answer')
    parser.add_argument('--spread', type=float, default=0.7, help='of the logarithm of the lengths')
    parser.add_argument('--seed', type=int, default=0, help='of the lengths')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

import numpy as np
from common import environment, print_json

from mmdpad.models.rollouts.continuous_batching import LOOKAHEAD, REFILL_AT
from mmdpad.models.rollouts.decoding import SHRINK_AT


def batch_after_batch(lengths: np.ndarray, size: int) -> dict[str, int]:
    """Count passes, tokens fed, and passes of prompts."""
    passes = fed = batches = 0
    for start in range(0, len(lengths), size):
        left = lengths[start:start + size] - 1  # the first token comes from the prompt
        batches += 1
        rows = len(left)
        while (active := int((left > 0).sum())):
            if active <= SHRINK_AT * rows:
                rows = active
            passes, fed, left = passes + 1, fed + rows, left - 1
    return dict(passes=passes, tokens_fed=fed, prompt_passes=batches)


def continuous(lengths: np.ndarray, size: int) -> dict[str, int]:
    """Count passes, tokens fed, passes of prompts, and the most batches that were held."""
    batches = deque(range(0, len(lengths), size))
    held: deque[list[int]] = deque()  # the unfinished answers of each batch
    waiting: deque[tuple[list[int], int]] = deque()
    active: list[tuple[list[int], int, int]] = []  # batch, number, tokens left
    passes = fed = prompts = most = 0
    while batches or waiting or active:
        while batches and len(held) <= LOOKAHEAD and len(waiting) < size - len(active):
            start = batches.popleft()
            numbers = list(range(start, min(start + size, len(lengths))))
            held.append(numbers)
            waiting += [(numbers, number) for number in numbers]
        most = max(most, len(held))
        count = min(len(waiting), size - len(active))
        if count and (not active or count == len(waiting) or count >= REFILL_AT * size):
            prompts += 1
            for _ in range(count):
                batch, number = waiting.popleft()
                active.append((batch, number, int(lengths[number]) - 1))
        else:
            passes, fed = passes + 1, fed + len(active)
            active = [(batch, number, left - 1) for batch, number, left in active]
        for batch, number, left in active:
            if not left:
                batch.remove(number)
        active = [entry for entry in active if entry[2]]
        while held and not held[0]:
            held.popleft()
    return dict(passes=passes, tokens_fed=fed, prompt_passes=prompts, most_batches_held=most)


def main() -> None:
    args = parse_args()
    rng = np.random.default_rng(args.seed)
    lengths = rng.lognormal(np.log(args.median), args.spread, args.questions)
    lengths = lengths.clip(args.shortest, args.longest).astype(int)
    before, after = (count(lengths, args.batch_size) for count in (batch_after_batch, continuous))
    print_json(dict(
        environment=environment(), questions=args.questions, batch_size=args.batch_size,
        answer_tokens=dict(total=int(lengths.sum()), shortest=int(lengths.min()),
                           median=float(np.median(lengths)), longest=int(lengths.max())),
        batch_after_batch=before, continuous=after,
        fewest_passes=int(np.ceil((lengths - 1).sum() / args.batch_size)),
        ratio={name: after[name] / before[name] for name in ('passes', 'tokens_fed')}))


if __name__ == '__main__':
    main()
