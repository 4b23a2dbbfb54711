# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The update of one GRPO step compared with the naive way, in time and memory.

    python tools/benchmarks/update_step.py [--frozen-vision] [--lengths 60 340] [--before CHECKOUT]

`mmdpad` computes prompt and image once for all G responses, and no old log-probabilities (one
update per rollout). `naive` repeats prompt and image for every response, padded to the longest, and
computes old and reference log-probabilities before the update: all responses in one batch, or
(`naive, one by one`) one response per batch. `replicated` is mmdpad with an attention of
transformers: the prompt once per response, the image once. All use gradient checkpointing except
`mmdpad, nothing recomputed` and `mmdpad, memory budget`, which recomputes as far as
`--memory-budget` demands. `before` is `mmdpad` with the package of another checkout. The sides run
in processes of their own, in turns. Prints JSON; `naive_ratio` is the time of `naive` relative to
each side's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from builds import Turns, Worker, add_before, builds, compare, forget_peak, peak_memory

BUDGET = 'mmdpad, memory budget'
SIDES = ('mmdpad', 'mmdpad, nothing recomputed', BUDGET, 'replicated', 'naive',
         'naive, one by one')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--side', type=int, default=840, help='side of the image, in pixels')
    parser.add_argument('--group-size', type=int, default=8)
    parser.add_argument('--lengths', type=int, nargs=2, default=(200, 200), metavar=('LOW', 'HIGH'),
                        help='tokens of the shortest and the longest response')
    parser.add_argument('--hidden-size', type=int, default=384)
    parser.add_argument('--layers', type=int, default=6)
    parser.add_argument('--frozen-vision', action='store_true')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--sides', nargs='+', choices=SIDES, default=SIDES)
    parser.add_argument('--memory-budget', type=float, default=0.8, metavar='GB',
                        help=f'of the side {BUDGET!r}')
    add_before(parser)
    parser.add_argument('--child', choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument('--child-repeats', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument('--folder', help=argparse.SUPPRESS)
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
    random_rollout,
)
from mmengine.optim import OptimWrapper

from mmdpad.models import ReasoningSegmentor


class Update:
    """A policy, its reference and AdamW, and the update as done by one of :data:`SIDES`."""

    def __init__(self, side: str, folder: str, args: argparse.Namespace) -> None:
        self.side = side
        policy = dict(type='VLMReasoningHead', pretrained=folder, prompt_template=PROMPT_TEMPLATE,
                      gradient_checkpointing='nothing recomputed' not in side,
                      max_prompt_tokens=5000, freeze_vision=args.frozen_vision)
        if side == BUDGET:
            policy['memory_budget'] = args.memory_budget
        if not side.startswith(('mmdpad', 'before')):
            policy['attn_implementation'] = 'sdpa'
        self.model = ReasoningSegmentor(policy, train_cfg=dict(group_size=args.group_size)).train()
        self.model.build_reference()
        if 'naive' in side:  # its vision tower sees the images in every pass, frozen or not
            self.model.policy.vision_is_fixed = self.model.reference.vision_is_fixed = False
        trained = [p for p in self.model.policy.parameters() if p.requires_grad]
        self.wrapper = OptimWrapper(torch.optim.AdamW(trained, lr=0.0, fused=True))
        # The naive side has G prompts with one response each.
        prompts = args.group_size if 'naive' in side else 1
        self.prompts = self.model.policy.encode_prompts([make_image(args.side)] * prompts,
                                                        [QUESTION] * prompts)
        self.lengths = torch.linspace(*args.lengths, args.group_size).long()

    def __call__(self) -> float:
        """Reference log-probabilities (and old ones, for the naive side) and one optimizer step;
        returns the loss."""
        rollout = random_rollout(self.prompts, self.lengths, torch.Generator().manual_seed(0))
        parts = list(rollout.split(1 if 'one by one' in self.side else rollout.num_prompts))
        if 'naive' in self.side:
            for part in parts:
                part.old_logp, part.ref_logp, *_ = self.model.log_probs(part)
        total = 0.0
        for part in parts:
            loss = self.model.loss(part)['loss'] / len(parts)
            loss.backward()
            total += loss.item()
        self.wrapper.step()
        self.wrapper.zero_grad()
        return total


def prepare(side: str, folder: str, args: argparse.Namespace) -> tuple[Update, float]:
    """The update of a side, with the optimizer's state, and the MB in use before it."""
    update = Update(side, folder, args)
    for parameter in update.model.policy.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    update.wrapper.step()
    forget_peak()
    return update, peak_memory()


def take_turns(turns: Turns, side: str, folder: str, args: argparse.Namespace) -> dict[str, Any]:
    """The updates of a side in its process."""
    torch.set_num_threads(args.threads)
    update, rest = prepare(side, folder, args)
    for _ in range(args.repeats + 1):
        with turns.step():
            loss = update()
    return dict(loss=loss, at_rest=rest)


def in_child(side: str, folder: str, options: Sequence[str]) -> dict[str, float]:
    """The output of :func:`run_child`, run in a separate process."""
    command = [sys.executable, __file__, *options, '--child', side, '--folder', folder]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(child.stdout.splitlines()[-1])


def run_child(side: str, folder: str, args: argparse.Namespace) -> None:
    """Print MB in use before an update, the most MB that the update adds, and the seconds of the
    faster of two more updates."""
    update, rest = prepare(side, folder, args)
    update()
    added = peak_memory() - rest
    seconds = alternate({side: update}, args.child_repeats)[side] if args.child_repeats else [0.0]
    print(json.dumps(dict(at_rest=rest, update=added, seconds=min(seconds))))


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        run_child(args.child, args.folder, args)
        return
    trees = builds(args)
    names = [*args.sides, *(['before'] if args.before else [])]
    with tempfile.TemporaryDirectory() as folder:
        make_policy(folder, args.hidden_size, args.layers, args.side)
        workers = {name: Worker(trees.get(name, trees['mmdpad']), take_turns, name, folder, args)
                   for name in names}
        result, facts = compare(workers, args.repeats)
    peaks = result.pop('peak_memory_mb')
    memory = {name: dict(at_rest=fact['at_rest'], update=peaks[name] - fact['at_rest'])
              for name, fact in facts.items()}
    median, cpu = result['median'], result['cpu_time']['median']
    print_json(dict(
        settings={name: value for name, value in vars(args).items()
                  if name not in ('child', 'child_repeats', 'folder', 'before')},
        **result, loss={name: fact['loss'] for name, fact in facts.items()}, memory_mb=memory,
        memory_ratio={name: memory['mmdpad']['update'] / memory[name]['update']
                      for name in names if name != 'mmdpad'},
        naive_ratio={name: dict(seconds=median['naive'] / median[name],
                                cpu_seconds=cpu['naive'] / cpu[name])
                     for name in names if 'naive' in median and name != 'naive'},
        environment=environment()))


if __name__ == '__main__':
    main()
