# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Guesses while sampling: passes, tokens in them, and time, of the toy policy.

    git worktree add ../mmdpad_before main
    python tools/benchmarks/speculation.py --before ../mmdpad_before

Three training rollouts (12 questions, 8 responses each, T = 1) after some others of the same
policy, then a greedy evaluation of 192 questions in batches of 64: by default (`mmdpad`), without
guesses (`plain`), and with as many guesses as pay on a GPU (`as on a GPU`: only its numbers of
passes and tokens mean something here). `before` is another checkout, in a process of its own. All
take turns.

`passes` and `tokens` are shares of those without guesses; `same_tokens` says whether all responses
are equal to theirs. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDES: dict[str, dict[str, Any]] = {
    'mmdpad': {}, 'plain': dict(max_guess=0), 'as on a GPU': dict(pass_cost=1000.0)}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--before', type=Path, help='another checkout to compare with')
    parser.add_argument('--repeats', type=int, default=3, help='measured runs of each')
    parser.add_argument('--rollouts', type=int, default=4, help='rollouts before the measured one')
    parser.add_argument('--groups', type=int, default=12, help='questions in a rollout')
    parser.add_argument('--questions', type=int, default=192, help='in the evaluation')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads')
    parser.add_argument('--serve', action='store_true', help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

import mmcv
import torch
from common import environment, print_json, summary

from mmdpad.models import SharedPrefixRollout, VLMReasoningHead
from mmdpad.toy import POLICY_WEIGHTS
from mmdpad.toy.shapes_world import SHAPES_PROMPT_TEMPLATE, make_scene

try:
    from mmdpad.models.rollouts import decoding
except ImportError:  # a checkout from before there was one
    decoding = None

GROUP_SIZE, BATCH, LENGTH, MEASURED = 8, 64, 112, 3
ANSWER: dict[str, Any] = dict(passes=0, tokens=0, seconds=0.0, cpu_seconds=0.0, ids=[])


class Work:
    """One side: its engine, and the work that it repeats.

    Args:
        options: Arguments of the engine.
        args: The arguments of the benchmark.
    """

    def __init__(self, options: dict[str, Any], args: argparse.Namespace) -> None:
        self.head = VLMReasoningHead(str(POLICY_WEIGHTS), prompt_template=SHAPES_PROMPT_TEMPLATE)
        self.options, self.args = options, args

    def prompts(self, split: str, first: int, count: int) -> list[Any]:
        scenes = [make_scene(split, index) for index in range(first, first + count)]
        images = [torch.from_numpy(mmcv.imresize(
            scene.image, (112, 112), interpolation='bilinear', backend='pillow')).permute(2, 0, 1)
            for scene in scenes]
        return self.head.encode_prompts(images, [scene.question.text for scene in scenes])

    def train(self) -> dict[str, Any]:
        """Sample the next rollouts of a training."""
        self.engine, results = SharedPrefixRollout(**self.options), []
        for number in range(self.args.rollouts + MEASURED):
            first = number * self.args.groups
            prompts = self.prompts('train', first, self.args.groups)
            memory = getattr(self.engine, 'memory', None)
            if memory is not None:
                memory.forget_recent()
            results.append(measure(lambda prompts=prompts, first=first: [self.engine(
                self.head, prompts, GROUP_SIZE, max_new_tokens=LENGTH,
                prompt_numbers=range(first, first + self.args.groups))]))
            if memory is not None:
                memory.share()
        return {name: sum((result[name] for result in results[-MEASURED:]), start)
                for name, start in ANSWER.items()}

    def evaluate(self) -> dict[str, Any]:
        """Answer all questions greedily, in batches, after the last :meth:`train`."""
        memory = getattr(self.engine, 'memory', None)
        if memory is not None:
            memory.forget_recent()
        batches = [self.prompts('val', first, min(BATCH, self.args.questions - first))
                   for first in range(0, self.args.questions, BATCH)]
        return measure(lambda: [self.engine(self.head, prompts, temperature=0,
                                            max_new_tokens=LENGTH) for prompts in batches])


def measure(sample: Callable[[], list[Any]]) -> dict[str, Any]:
    """Seconds, CPU seconds, and counts of the passes and tokens of rollouts, and their tokens."""
    found: dict[str, int] = dict(passes=0, tokens=0)
    decode = decoding.Decoding.__call__ if decoding else None

    def spy(self: Any, cache: Any, feed: Any, *others: Any) -> Any:
        found['passes'] += 1
        found['tokens'] += len(feed.tokens)
        return decode(self, cache, feed, *others)

    if decoding:
        decoding.Decoding.__call__ = spy
    start, cpu = time.perf_counter(), time.process_time()
    results = sample()
    found |= dict(seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu)
    if decoding:
        decoding.Decoding.__call__ = decode
    return dict(found, ids=[row[mask].tolist() for result in results
                            for row, mask in zip(result.ids, result.mask, strict=True)])


def serve(args: argparse.Namespace) -> None:
    """Do work for each line of the input, which names it."""
    torch.set_num_threads(args.threads)
    work = Work({}, args)
    for line in sys.stdin:
        print(json.dumps(getattr(work, line.strip())()), flush=True)


class Remote:
    """The work of another checkout, in its own process."""

    def __init__(self, tree: Path, args: argparse.Namespace) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, '--serve', '--rollouts', str(args.rollouts), '--questions',
             str(args.questions), '--groups', str(args.groups), '--threads', str(args.threads)],
            cwd=tree, text=True,
            env={**os.environ, 'PYTHONPATH': str(tree)}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def _do(self, what: str) -> dict[str, Any]:
        self.process.stdin.write(f'{what}\n')
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith('{'):
                return json.loads(line)
        raise SystemExit(f'{self.process.args} ended with {self.process.wait()}')

    def train(self) -> dict[str, Any]:
        return self._do('train')

    def evaluate(self) -> dict[str, Any]:
        return self._do('evaluate')


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    sides: dict[str, Any] = {name: Work(options, args)
                             for name, options in SIDES.items()}
    if args.before:
        sides['before'] = Remote(args.before.resolve(), args)
    result: dict[str, Any] = dict(environment=environment(), load_average=os.getloadavg(), setting={
        name: getattr(args, name) for name in ('repeats', 'rollouts', 'groups', 'questions')})
    for what in ('train', 'evaluate'):
        runs = {name: [getattr(work, what)() for _ in range(1)] for name, work in sides.items()}
        for _ in range(args.repeats):
            for name, work in sides.items():
                runs[name].append(getattr(work, what)())
        plain = runs['plain'][-1]
        result[what] = dict(
            passes={name: runs[name][-1]['passes'] / plain['passes'] for name in SIDES},
            tokens={name: runs[name][-1]['tokens'] / plain['tokens'] for name in SIDES},
            same_tokens={name: some[-1]['ids'] == plain['ids'] for name, some in runs.items()},
            **{kind: summary({name: [run[kind] for run in some[1:]]
                              for name, some in runs.items()})
               for kind in ('seconds', 'cpu_seconds')})
    if args.before:
        sides['before'].process.stdin.close()
    print_json(result)


if __name__ == '__main__':
    serve(parse_args()) if parse_args().serve else main(parse_args())
