# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Finds where NaN or infinity in a model's outputs comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

DTYPE_KEY = '`model.policy.dtype` (under AMP `optim_wrapper.dtype`)'
"""Config key of the dtype that a policy computes in."""
_SHOWN = 4


class NonFiniteError(FloatingPointError):
    """A model's outputs are NaN or infinite; the message names the first such layer and the fix.

    Args:
        message: One or more sentences.
        prompt: Index of the prompt in its batch, if the error concerns a single one.
    """

    def __init__(self, message: str, prompt: int | None = None) -> None:
        super().__init__(message)
        self.prompt = prompt


@contextmanager
def naming_samples(data_samples: Sequence[Any]) -> Iterator[None]:
    """Add the question and the image to an error about a prompt of these data samples."""
    try:
        yield
    except NonFiniteError as error:
        if error.prompt is None:
            raise
        raise NonFiniteError(f'{error}. {describe_sample(data_samples[error.prompt])}',
                             error.prompt) from error.__cause__


@contextmanager
def shared_message() -> Iterator[None]:
    """When every process raises an error, use the message of the process that knows the prompt.

    The first process to exit ends the others, so any of them may be the one that is seen.
    """
    try:
        yield
    except NonFiniteError as error:
        texts = all_gather_object('' if error.prompt is None else str(error))
        raise NonFiniteError(next(filter(None, texts))) from error.__cause__


def describe_sample(sample: Any) -> str:
    """Describe a data sample by its question, image and index."""
    about = (f'{name} {value!r}' for name in ('question', 'img_path', 'sample_idx')
             if (value := sample.get(name)) is not None)
    return f'The prompt: {", ".join(about)}'


@contextmanager
def watched_outputs(model: nn.Module) -> Iterator[list[str]]:
    """Find the first module whose output is not finite, in forward passes within the block.

    This is slow, since every output is checked.

    Yields:
        A list that gets one sentence about that module, or stays empty.
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
            said = f', although its input is finite (up to {given.abs().max():.2g})'
        elif given is not None:
            said = '; its input, which no other module computed, is not finite either'
        found.append(f'The first output that is not finite comes from `{names[module]}` '
                     f'({type(module).__name__}, {dtype.removeprefix("torch.")}){said}.')

    handles = [module.register_forward_hook(look, with_kwargs=True) for module in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def diagnose(model: nn.Module, again: Callable[[], Any], dtype_key: str) -> str:
    """Explain why a model's outputs are not finite: the first such module and weights, and the fix.

    Args:
        model: The model.
        again: Repeats the forward pass.
        dtype_key: The config key of the dtype that the model computes in.
    """
    with torch.no_grad(), watched_outputs(model) as found:
        again()
    return explain(model, found, dtype_key)


def explain(model: nn.Module, found: list[str], dtype_key: str) -> str:
    """See :func:`diagnose`; ``found`` comes from :func:`watched_outputs`."""
    if not found:
        found = ['All outputs are finite when the pass is repeated, so the weights or inputs were '
                 'different, or the computation is at fault (a compiled step, a device).']
    if bad := non_finite_weights(model):
        more = f' and {len(bad) - _SHOWN} more' if len(bad) > _SHOWN else ''
        return (f'{found[0]} Some weights are not finite: {", ".join(bad[:_SHOWN])}{more}. Their '
                f'file is damaged, or the training that wrote it diverged: use an earlier '
                f'checkpoint, or download the file again')
    if 'float16)' in found[0] and 'bfloat16)' not in found[0]:
        return (f'{found[0]} All weights are finite, but float16 overflows at 65504: set '
                f"{dtype_key} to 'float32' or 'bfloat16'")
    return (f'{found[0]} All weights are finite (the largest is {_largest(model):.2g}): if they '
            f'were trained, training probably diverged, so use an earlier checkpoint and a '
            f'lower learning rate; otherwise set {dtype_key} to the type that the model was '
            f'published in')


def non_finite_weights(model: nn.Module) -> list[str]:
    """List parameters with NaN or infinity (of a sharded one, in this process's part)."""
    return [name for name, value in model.named_parameters() if not _is_finite(value)]


def local_part(value: Tensor) -> Tensor:
    """Return a tensor, or this process's part of a sharded one."""
    return value.to_local() if isinstance(value, DTensor) else value


def _largest(model: nn.Module) -> float:
    parts = (local_part(value).detach() for value in model.parameters())
    return max((float(part.abs().max()) for part in parts
                if part.is_floating_point() and part.numel()), default=0.0)


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(local_part(tensor).isfinite().all())


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and dicts (transformers' outputs are dicts)."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
