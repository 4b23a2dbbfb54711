# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Measures the host memory of processes that load a policy under FSDP2.

    python tools/benchmarks/load_memory.py --processes 4

A random Qwen2.5-VL is written as bfloat16 files and loaded as float32, with and without a
reference: `shards` as mmdpad does it, and `whole` as it does for files that cannot be mapped (each
process reads everything, then shards it).

Memory is the anonymous memory of all processes together (/proc/PID/smaps_rollup, Linux), less what
they have before they load; its peak is sampled. Pages of the mapped files, which the kernel can
drop at any time, are counted separately. Ratios refer to one model in float32.

Prints JSON.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

KINDS = dict(anonymous='Pss_Anon', mapped_files='Pss_File')
WAYS = ('shards', 'whole')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--processes', type=int, default=4)
    parser.add_argument('--hidden-size', type=int, default=1344, help='a multiple of 192')
    parser.add_argument('--layers', type=int, default=8)
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=list(WAYS))
    parser.add_argument('--load', nargs=3, help=argparse.SUPPRESS)  # one of the processes
    return parser.parse_args()


if __name__ == '__main__':
    args = parse_args()  # so that --help does not wait for the imports below


def load(folder: str, way: str, reference: str) -> None:
    """Load and shard a policy in one of the processes; wait for a line before and after."""
    from contextlib import nullcontext

    import mmdpad.models  # noqa: F401  (registers)
    from mmdpad.engine.strategies import FSDP2Strategy
    from mmdpad.models.mapped_weights import weights_left_in_files
    from mmdpad.registry import MODELS
    from mmdpad.utils.processes import join_processes

    join_processes('pytorch')
    with tempfile.TemporaryDirectory() as work_dir:
        strategy = FSDP2Strategy(work_dir=work_dir, env_kwargs=dict(launcher='none'))
        report('ready')
        start = time.perf_counter()
        with weights_left_in_files() if way == 'shards' else nullcontext():  # as `build_runner`
            model = MODELS.build(dict(
                type='ReasoningSegmentor',
                loss=dict(type='GRPOLoss', kl_coef=0.01 * (reference == 'reference')),
                policy=dict(type='VLMReasoningHead', pretrained=folder)))
        model.build_reference()
        strategy.prepare(model, dispatch_kwargs={})
        report(time.perf_counter() - start)


def report(what: Any) -> None:
    print(f'@{what}', flush=True)
    sys.stdin.readline()


def memory_of(processes: list[subprocess.Popen]) -> dict[str, int]:
    """Bytes of all processes together, by kind."""
    total = dict.fromkeys(KINDS, 0)
    for process in processes:
        if (code := process.poll()) is not None:
            raise SystemExit(f'a process ended with {code}; -9 may mean that memory ran out: use '
                             f'`--processes`, `--hidden-size` or `--ways` to need less')
        text = Path(f'/proc/{process.pid}/smaps_rollup').read_text()
        for kind, name in KINDS.items():
            found = re.search(rf'^{name}:\s*(\d+) kB', text, re.MULTILINE)
            assert found, f'the kernel does not report {name}'
            total[kind] += 1024 * int(found[1])
    return total


def wait_for_all(processes: list[subprocess.Popen]) -> list[str]:
    """Each process's next report."""
    lines = []
    for process in processes:
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith('@')), None)
        if line is None:
            raise SystemExit(f'a process ended with {process.wait()}')
        lines.append(line[1:].strip())
    return lines


def go_on(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write('\n')
        process.stdin.flush()


def measure(folder: str, way: str, reference: str, count: int) -> dict[str, Any]:
    """Let processes load a policy, and sample their memory."""
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        port = str(server.getsockname()[1])
    environment = dict(os.environ, OMP_NUM_THREADS='1', MASTER_ADDR='127.0.0.1', MASTER_PORT=port,
                       WORLD_SIZE=str(count))
    processes = [subprocess.Popen(
        [sys.executable, __file__, '--load', folder, way, reference], text=True,
        env=dict(environment, RANK=str(rank), LOCAL_RANK=str(rank)), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for rank in range(count)]
    try:
        wait_for_all(processes)
        before = memory_of(processes)
        peak, done, seconds = dict(before), threading.Event(), list[str]()

        def finish() -> None:
            seconds.extend(wait_for_all(processes))
            done.set()

        waiting = threading.Thread(target=finish, daemon=True)
        go_on(processes)
        waiting.start()
        while not done.wait(0.01):
            if not waiting.is_alive():
                raise SystemExit('a process failed')
            now = memory_of(processes)
            peak = {kind: max(peak[kind], now[kind]) for kind in KINDS}
        after = memory_of(processes)
        peak = {kind: max(peak[kind], after[kind]) for kind in KINDS}
        go_on(processes)
        for process in processes:
            process.wait()
    finally:
        for process in processes:
            process.kill()
    return dict(peak={kind: peak[kind] - before[kind] for kind in KINDS},
                loaded={kind: after[kind] - before[kind] for kind in KINDS},
                seconds=max(map(float, seconds)))


def write_policy(folder: str, hidden_size: int, layers: int) -> dict[str, int]:
    """Write a random policy as bfloat16 files; return the bytes of the files and of the weights in
    float32."""
    import torch
    from common import make_config, write_processor
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration(make_config(hidden_size, layers, 3584))
    size = sum(4 * parameter.numel() for parameter in model.parameters())
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size='200MB')
    write_processor(folder, 840)
    return dict(files=sum(path.stat().st_size for path in Path(folder).glob('*.safetensors')),
                model=size)


def main(args: argparse.Namespace) -> None:
    from common import environment, print_json

    about = environment()
    with tempfile.TemporaryDirectory() as folder:
        size = write_policy(folder, args.hidden_size, args.layers)
        cases = {reference: {way: measure(folder, way, reference, args.processes)
                             for way in args.ways} for reference in ('policy', 'reference')}
    for case in cases.values():
        for measured in case.values():
            measured['ratio'] = {kind: value / size['model']
                                 for kind, value in measured['peak'].items()}
    print_json(dict(environment=about, setting=dict(
        processes=args.processes, hidden_size=args.hidden_size, layers=args.layers), bytes=size,
        cases=cases))


if __name__ == '__main__':
    load(*args.load) if args.load else main(args)
