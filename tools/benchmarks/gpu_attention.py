# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Ways to compute the attention of an update's rows on a GPU.

    python tools/benchmarks/gpu_attention.py > gpu_attention.json
    python tools/benchmarks/gpu_attention.py --model tiny --device cpu --prompt-tokens 30

Times the attention of one decoder layer, forward, and forward and backward, on random queries, keys
and values of a model's shape (bfloat16; float32 on a CPU), for prompts and responses of random
lengths in one row. Each response attends to its prompt and to its own earlier tokens.

- copied: `CopiedPrompts`, what mmdpad does on a GPU: `scaled_dot_product_attention`, with a copy of
  the prompt's keys and values for each response and for each query head.
- joined: `JoinedAttention`, what it does on a CPU. Its kernel is that of CPUs.
- varlen: one call of `torch.nn.attention.varlen`, with a copy for each response. CUDA only.
- flex: compiled `flex_attention` with a block mask, without copies. On a CPU, torch computes it
  forward only, and here without the compiler.

Prints JSON with seconds and peak memory of each way, the seconds of its first run (`flex` compiles)
and of what it prepares for each row, and how far its output and gradients are from those of
`copied`, relative to their norm. A way that cannot run, or runs out of memory, says so in its
place. Exits with 1 if another error occurred, or if a way computes something else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

MODELS = ('tiny', *(f'Qwen2.5-VL-{size}' for size in ('3B', '7B', '32B', '72B')))
WAYS = ('copied', 'joined', 'varlen', 'flex')
TOLERANCE = dict(float32=1e-5, bfloat16=0.02)


def parse_args(options: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--model', choices=MODELS, default='Qwen2.5-VL-3B')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=WAYS)
    parser.add_argument('--prompts', type=int, default=4, help='in the row')
    parser.add_argument('--prompt-tokens', type=int, default=1053,
                        help='of the longest prompt; others have up to a twentieth less')
    parser.add_argument('--group-size', type=int, default=8, help='responses per prompt')
    parser.add_argument('--lengths', type=int, nargs=2, default=(60, 340),
                        metavar=('SHORTEST', 'LONGEST'), help='of responses')
    parser.add_argument('--repeats', type=int, default=10, help='measured runs')
    args = parser.parse_args(options)
    if args.device.startswith('cuda'):
        import torch
        if not torch.cuda.is_available():
            parser.error(f'--device {args.device} needs a CUDA device, and torch finds none; use '
                         f'--model tiny --device cpu to try the program')
    return args


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

import torch
from common import environment, make_config, print_json
from device import Device
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from mmdpad.models.cost import read_policy_config
from mmdpad.models.heads.packed_attention import CopiedPrompts, JoinedAttention, PackedGroup

Attention = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(L, H, d), (L, K, d), (L, K, d) and the scale -> (L, H, d)."""


class Varlen:
    """Prompts and responses as sequences of different lengths in one causal call. The last query of
    a sequence sees all of its keys, which are, of a response, its prompt's and its own."""

    def __init__(self, groups: list[PackedGroup], device: torch.device) -> None:
        from torch.nn.attention.varlen import varlen_attn  # not in older versions of torch
        self.call = varlen_attn
        queries, keys, order, start = [], [], [], 0
        for group in groups:
            prompt = range(start, start + group.prompt)
            start = prompt.stop
            queries.append(group.prompt)
            keys.append(group.prompt)
            order += prompt
            for length in group.responses:
                queries.append(length)
                keys.append(group.prompt + length)
                order += [*prompt, *range(start, start + length)]
                start += length
        self.order = torch.tensor(order, device=device)
        self.ends = [torch.tensor([0, *lengths], device=device).cumsum(dim=0).int()
                     for lengths in (queries, keys)]
        self.longest = [max(queries), max(keys)]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        key, value = (x.index_select(0, self.order) for x in (key, value))
        return self.call(query, key, value, *self.ends, *self.longest, scale=scale,
                         window_size=(-1, 0), enable_gqa=True)


class Flex:
    """The whole row in one call, with a mask that skips blocks of hidden keys."""

    compiled = staticmethod(torch.compile(flex_attention, dynamic=True))

    def __init__(self, groups: list[PackedGroup], device: torch.device) -> None:
        numbers, responses = [], []
        for number, group in enumerate(groups):
            numbers += [number] * len(group)
            responses += [0] * group.prompt
            for own, length in enumerate(group.responses, start=1):
                responses += [own] * length
        prompt, part = (torch.tensor(x, device=device) for x in (numbers, responses))

        def is_visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            shared = (part[key] == 0) | (part[key] == part[query])
            return (key <= query) & (prompt[key] == prompt[query]) & shared

        self.mask = create_block_mask(is_visible, None, None, len(part), len(part), device)
        self.call = flex_attention if device.type == 'cpu' else self.compiled

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
        output = self.call(query, key, value, block_mask=self.mask, scale=scale, enable_gqa=True)
        return output[0].transpose(0, 1)


KINDS: dict[str, Callable[[list[PackedGroup], torch.device], Attention]] = dict(
    copied=CopiedPrompts, joined=JoinedAttention, varlen=Varlen, flex=Flex)


def why_not(way: str, device: torch.device) -> str | None:
    """Why a way cannot run on a device."""
    if way == 'joined' and device.type != 'cpu':
        return 'its kernel is that of CPUs'
    if way == 'varlen' and device.type != 'cuda':
        return 'torch.nn.attention.varlen needs CUDA'
    return None


class Row:
    """Random queries, keys and values of a row, and the gradient of its output."""

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(low: int, high: int, count: int) -> list[int]:
            return torch.randint(low, high + 1, (count, ), generator=generator).tolist()

        longest = args.prompt_tokens
        prompts = [longest, *draw(longest - longest // 20, longest, args.prompts - 1)]
        self.groups = [PackedGroup(length, draw(*args.lengths, args.group_size))
                       for length in prompts]
        self.tokens = sum(map(len, self.groups))
        config = (make_config(hidden_size=192, layers=2, vocab_size=3584) if args.model == 'tiny'
                  else read_policy_config(args.model)[0]).text_config
        self.heads = (config.num_attention_heads, config.num_key_value_heads)
        self.size = config.hidden_size // config.num_attention_heads
        dtype = torch.float32 if device.type == 'cpu' else torch.bfloat16
        self.inputs = [torch.randn(self.tokens, heads, self.size, generator=generator).to(
            device, dtype).requires_grad_() for heads in (*self.heads, self.heads[1])]
        self.gradient = torch.randn(self.tokens, self.heads[0], self.size,
                                    generator=generator).to(device, dtype)

    def forward(self, attention: Attention) -> list[Tensor]:
        """The output of one layer."""
        return [attention(*(x.detach() for x in self.inputs), self.size**-0.5)]

    def both(self, attention: Attention) -> list[Tensor]:
        """The output, and the gradients of queries, keys and values."""
        output = attention(*self.inputs, self.size**-0.5)
        return [output.detach(), *torch.autograd.grad(output, self.inputs, self.gradient)]


def measure_way(way: str, row: Row, expected: list[Tensor], device: Device,
                repeats: int) -> dict[str, Any]:
    """Seconds, memory and differences of a way."""
    def prepare() -> Attention:
        return KINDS[way](row.groups, device.device)

    prepared = median(device.repeat(prepare, repeats)['total'])
    attention = prepare()
    passes = dict(forward=lambda: row.forward(attention))
    if way != 'flex' or device.is_cuda:
        passes['forward_and_backward'] = lambda: row.both(attention)
    result: dict[str, Any] = dict(prepare_seconds=prepared)
    found: list[Tensor] = []
    for name, run in passes.items():
        with device.clock(name):
            found = run()
        first = device.seconds[name]
        seconds = device.repeat(run, repeats)['total']
        result[name] = dict(seconds=median(seconds), runs=seconds, first=first,
                            peak_bytes=device.peak_allocated())
    result['difference'] = [float((x - y).double().norm() / y.double().norm())
                            for x, y in zip(found, expected, strict=False)]
    return result


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run the chosen ways."""
    device = Device(args.device)
    row = Row(args, device.device)
    tolerance = TOLERANCE[str(row.gradient.dtype).removeprefix('torch.')]
    results: dict[str, Any] = {}
    expected = row.both(CopiedPrompts(row.groups, device.device))
    for way in (way for way in WAYS if way in args.ways):
        if (why := why_not(way, device.device)) is not None:
            results[way] = dict(skipped=why)
            continue
        try:
            results[way] = measure_way(way, row, expected, device, args.repeats)
        except torch.OutOfMemoryError as error:
            results[way] = dict(out_of_memory=str(error).partition('\n')[0])
        except Exception as error:  # the other ways may have taken long; `main` exits with 1
            results[way] = dict(error=f'{type(error).__name__}: {error}'.partition('\n')[0])
        else:
            results[way]['agrees'] = max(results[way]['difference']) < tolerance
        device.free()
    return dict(settings=vars(args), tokens=row.tokens, heads=row.heads, size=row.size,
                tolerance=tolerance, ways=results, ratio=ratios(results),
                environment=environment() | dict(
                    gpu=torch.cuda.get_device_name() if device.is_cuda else None))


def ratios(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Pass -> way -> how many times as long `copied` takes."""
    passes = [name for name in ('forward', 'forward_and_backward')
              if name in results.get('copied', ())]
    return {name: {way: results['copied'][name]['seconds'] / result[name]['seconds']
                   for way, result in results.items() if name in result and way != 'copied'}
            for name in passes}


def main() -> None:
    result = measure(parse_args())
    print_json(result)
    sys.exit(any('error' in way or not way.get('agrees', True)
                 for way in result['ways'].values()))


if __name__ == '__main__':
    main()
