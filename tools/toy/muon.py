# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Muon in float32 (torch's own uses bfloat16, which is very slow on many CPUs)."""
from __future__ import annotations

import torch
from torch import Tensor


def orthogonalize(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Move the singular values of matrices (N, R, C) close to 1 with a quintic iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalized steps, for matrices inside a network.

    Args:
        params: Parameters with two dimensions.
        lr: Learning rate.
        momentum: Decay rate of the running mean of gradients (Nesterov's form).
        weight_decay: Decoupled, times `lr`.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self) -> None:
        """Take one step; matrices of the same shape are orthogonalized together."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group['params']:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                for parameter in parameters:
                    buffer = self.state[parameter].setdefault('momentum',
                                                              torch.zeros_like(parameter))
                    buffer.lerp_(parameter.grad, 1 - group['momentum'])
                    parameter.grad.lerp_(buffer, group['momentum'])
                updates = orthogonalize(torch.stack([p.grad for p in parameters]))
                scale = group['lr'] * max(1, shape[0] / shape[1])**0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group['lr'] * group['weight_decay'])
                    parameter.sub_(update, alpha=scale)
