# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How the update's time and memory scale with group size, response length and image side.

    python tools/benchmarks/scaling.py

Every point is measured in a separate process (update_step.py) on a small policy. Beside each
measurement is the expected value: time from the operations that mmdpad.models.cost counts, at
the speed of the middle point (G = 8, 200 tokens, 840 pixels), and memory from its estimate of what
an update holds besides weights, gradients and optimizer. Prints JSON.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--hidden-size', type=int, default=192)
    parser.add_argument('--layers', type=int, default=4)
    parser.add_argument('--repeats', type=int, default=2)
    parser.add_argument('--threads', type=int, default=1)
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

from common import environment, make_policy, print_json
from transformers import AutoConfig
from update_step import in_child

from mmdpad.models.cost import (
    PolicyShape,
    Setup,
    Workload,
    step_flops,
    step_memory,
)

MIDDLE = dict(group_size=8, tokens=200, side=840)
AXES = dict(group_size=(2, 4, 8, 16, 32), tokens=(50, 100, 200, 400, 800),
            side=(280, 560, 840, 1120))
TEXT_TOKENS = 153  # of the prompt, excluding its image
PATCH = 14


def measure(side: str, folder: str, point: dict[str, int], args: argparse.Namespace
            ) -> dict[str, float]:
    """Seconds and MB of one side's update at one point."""
    return in_child(side, folder, [
        '--group-size', str(point['group_size']), '--side', str(point['side']),
        '--lengths', *[str(point['tokens'])] * 2, '--threads', str(args.threads),
        '--child-repeats', str(args.repeats)])


def law(shape: PolicyShape, side: str, point: dict[str, int]) -> tuple[float, float]:
    """Operations of an update, and MB of activations and logits at its peak."""
    image = shape.image(point['side'], point['side'])
    work = Workload(1, point['group_size'], TEXT_TOKENS + image.tokens, point['tokens'], image)
    naive = side == 'naive'
    work = work.replicated() if naive else work
    setup = Setup(checkpointing=True, rollout='none', kept_log_probs=naive, step=0.0)
    flops = sum(sum(parts.values()) for parts in step_flops(shape, setup, work).values())
    held = max(parts.get('activations', 0) + parts.get('logits', 0)
               for parts in step_memory(shape, setup, work).values())
    return flops, held / 2**20


def main() -> None:
    args = parse_args()
    points: list[dict[str, Any]] = [MIDDLE]
    points += [{**MIDDLE, axis: value} for axis, values in AXES.items() for value in values
               if value != MIDDLE[axis]]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_policy(folder, args.hidden_size, args.layers, max(AXES['side']))
        shape = PolicyShape.of(AutoConfig.from_pretrained(folder))
        for point in points:
            row = dict(point)
            for side in ('mmdpad', 'naive'):
                measured = measure(side, folder, point, args)
                flops, held = law(shape, side, point)
                row[side] = dict(seconds=measured['seconds'], mb=measured['update'],
                                 gflop=flops / 1e9, expected_mb=held)
            rows.append(row)
    for row in rows:
        for side in ('mmdpad', 'naive'):
            middle = rows[0][side]
            row[side]['expected_seconds'] = (
                row[side]['gflop'] * middle['seconds'] / middle['gflop'])
        row['ratio'] = row['naive']['seconds'] / row['mmdpad']['seconds']
        row['expected_ratio'] = row['naive']['gflop'] / row['mmdpad']['gflop']
        row['memory_ratio'] = row['mmdpad']['mb'] / row['naive']['mb']
    print_json(dict(rows=rows, settings=vars(args), environment=environment()))


if __name__ == '__main__':
    main()
