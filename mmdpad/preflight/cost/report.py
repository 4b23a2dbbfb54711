# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Report the estimate of a training step as plain data and as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmdpad.models.cost.flops import ROLLOUT, step_flops
from mmdpad.models.cost.memory import Bytes, full_shard, peak, step_memory, trained_weights
from mmdpad.models.cost.shapes import PolicyShape
from mmdpad.models.cost.workload import Setup
from mmdpad.models.heads.recomputation import GB

from .from_config import TrainingCost, within_budget

LORA_RANK = 64


@dataclass(frozen=True)
class Variant:
    """A way to train, one row of the comparison table.

    Attributes:
        name: Its label.
        how: The settings that choose it, or 'not built' if it is not implemented.
        setup: How a step is computed.
    """

    name: str
    how: str
    setup: Setup


def variants(setup: Setup) -> list[Variant]:
    """List the ways to train, the configured one first."""
    full = replace(setup, lora_rank=0, weight_bytes=4, quantized_bytes=0.0, state=2.0, step=1.0)
    rank = setup.lora_rank or LORA_RANK
    return [
        Variant('as configured', '', setup),
        Variant('full, AdamW', "policy.dtype='float32'", full),
        Variant('full, AdamW, fused', 'optimizer.fused=True', replace(full, step=0.0)),
        Variant('full, 8-bit Adam', "optimizer.type='AdamW8bit' (bitsandbytes)",
                replace(full, state=0.5, step=0.0)),
        Variant('full, optimizer and float32 weights on the CPU', 'not built',
                replace(full, weight_bytes=2, state=0.0, step=0.0, offload=True)),
        Variant(f'LoRA of rank {rank} on bfloat16',
                f"policy.lora.r={rank}, policy.dtype='bfloat16'",
                replace(full, weight_bytes=2, lora_rank=rank)),
    ]


def make_report(cost: TrainingCost, gpus: int = 1, gpu_memory: float | None = None,
                longest: TrainingCost | None = None) -> dict[str, Any]:
    """Return the estimate as plain data.

    Args:
        cost: The cost of the config.
        gpus: Number of data parallel processes, each with its own GPU and batch.
        gpu_memory: Memory of one GPU, in units of 10^9 bytes; None to not judge what fits. A
            policy's ``memory_budget='auto'`` is spent on it.
        longest: The cost of the config with all responses at the length limit.
    """
    cost = within_budget(cost, gpus, gpu_memory)
    longest = None if longest is None else within_budget(longest, gpus, gpu_memory)
    flops = step_flops(cost.shape, cost.setup, cost.work)
    flops['rewards'] = {name: part.flops for name, part in cost.frozen.items()}
    moments = _memory(cost, cost.setup, gpus)
    moment, size = peak(moments)
    possible, unknown = _possible(cost.shape, variants(cost.setup))
    return dict(
        notes=[*cost.notes, *unknown], gpus=gpus, parameters=cost.shape.parameters,
        vision_parameters=cost.shape.vision_parameters,
        trained_parameters=trained_weights(cost.shape, cost.setup),
        tokens=_tokens(cost), flops=flops,
        training_flops=_training_flops(cost), rollout_flops=sum(
            sum(flops.get(name, {}).values()) for name in ROLLOUT),
        replicated_training_flops=_training_flops(replace(cost, work=cost.work.replicated())),
        memory=dict(peak=size, moment=moment, moments=moments),
        longest=None if longest is None else dict(
            response_tokens=longest.work.length,
            peak=peak(_memory(longest, longest.setup, gpus))[1]),
        variants=[_variant(cost, variant, gpus, gpu_memory) for variant in possible])


def _possible(shape: PolicyShape, asked: Iterable[Variant]) -> tuple[list[Variant], list[str]]:
    """The variants whose adapter the policy can have, if they have one; and a note on those that
    need peft, if it is not installed."""
    found, unknown = [], []
    for variant in asked:
        try:
            if variant.setup.lora_rank:
                shape.adapter_weights(variant.setup.lora_rank)
            found.append(variant)
        except ImportError:
            unknown.append(variant.name)
        except ValueError:
            pass
    return found, [f'not estimated, since peft is not installed: {", ".join(unknown)}'] * bool(
        unknown)


def _tokens(cost: TrainingCost) -> dict[str, Any]:
    work = cost.work
    talk = {} if work.turns == 1 else dict(turns=work.turns, replies=work.reply_tokens,
                                           reply_images=int(work.reply_images))
    return dict(
        **talk, prompts=work.prompts, group_size=work.group_size, prompt=work.prompt_tokens,
        image=work.image.tokens, response=work.response_tokens, responses=work.generated,
        per_pass=work.tokens, per_pass_replicated=work.replicated().tokens,
        images_per_pass=int(sum(work.all_images.values())),
        images_per_pass_replicated=int(sum(work.replicated().all_images.values())),
        micro_batch=replace(work, prompts=cost.setup.groups).tokens, groups=cost.setup.groups)


def _training_flops(cost: TrainingCost) -> int:
    return sum(sum(parts.values()) for name, parts in
               step_flops(cost.shape, cost.setup, cost.work).items() if name not in ROLLOUT)


def _memory(cost: TrainingCost, setup: Setup, gpus: int) -> dict[str, Bytes]:
    frozen = {name: part.bytes for name, part in cost.frozen.items()}
    return step_memory(cost.shape, setup, cost.work, frozen, gpus)


def configured_memory(cost: TrainingCost, gpus: int = 1, gpu_memory: float | None = None
                      ) -> tuple[TrainingCost, dict[str, Any]]:
    """Return the cost within its memory budget, and of :func:`make_report`'s ``variants`` the
    first, without the time that the others take. Arguments are as there."""
    cost = within_budget(cost, gpus, gpu_memory)
    return cost, _variant(cost, variants(cost.setup)[0], gpus, gpu_memory)


def _variant(cost: TrainingCost, variant: Variant, gpus: int,
             gpu_memory: float | None) -> dict[str, Any]:
    moments = _memory(cost, variant.setup, gpus)
    moment, size = peak(moments)
    shards = full_shard(moments, gpus, cost.shape, variant.setup)
    sharded = peak(shards)[1]
    updates = peak({name: parts for name, parts in shards.items() if name != 'rollout'})[1]

    def fits(size: float) -> bool | None:
        return None if gpu_memory is None else size <= gpu_memory * GB

    return dict(name=variant.name, how=variant.how, built=variant.how != 'not built', peak=size,
                moment=moment, fits=fits(size), sharded_peak=sharded, sharded_fits=fits(sharded),
                sharded_update_peak=updates, sharded_update_fits=fits(updates))


def format_report(report: Mapping[str, Any]) -> str:
    """Format the estimate as text."""
    return '\n'.join([*_format_work(report), '', *_format_flops(report), '',
                      *_format_memory(report), '', *_format_variants(report), ''])


def _format_work(report: Mapping[str, Any]) -> list[str]:
    tokens = report['tokens']
    talk = '' if 'turns' not in tokens else (
        f' in {tokens["turns"]} turns, with {tokens["replies"]} of replies '
        f'({tokens["reply_images"]} images)')
    return [
        *report['notes'],
        f'parameters: {_billions(report["parameters"])} '
        f'({_billions(report["vision_parameters"])} vision tower), '
        f'{_billions(report["trained_parameters"])} trained',
        f'a step on one GPU: {tokens["prompts"]} prompts x {tokens["group_size"]} responses, '
        f'{tokens["prompt"]} tokens per prompt ({tokens["image"]} of its image), '
        f'{tokens["response"]} per response{talk}',
        f'a pass: {tokens["per_pass"]:,} tokens, {tokens["images_per_pass"]} images '
        f'(prompts repeated: {tokens["per_pass_replicated"]:,}, '
        f'{tokens["images_per_pass_replicated"]})',
        f'a micro-batch: {tokens["micro_batch"]:,} tokens ({tokens["groups"]} groups)']


def _format_flops(report: Mapping[str, Any]) -> list[str]:
    training, repeated = report['training_flops'], report['replicated_training_flops']
    unit, name = (1e15, 'PFLOP') if training >= 1e14 else (1e12, 'TFLOP')
    lines = [f'{name + " per step and GPU":24}{"text":>9}{"head":>9}{"vision":>9}{"sum":>9}']
    for which, parts in report['flops'].items():
        if which != 'rewards':
            cells = [*(parts[part] for part in ('text', 'head', 'vision')), sum(parts.values())]
            lines.append(f'{which:24}' + ''.join(f'{cell / unit:9.3f}' for cell in cells))
    lines += [f'{which:51}{cell / unit:9.3f}' for which, cell in report['flops']['rewards'].items()
              if cell]
    return [*lines, f'without rollout and rewards: {training / unit:.3f} '
                    f'(prompts and images repeated: {repeated / unit:.3f}, '
                    f'{repeated / training:.2f} times as much)']


def _format_memory(report: Mapping[str, Any]) -> list[str]:
    moments = sorted(report['memory']['moments'].items(), key=lambda item: -sum(item[1].values()))
    always = dict.items(moments[0][1])
    for _, parts in moments:
        always = [item for item in always if item in parts.items()]
    lines = ['GB per GPU (10^9 bytes; without the CUDA context and fragmentation by the allocator)',
             f'{sum(size for _, size in always) / GB:8.2f}  always{_list_parts(always)}']
    for name, parts in moments:
        own = [item for item in parts.items() if item not in always]
        lines.append(f'{sum(parts.values()) / GB:8.2f}  total, {name}{_list_parts(own)}')
    if report['longest']:
        what = 'conversations' if 'turns' in report['tokens'] else 'responses'
        lines.append(f'{report["longest"]["peak"] / GB:8.2f}  peak, with all {what} at the '
                     f'limit of {report["longest"]["response_tokens"]} tokens')
    return lines


def _list_parts(parts: Iterable[tuple[str, float]]) -> str:
    shown = [f'{name} {size / GB:.2f}' for name, size in parts if size >= 0.005 * GB]
    return ': ' + ', '.join(shown) if shown else ''


def _format_variants(report: Mapping[str, Any]) -> list[str]:
    gpus = report['gpus']
    shard = f'{gpus} shards{"update":>15}' if gpus > 1 else ''
    lines = [f'{"GB per GPU, peak":50}{"":>14}  {shard}'.rstrip()]
    for row in report['variants']:
        cells = f'{row["name"]:50}{row["peak"] / GB:8.1f}{_verdict(row["fits"]):>6}'
        if gpus > 1:
            cells += ''.join(f'{row[f"{which}_peak"] / GB:9.1f}{_verdict(row[f"{which}_fits"]):>6}'
                             for which in ('sharded', 'sharded_update'))
        lines.append(f'{cells}  {row["how"]}'.rstrip())
    if gpus > 1:
        lines.append('shards: with FSDP2Strategy, including the layers it gathers, and for a '
                     'rollout the policy; update: without rollouts, as where servers sample')
    return lines


def _verdict(fits: bool | None) -> str:
    return {None: '', True: 'fits', False: 'no'}[fits]


def _billions(count: int) -> str:
    return f'{count / 1e9:.2f} billion' if count >= 1e8 else f'{count / 1e6:.2f} million'
