# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Decoding on one GPU within a time limit, what matters most first.

    python tools/benchmarks/gpu_decode.py > gpu_decode.json
    python tools/benchmarks/gpu_decode.py --device cpu --minutes 3

Each part is a process of its own. One that fails, or runs out of the time that is left, is
reported, and the next one starts. Prints JSON after each part to stderr, and all of it to stdout;
exits with 1 if a part failed.

- tests: the tests of CUDA graphs, and of steps that do not wait for each other's tokens.
- lora, amp, large: `gpu_step.py --parts decode`, of the 3B model with LoRA on bfloat16 weights, of
  the 3B model in float32 under autocast, and of the 7B model with LoRA.
- toy: rollouts of the toy policy, whose text can be guessed, with and without guesses and graphs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STEP = str(Path(__file__).with_name('gpu_step.py'))
TESTS = [str(Path(__file__).parents[2] / 'tests/test_models/test_rollouts' / name)
         for name in ('test_graphs.py', 'test_steps_ahead.py')]
DECODE = ['--parts', 'decode', '--repeats', '1']
LESS = ['--engines', 'mmdpad', 'no_guesses', 'no_graphs']


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--minutes', type=float, default=12, help='for all parts together')
    parser.add_argument('--parts', nargs='+', default=['tests', 'lora', 'toy', 'amp', 'large'])
    parser.add_argument('--toy-only', action='store_true', help=argparse.SUPPRESS)
    return parser.parse_args()


def commands(device: str) -> dict[str, list[str]]:
    """Part -> its arguments of python."""
    step = [STEP, '--device', device, *DECODE]
    if device == 'cpu':
        step += ['--model', 'tiny', '--side', '112', '--tokens', '8', *LESS]
        models: dict[str, list[str]] = dict(lora=['--lora', '4'], amp=[], large=['--lora', '4'])
    else:
        models = dict(lora=['--model', 'Qwen2.5-VL-3B', '--lora', '64'],
                      amp=['--model', 'Qwen2.5-VL-3B', *LESS],
                      large=['--model', 'Qwen2.5-VL-7B', '--lora', '64', *LESS])
    marker = 'not gpu' if device == 'cpu' else 'gpu'
    return dict(tests=['-m', 'pytest', '-q', '-m', marker, *TESTS],
                toy=[__file__, '--toy-only', '--device', device],
                **{name: [*step, *options] for name, options in models.items()})


def run(command: list[str], seconds: float) -> dict[str, Any]:
    """Run a part; return its result or its error, and how long it took."""
    start = time.perf_counter()
    try:
        done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True,
                              timeout=max(seconds, 0.1))
    except subprocess.TimeoutExpired:
        return dict(error=f'not finished after {max(seconds, 0):.0f} s')
    result: dict[str, Any] = dict(seconds=round(time.perf_counter() - start, 1))
    if done.returncode:
        result['error'] = f'exit status {done.returncode}'
    try:
        result['result'] = json.loads(done.stdout)
    except json.JSONDecodeError:
        result['output'] = done.stdout[-2000:]
    return result


def roll_out_toy(device: str) -> dict[str, Any]:
    """Seconds of three rollouts of the toy policy after a first one, 12 x 8 at temperature 1."""
    import torch
    from common import make_image

    from mmdpad.models import HFRollout, SharedPrefixRollout, VLMReasoningHead
    from mmdpad.toy import POLICY_WEIGHTS
    from mmdpad.toy.shapes_world import SHAPES_PROMPT_TEMPLATE
    head = VLMReasoningHead(POLICY_WEIGHTS, prompt_template=SHAPES_PROMPT_TEMPLATE).eval()
    head.to(device)
    prompts = head.encode_prompts([make_image(112, seed) for seed in range(12)],
                                  ['the red circle', 'the small blue star'] * 6)
    engines = dict(mmdpad=SharedPrefixRollout(), no_guesses=SharedPrefixRollout(max_guess=0),
                   no_graphs=SharedPrefixRollout(max_guess=0, cuda_graphs=False),
                   generate=HFRollout())
    found: dict[str, Any] = {}
    for name, engine in engines.items():
        seconds, tokens = [], 0
        for seed in range(4):
            start = time.perf_counter()
            responses = engine(head, prompts, 8, max_new_tokens=80, seed=seed)
            tokens = int(responses.mask.sum())  # waits for the device
            seconds.append(time.perf_counter() - start)
        found[name] = dict(seconds=seconds[1:], tokens=tokens, first=seconds[0])
    found['device'] = (torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu')
    return found


def main() -> None:
    args = parse_args()
    if args.toy_only:
        print(json.dumps(roll_out_toy(args.device)))
        return
    end, results = time.perf_counter() + 60 * args.minutes, {}
    for name in args.parts:
        results[name] = run(commands(args.device)[name], end - time.perf_counter())
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    print(json.dumps(results, indent=2))
    sys.exit(any('error' in result for result in results.values()))


if __name__ == '__main__':
    main()
