# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A full-size training step on one GPU, compared with the device's limits and mmdpad's estimates.

    python tools/benchmarks/gpu_step.py --model Qwen2.5-VL-3B
    python tools/benchmarks/gpu_step.py --model Qwen2.5-VL-7B --lora 64
    python tools/benchmarks/gpu_step.py --model tiny --device cpu --side 112 --tokens 20

Random weights of the published shapes are created on the device itself; nothing is downloaded.
Images are random too, and responses have `--tokens` tokens each. Arithmetic is bfloat16 by
autocast, over float32 weights, or with `--lora` over bfloat16 weights, as in configs/dpad/.

- update: loss, reference and backward pass of random responses, and the optimizer; its share of
  the matrix-product peak, and peak memory against mmdpad.models.cost.
- decode: `SharedPrefixRollout` as it is, and without guesses: as it is then, with the host waiting
  for each step, and without CUDA graphs; against `HFRollout` (generate). Also their share of the
  memory bandwidth's limit.
- step: rollout, reference, update and optimizer of all prompts, in micro-batches as configured.

If a part runs out of memory, this is reported in its place and the others continue. Prints JSON;
exits with 1 if a part failed for another reason.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

MODELS = ('tiny', *(f'Qwen2.5-VL-{size}' for size in ('3B', '7B', '32B', '72B')))
PARTS = ('update', 'decode', 'step')
ENGINES = ('mmdpad', 'no_guesses', 'each_step', 'no_graphs', 'generate')


def parse_args(options: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--model', choices=MODELS, default='Qwen2.5-VL-3B')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument('--prompts', type=int, default=4)
    parser.add_argument('--group-size', type=int, default=8, help='responses per prompt')
    parser.add_argument('--tokens', type=int, default=200, help='length of a response, at least 2')
    parser.add_argument('--side', type=int, default=840, help='side of the images, in pixels')
    parser.add_argument('--lora', type=int, default=0, metavar='RANK', help='0: all weights')
    parser.add_argument('--weights', choices=('float32', 'bfloat16'),
                        help='default: bfloat16 below an adapter, else float32')
    parser.add_argument('--frozen-vision', action='store_true')
    parser.add_argument('--no-checkpointing', action='store_true')
    parser.add_argument('--micro-batch-tokens', type=int, default=12288,
                        help='of one forward and backward pass')
    parser.add_argument('--engines', nargs='+', choices=ENGINES, default=ENGINES,
                        help='of `decode`')
    parser.add_argument('--repeats', type=int, default=3, help='measured runs')
    parser.add_argument('--profile', type=int, default=0, metavar='ROWS',
                        help='list this number of the most expensive operations of `update`')
    args = parser.parse_args(options)
    if args.tokens < 2:
        parser.error('--tokens should be at least 2')
    if args.device.startswith('cuda'):
        import torch
        if not torch.cuda.is_available():
            parser.error(f'--device {args.device} needs a CUDA device, and torch finds none; use '
                         f'--model tiny --device cpu to try the program')
    args.weights = args.weights or ('bfloat16' if args.lora else 'float32')
    return args


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

import torch
from common import (
    PROMPT_TEMPLATE,
    QUESTION,
    EndlessHead,
    environment,
    make_config,
    make_image,
    print_json,
    random_rollout,
    token_ids,
    unseen,
    write_processor,
)
from device import Device
from mmdet.structures import DetDataSample
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from mmdpad.models import HFRollout, ReasoningSegmentor, SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.cost import (
    ImageInputs,
    PolicyShape,
    Setup,
    Workload,
    peak,
    read_policy_config,
    step_flops,
    step_memory,
)
from mmdpad.models.cost.workload import groups_in_pass
from mmdpad.models.heads.encoded_prompt import EncodedPrompt
from mmdpad.models.heads.prompt_encoder import PromptEncoder
from mmdpad.structures import LossScale, RolloutBatch

OUT_OF_MEMORY = 'out of memory'


class RandomHead(EndlessHead):
    """A policy whose ``pretrained`` has no weights; it creates random ones on the default
    device."""

    def _load_model(self, source: str, dtype: str, **_: Any) -> PreTrainedModel:
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(source),
                                                        dtype=getattr(torch, dtype))
        model.tie_weights()
        return model


class TimedSegmentor(ReasoningSegmentor):
    """Times the reference pass within the loss."""

    device_clock: Device

    def _reference_log_probs(self, *tokens: Any) -> Tensor:
        with self.device_clock.clock('reference'):
            return super()._reference_log_probs(*tokens)


class CPUAmpOptimWrapper(OptimWrapper):
    """Does the mixed-precision arithmetic of ``AmpOptimWrapper``, which needs a GPU."""

    @contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def write_source(folder: str, model: str, side: int) -> PolicyShape:
    """Write the config and processor of a model, and an empty weight file; return its shape."""
    if model == 'tiny':
        config = make_config(hidden_size=192, layers=2, vocab_size=3584)
    else:
        config, _ = read_policy_config(model)
        for name, value in token_ids().items():  # the tokenizer is the toy policy's
            for part in (config, config.text_config):
                if hasattr(part, name):
                    setattr(part, name, value)
    config.save_pretrained(folder)
    write_processor(folder, side)
    save_file({}, f'{folder}/model.safetensors')
    return PolicyShape.of(AutoConfig.from_pretrained(folder), dict(r=8))


def make_model(folder: str, args: argparse.Namespace, device: Device) -> TimedSegmentor:
    """Build the policy on the device."""
    policy = dict(type=RandomHead, pretrained=folder, prompt_template=PROMPT_TEMPLATE,
                  dtype=args.weights, freeze_vision=args.frozen_vision, max_prompt_tokens=10000,
                  gradient_checkpointing=not args.no_checkpointing, low_precision_training=True)
    if args.lora:
        policy['lora'] = dict(r=args.lora, lora_alpha=2 * args.lora)
    torch.manual_seed(0)
    with torch.device(device.device):
        model = TimedSegmentor(policy, train_cfg=dict(
            group_size=args.group_size, max_new_tokens=args.tokens))
    model.device_clock = device
    return model.to(device.device)


def encode(folder: str, args: argparse.Namespace) -> list[EncodedPrompt]:
    """One prompt for each of B random images."""
    encoder = PromptEncoder(folder, PROMPT_TEMPLATE, max_tokens=10000)
    return [encoder(make_image(args.side, seed), QUESTION) for seed in range(args.prompts)]


class Training:
    """A policy, its reference and its optimizer, and the training loop's steps with them."""

    def __init__(self, folder: str, args: argparse.Namespace, device: Device) -> None:
        self.args, self.device = args, device
        self.at_start = device.allocated()
        self.model = make_model(folder, args, device).train()
        self.model.build_reference()
        trained = [p for p in self.model.policy.parameters() if p.requires_grad]
        options = dict(optimizer=torch.optim.AdamW(trained, lr=1e-6, weight_decay=1e-2, fused=True),
                       clip_grad=dict(max_norm=1.0))
        self.wrapper = (AmpOptimWrapper(dtype='bfloat16', **options) if device.is_cuda else
                        CPUAmpOptimWrapper(**options))
        self.prompts = encode(folder, args)
        self.samples = [DetDataSample(metainfo=dict(question=QUESTION)) for _ in self.prompts]

    def random_rollout(self) -> RolloutBatch:
        """Random responses for all prompts."""
        rows = self.args.prompts * self.args.group_size
        return random_rollout(self.prompts, torch.full((rows, ), self.args.tokens))

    def rollout(self) -> RolloutBatch:
        """Sampled responses for all prompts."""
        images = [make_image(self.args.side, seed) for seed in range(self.args.prompts)]
        with self.device.clock('rollout'), self.wrapper.optim_context(self.model):
            rollout = self.model.rollout(
                dict(prompt=unseen(self.prompts), model_image=images), self.samples)
        rollout.advantages = torch.randn(self.args.prompts, self.args.group_size)
        return rollout

    def update(self, rollout: RolloutBatch) -> None:
        """One optimizer step in micro-batches."""
        parts = list(rollout.pack(self.args.micro_batch_tokens))
        scale = LossScale.of(rollout.response_mask, len(parts))
        for part in parts:
            part.loss_scale = scale
            with self.device.clock('update'):
                with self.wrapper.optim_context(self.model):
                    loss = self.model.loss(part)['loss'] / len(parts)
                self.wrapper.backward(loss)
        self.device.seconds['update'] -= self.device.seconds['reference']
        with self.device.clock('optimizer'):
            self.wrapper.step()
            self.wrapper.zero_grad()

    def step(self) -> None:
        """A complete step."""
        self.update(self.rollout())


def workload(folder: str, args: argparse.Namespace) -> Workload:
    """The workload of a step with these settings."""
    prompt = encode(folder, args)[0]
    return Workload(args.prompts, args.group_size, len(prompt), args.tokens,
                    ImageInputs.of(prompt))


def make_setup(args: argparse.Namespace, work: Workload, rollout: str) -> Setup:
    """The set-up for it; ``rollout`` as in :class:`Setup`."""
    group = dataclasses.replace(work, prompts=1).tokens
    groups = groups_in_pass(args.micro_batch_tokens, work.prompts, group)
    return Setup(weight_bytes=dict(float32=4, bfloat16=2)[args.weights], amp=True,
                 lora_rank=args.lora, freeze_vision=args.frozen_vision,
                 checkpointing=not args.no_checkpointing, rollout=rollout, groups=groups,
                 accumulates=groups < work.prompts, step=0.0)


class Benchmark:
    """The parts of the benchmark.

    Args:
        folder: Folder with config and processor, see :func:`write_source`.
        shape: The policy's shape.
        args: The settings.
        device: Where it runs.
        limits: See :meth:`Device.limits`.
    """

    def __init__(self, folder: str, shape: PolicyShape, args: argparse.Namespace, device: Device,
                 limits: dict[str, Any]) -> None:
        self.folder, self.shape, self.args, self.device = folder, shape, args, device
        self.limits = limits
        self.work = workload(folder, args)

    def update(self) -> dict[str, Any]:
        """Updates with random responses. The share of the peak excludes the optimizer."""
        training = Training(self.folder, self.args, self.device)
        runs = self.device.repeat(lambda: training.update(training.random_rollout()),
                                  self.args.repeats)
        setup = make_setup(self.args, self.work, rollout='none')
        seconds = medians(runs)
        flops = sum(self._flops(setup).values())
        result = dict(seconds=seconds, runs=runs, flops=self._flops(setup),
                      share_of_peak=self._share(flops, seconds['update'] + seconds['reference']),
                      memory=self._memory(setup, training.at_start))
        if self.args.profile:
            result['profile'] = self.device.profile(
                lambda: training.update(training.random_rollout()), self.args.profile)
        return result

    def step(self) -> dict[str, Any]:
        """Complete steps. A rollout's operations are those of its prefill and decoding."""
        training = Training(self.folder, self.args, self.device)
        runs = self.device.repeat(training.step, self.args.repeats)
        setup = make_setup(self.args, self.work, rollout='shared')
        seconds, flops = medians(runs), self._flops(setup)
        return dict(seconds=seconds, runs=runs, flops=flops,
                    share_of_peak={name: self._share(flops[name], seconds[name])
                                   for name in flops},
                    memory=self._memory(setup, training.at_start))

    def decode(self) -> dict[str, Any]:
        """Rollouts of one length by each engine."""
        head = make_model(self.folder, self.args, self.device).policy
        engines = dict(
            mmdpad=SharedPrefixRollout(), no_guesses=SharedPrefixRollout(max_guess=0),
            each_step=SharedPrefixRollout(max_guess=0),
            no_graphs=SharedPrefixRollout(max_guess=0, cuda_graphs=False), generate=HFRollout())
        engines['each_step'].streamer = lambda tokens: None  # gets each token at once
        results = {}
        for name in (name for name in ENGINES if name in self.args.engines):
            if name == 'generate':
                head.model.set_attn_implementation(dict(text_config='sdpa', vision_config='sdpa'))
            results[name] = attempt(lambda name=name: self._rollouts(head, engines[name]),
                                    self.device)
        took = {name: result['seconds'] for name, result in results.items()
                if 'seconds' in result}
        return dict(engines=results, bytes_per_token=self._bytes_per_token(),
                    ratio={name: took['generate'] / seconds for name, seconds in took.items()
                           if name != 'generate' and 'generate' in took})

    def _rollouts(self, head: VLMReasoningHead, engine: Any) -> dict[str, Any]:
        """Rollouts by one engine, and their prefills, which end with the first token."""
        prompts, args = encode(self.folder, self.args), self.args

        def rollout(tokens: int) -> None:
            with torch.autocast(self.device.device.type, torch.bfloat16):
                responses = engine(head, unseen(prompts), args.group_size, max_new_tokens=tokens)
            assert responses.mask.all() and responses.mask.shape[1] == tokens

        runs = self.device.repeat(lambda: rollout(args.tokens), args.repeats)['total']
        prefills = self.device.repeat(lambda: rollout(1), args.repeats)['total']
        seconds, prefill = median(runs), median(prefills)
        bound = self._bytes_per_token() / self.limits['bandwidth']
        return dict(seconds=seconds, prefill_seconds=prefill, runs=runs,
                    tokens_per_second=self.work.generated / seconds,
                    share_of_bandwidth=bound * (args.tokens - 1) / (seconds - prefill))

    def _bytes_per_token(self) -> int:
        """Bytes to read for one more token of all responses: the weights of language model and
        output head, keys and values of each prompt, and on average half of the responses'."""
        text, work, args = self.shape.text, self.work, self.args
        weights = text.linear + text.hidden * text.vocabulary + (
            self.shape.adapter_weights(args.lora) if args.lora else 0)
        tokens = work.prompts * work.prompt_tokens + work.generated // 2
        return 2 * (weights + text.cached * tokens)

    def _flops(self, setup: Setup) -> dict[str, int]:
        """Operations by pass."""
        passes = step_flops(self.shape, setup, self.work)
        return {name: sum(parts.values()) for name, parts in passes.items()}

    def _share(self, flops: int, seconds: float) -> float:
        return flops / seconds / self.limits['matmul_flops']

    def _memory(self, setup: Setup, at_start: int | None) -> dict[str, Any]:
        """The measured and the estimated peak, in bytes; ``at_start`` is the memory in use before,
        which should not exceed cuBLAS's workspace (32 MiB)."""
        moment, estimate = peak(step_memory(self.shape, setup, self.work))
        measured = self.device.peak_allocated()
        return dict(at_start=at_start, measured=measured, estimate=estimate, moment=moment,
                    ratio=None if measured is None else measured / estimate)


def medians(runs: dict[str, list[float]]) -> dict[str, float]:
    return {name: median(values) for name, values in runs.items()}


def attempt(function: Callable[[], dict[str, Any]], device: Device) -> dict[str, Any]:
    """The result of a part, or its error; its memory is freed afterwards."""
    try:
        result = function()
    except torch.OutOfMemoryError as error:
        result = dict(error=OUT_OF_MEMORY, message=str(error).partition('\n')[0])
    except Exception as error:  # the other parts may have taken long; `main` exits with 1
        traceback.print_exc()
        result = dict(error=type(error).__name__, message=str(error).partition('\n')[0])
    device.free()
    return result


def has_failed(result: Any) -> bool:
    """Whether a part failed for a reason other than memory."""
    if not isinstance(result, dict):
        return False
    return (result.get('error', OUT_OF_MEMORY) != OUT_OF_MEMORY
            or any(map(has_failed, result.values())))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run the chosen parts."""
    device = Device(args.device)
    limits = device.limits(args.repeats)
    with tempfile.TemporaryDirectory() as folder:
        shape = write_source(folder, args.model, args.side)
        benchmark = Benchmark(folder, shape, args, device, limits)
        parts = {part: attempt(getattr(benchmark, part), device) for part in args.parts}
    return dict(settings=vars(args), parameters=shape.parameters,
                prompt_tokens=benchmark.work.prompt_tokens, device=limits, **parts,
                environment=environment())


def main() -> None:
    result = measure(parse_args())
    print_json(result)
    sys.exit(has_failed(result))


if __name__ == '__main__':
    main()
