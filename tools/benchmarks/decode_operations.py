# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Operations of one decoding step of a Qwen2.5-VL-3B shape, with fused layers and with the model's.

    python tools/benchmarks/decode_operations.py
    python tools/benchmarks/decode_operations.py --before CHECKOUT

Counts what torch dispatches for the next token of each sample: all operations, and those that
launch something (views of a tensor do not). `gpu` is bfloat16 on fake CUDA tensors
(`FakeTensorMode`), for which torch chooses what it would choose on a GPU; `cpu` is float32. Layers
and heads are those of the 3B model; widths do not matter and are small. `lora` has an adapter on
all linear layers of the language model. With `--before`, the model's layers of another checkout of
mmdpad are counted, too; `ratio` is fused to those, or to this checkout's. Prints JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
from typing import Any


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--before', metavar='CHECKOUT', help='folder of another checkout')
    parser.add_argument('--layers', type=int, default=36)
    parser.add_argument('--prompts', type=int, default=4)
    parser.add_argument('--group-size', type=int, default=8, help='samples per prompt')
    parser.add_argument('--counts-only', action='store_true', help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

import torch
from common import environment, print_json, token_ids
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForImageTextToText, PreTrainedModel, Qwen2_5_VLConfig

from mmdpad.models.heads.lora import add_lora
from mmdpad.models.rollouts import shared_prefix_rollout
from mmdpad.models.rollouts.prefix_cache import PrefixCache

try:
    from mmdpad.models.rollouts import decoding
except ImportError:  # a checkout from before there were fused layers
    decoding = shared_prefix_rollout
HEADS, KV_HEADS, SIZE, RANK = 16, 2, 16, 4
PROMPT = 24


class Counter(TorchDispatchMode):
    """Counts operations, and those of them that launch something."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        if func.namespace == 'prim':  # a fake tensor that is asked for its device
            return func(*args, **(kwargs or {}))
        self.operations += 1
        self.launches += not (func.is_view or '_unsafe_view' in func.name())
        return func(*args, **(kwargs or {}))


def make_model(layers: int, dtype: torch.dtype, lora: bool) -> PreTrainedModel:
    """A narrow model with the 3B model's heads."""
    ids = token_ids()
    rope = dict(rope_type='default', rope_theta=1e6, mrope_section=[2, 3, 3])
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=512, hidden_size=HEADS * SIZE, intermediate_size=3 * SIZE,
            num_hidden_layers=layers, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
            rope_parameters=rope, **{name: ids[name] for name in
                                     ('bos_token_id', 'eos_token_id', 'pad_token_id')}),
        vision_config=dict(depth=1, hidden_size=32, num_heads=2, intermediate_size=32,
                           out_hidden_size=HEADS * SIZE), **ids)
    model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    model.set_attn_implementation(dict(text_config='shared_prefix', vision_config='sdpa'))
    if lora:
        add_lora(model, dict(r=RANK))
    return model.eval()


class Step:
    """The inputs of a step on the CPU.

    Args:
        args: The settings.
        dtype: The dtype of the cache.
    """

    def __init__(self, args: argparse.Namespace, dtype: torch.dtype) -> None:
        samples = args.prompts * args.group_size
        self.cache = PrefixCache([PROMPT] * args.prompts, torch.device('cpu'))
        for layer in range(args.layers):
            self.cache.put_prompts(0, layer, *(
                [torch.zeros(KV_HEADS, PROMPT, SIZE, dtype=dtype)] * args.prompts
                for _ in range(2)))
        self.feed: Any = torch.zeros(samples, dtype=torch.long)
        self.starts = self.feed + PROMPT
        self.cache.repeats = HEADS // KV_HEADS
        self.cache.start_samples(args.group_size)
        if hasattr(self.cache, 'feed'):
            self.cache.make_room(1)
            self.feed = self.cache.feed(self.feed)
        else:
            self.cache.make_room()

    def count(self, model: PreTrainedModel, fused: bool) -> dict[str, int]:
        """Count the operations of the step."""
        rotary = decoding.rotary_table(model, 4 * PROMPT)
        layers = decoding.FusedLayers(model) if fused else model
        with torch.no_grad(), Counter() as found:
            decoding.decode_step(layers, self.cache, self.feed, self.starts, rotary)
        return dict(operations=found.operations, launches=found.launches)


def on_fake_gpu(value: Any, done: dict[int, Any]) -> Any:
    """A copy of a step's inputs with fake CUDA tensors in place of its own."""
    if id(value) not in done:
        if isinstance(value, Tensor):
            made: Any = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype,
                                            device='cuda')
            if isinstance(value, torch.nn.Parameter):
                made = torch.nn.Parameter(made, value.requires_grad)
        elif isinstance(value, torch.device):
            made = torch.device('cuda')
        elif isinstance(value, list):
            made = [on_fake_gpu(item, done) for item in value]
        elif isinstance(value, tuple):
            items = [on_fake_gpu(item, done) for item in value]
            made = type(value)(*items) if hasattr(value, '_fields') else tuple(items)
        elif isinstance(value, (Step, PrefixCache)):
            made = copy.copy(value)
            vars(made).update({name: on_fake_gpu(item, done)
                               for name, item in vars(value).items()})
        else:
            made = value
        done[id(value)] = made, value  # which keeps the number in use
    return done[id(value)][0]


def count(args: argparse.Namespace) -> dict[str, Any]:
    """Counts by kind of layers ('model', 'fused'), adapter and device."""
    kinds = ['model'] + ['fused'] * hasattr(decoding, 'FusedLayers')
    found: dict[str, Any] = {kind: {} for kind in kinds}
    gpu = FakeTensorMode()
    for name in ('plain', 'lora'):
        on_cpu, cast = Step(args, torch.float32), Step(args, torch.bfloat16)
        fake = make_model(args.layers, torch.bfloat16, name == 'lora')
        with gpu:
            on_gpu = on_fake_gpu(cast, {})
            for module in fake.modules():
                for tensors in (module._parameters, module._buffers):
                    tensors.update({key: on_fake_gpu(value, {}) for key, value in tensors.items()})
        model = make_model(args.layers, torch.float32, name == 'lora')
        for kind in kinds:
            counts = dict(cpu=on_cpu.count(model, kind == 'fused'))
            with gpu:
                counts['gpu'] = on_gpu.count(fake, kind == 'fused')
            found[kind][name] = counts
    return found


def count_before(args: argparse.Namespace) -> dict[str, Any]:
    """The same in another checkout."""
    command = [sys.executable, __file__, '--counts-only', f'--layers={args.layers}',
               f'--prompts={args.prompts}', f'--group-size={args.group_size}']
    done = subprocess.run(command, env=dict(os.environ, PYTHONPATH=args.before), check=True,
                          stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)['model']


def main() -> None:
    args = parse_args()
    found = count(args)
    if args.counts_only:
        print(json.dumps(found))
        return
    if args.before:
        found['before'] = count_before(args)
    other = found['before' if args.before else 'model']
    ratio = {name: {device: {kind: value / other[name][device][kind]
                             for kind, value in counts.items()}
                    for device, counts in devices.items()}
             for name, devices in found['fused'].items()}
    print_json(dict(found, ratio=ratio, settings=vars(args), environment=environment()))


if __name__ == '__main__':
    main()
