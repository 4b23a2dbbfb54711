# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Where NaN and infinity come from in a model's outputs, found out when they are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

DTYPE_KEY = '`model.policy.dtype` (under AMP `optim_wrapper.dtype`)'
"""What sets the type that a policy computes in."""
_SHOWN = 4


class NonFiniteError(FloatingPointError):
    """Outputs of a model are NaN or infinite; the message says where that begins, and what helps.

    Args:
        message: A sentence or more.
        prompt: Number of the prompt in its batch, where it is one's.
    """

    def __init__(self, message: str, prompt: int | None = None) -> None:
        super().__init__(message)
        self.prompt = prompt


@contextmanager
def naming_samples(data_samples: Sequence[Any]) -> Iterator[None]:
    """An error about a prompt of these data samples says which question it is, about which image.
    """
    try:
        yield
    except NonFiniteError as error:
        if error.prompt is None:
            raise
        raise NonFiniteError(f'{error}. {describe_sample(data_samples[error.prompt])}',
                             error.prompt) from error.__cause__


@contextmanager
def told_by_all() -> Iterator[None]:
    """An error that every process raises says on each of them what it says on the one that knows
    the prompt, since the first that ends ends the others."""
    try:
        yield
    except NonFiniteError as error:
        texts = all_gather_object('' if error.prompt is None else str(error))
        raise NonFiniteError(next(filter(None, texts))) from error.__cause__


def describe_sample(sample: Any) -> str:
    """What tells a data sample's prompt from others."""
    about = (f'{name} {value!r}' for name in ('question', 'img_path', 'sample_idx')
             if (value := sample.get(name)) is not None)
    return f'The prompt: {", ".join(about)}'


@contextmanager
def watched_outputs(model: nn.Module) -> Iterator[list[str]]:
    """Within the block a forward pass of the model writes into the list which of its modules is the
    first to have an output that is not finite. Each output is looked at, which takes its time.

    Yields:
        Empty, or one sentence.
    """
    found: list[str] = []
    names = {module: name for name, module in model.named_modules()}

    def look(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if found or all(map(_is_finite, _tensors(output))):
            return
        dtype = next(str(tensor.dtype) for tensor in _tensors(output) if not _is_finite(tensor))
        given = next(_tensors([*args, kwargs.get('hidden_states')]), None)
        said = ''
        if given is not None and _is_finite(given):
            said = f', while its input is (up to {given.abs().max():.2g})'
        elif given is not None:
            said = ', nor is its input, which no module before it has put out'
        found.append(f'The first output that is not finite is that of `{names[module]}` '
                     f'({type(module).__name__}, {dtype.removeprefix("torch.")}){said}.')

    handles = [module.register_forward_hook(look, with_kwargs=True) for module in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def diagnose(model: nn.Module, again: Callable[[], Any], dtype_key: str) -> str:
    """Why outputs are not finite: which module is the first, and which weights, in sentences, with
    what to do.

    Args:
        model: Whose outputs they are.
        again: Repeats the forward pass in question.
        dtype_key: Of the config, what sets the type that the model computes in.
    """
    with torch.no_grad(), watched_outputs(model) as found:
        again()
    return explain(model, found, dtype_key)


def explain(model: nn.Module, found: list[str], dtype_key: str) -> str:
    """See :func:`diagnose`; ``found`` is that of :func:`watched_outputs`."""
    if not found:
        found = ['When the pass is repeated all outputs are finite: weights or inputs were others, '
                 'or the fault is in how it was computed (a compiled step, a device).']
    if bad := non_finite_weights(model):
        more = f' and {len(bad) - _SHOWN} more' if len(bad) > _SHOWN else ''
        return (f'{found[0]} Weights are not finite themselves: {", ".join(bad[:_SHOWN])}{more}. '
                f'The file that they came from is damaged, or its training has diverged: take an '
                f'earlier checkpoint, or get the file again')
    if 'float16)' in found[0] and 'bfloat16)' not in found[0]:
        return (f'{found[0]} All weights are finite, and float16 ends at 65504: set {dtype_key} to '
                f"'float32' or 'bfloat16'")
    return (f'{found[0]} All weights are finite (the largest is {_largest(model):.2g}): if the '
            f'model was trained, its training has diverged, so take an earlier checkpoint and a '
            f'lower learning rate; see also that {dtype_key} is a type that the model was '
            f'published for')


def non_finite_weights(model: nn.Module) -> list[str]:
    """Names of parameters with NaN or infinity; of a sharded one, in this process's part."""
    return [name for name, value in model.named_parameters() if not _is_finite(_local(value))]


def _largest(model: nn.Module) -> float:
    return max((float(_local(value).detach().abs().max()) for value in model.parameters()
                if value.is_floating_point() and _local(value).numel()), default=0.0)


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(_local(tensor).isfinite().all())


def _tensors(value: Any) -> Iterator[Tensor]:
    """Those in nested tuples, lists and dicts (outputs of transformers are dicts)."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
