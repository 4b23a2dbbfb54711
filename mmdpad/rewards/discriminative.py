# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""R_dpad: does the caption fit the region better than the whole image, or another contrast?"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

# Each form maps (S1, S2, temperature, alpha) to a value that grows with the discrimination.
# 'softmax' at t and 'sigmoid' at a = 1 / t are one function; their defaults differ.
_Form = Callable[[Tensor, Tensor, float, float], Tensor]
_FORMS: dict[str, _Form] = {
    'binary': lambda s1, s2, t, a: (s1 > s2).to(s1.dtype),
    'margin': lambda s1, s2, t, a: (s1 - s2).clamp(min=0),
    'product': lambda s1, s2, t, a: s1.clamp(min=0) * (s1 - s2).clamp(min=0),
    'softmax': lambda s1, s2, t, a: torch.sigmoid((s1 - s2) / t),
    'roi': lambda s1, s2, t, a: s1.clamp(min=0),
    'sigmoid': lambda s1, s2, t, a: torch.sigmoid(a * (s1 - s2)),
}
DISCRIMINATIVE_FORMS = tuple(_FORMS)
_PART = re.compile(r'\s*(?:(?P<weight>\d+(?:\.\d*)?)\s*\*\s*)?(?P<name>\w+)\s*')


def discriminative_reward(region: Tensor,
                          contrast: Tensor,
                          form: str | Mapping[str, float] = 'binary',
                          temperature: float = 0.1,
                          alpha: float = 100.0) -> Tensor:
    """Reward a caption for matching its region (S1) better than the contrast (S2).

    ========= ================================== ======= ========================================
    form      value                              range   source
    ========= ================================== ======= ========================================
    binary    1 if S1 > S2 else 0                {0, 1}  DPAD paper, its main result
    margin    max(0, S1 - S2)                    [0, 2]  DPAD paper, ablation
    product   max(0, S1) * max(0, S1 - S2)       [0, 2]  DPAD's code (S1 not clamped there)
    softmax   exp(S1/t) / (exp(S1/t)+exp(S2/t))  (0, 1)  DPAD paper, ablation, t = 0.1
    sigmoid   1 / (1 + exp(-a * (S1 - S2)))      (0, 1)  'softmax' with t = 1/a; a = 100
    roi       max(0, S1)                         [0, 1]  DPAD paper, ablation (S1 not clamped)
    ========= ================================== ======= ========================================

    Forms can be added, which the paper names as future work: ``'binary+margin'`` is their sum,
    ``'binary+5*margin'`` or ``dict(binary=1, margin=5)`` their weighted sum.

    The lowest value of every form is 0. A response without a usable caption, or whose similarity
    is not finite, gets this value, as in the paper. So that 0 stays the lowest value where a cosine
    is negative, 'product' and 'roi' count a negative S1 as 0; in the sources, which do not, a
    caption unlike its region could score below a missing one.

    Args:
        region: (B, G) float, S1 = cos(caption, region), in [-1, 1]; NaN without a usable caption.
        contrast: (B, G) float, S2 = cos(caption, contrast); in the paper, the whole image.
        form: One of the names above, a sum of them, or their weights by name.
        temperature: t of 'softmax', positive.
        alpha: a of 'sigmoid', positive. The default is about the scale of CLIP's own logits.

    Returns:
        (B, G) tensor of the inputs' float type; always finite.

    Raises:
        ValueError: The shapes differ, or see :func:`check_form`.
    """
    weights = check_form(form, temperature, alpha)
    if region.shape != contrast.shape:
        raise ValueError(f'`region` and `contrast` should have the same shape, but got '
                         f'{tuple(region.shape)} and {tuple(contrast.shape)}')
    usable = region.isfinite() & contrast.isfinite()
    reward = torch.zeros_like(region)
    for name, weight in weights.items():
        reward = reward + weight * _FORMS[name](region, contrast, temperature, alpha)
    return torch.where(usable, reward, torch.zeros_like(reward))


def check_form(form: str | Mapping[str, float], temperature: float,
               alpha: float) -> dict[str, float]:
    """The weight of each form in a sum of forms.

    >>> check_form('binary+5*margin', 0.1, 100.0)
    {'binary': 1.0, 'margin': 5.0}

    Raises:
        ValueError: A form is unknown or named twice, a weight is negative or not finite, all
            weights are 0, or the temperature or alpha is not positive.
    """
    parts: list[tuple[Any, Any]] = []
    if isinstance(form, Mapping):
        parts = list(form.items())
    elif isinstance(form, str):
        parts = [(found['name'], float(found['weight'] or 1)) if (found := _PART.fullmatch(part))
                 else (part, None) for part in form.split('+')]
    weights = dict(parts)
    if not weights or not _FORMS.keys() >= weights.keys() or len(weights) < len(parts):
        raise ValueError(f"`form` should be one of {DISCRIMINATIVE_FORMS}, a sum of different ones "
                         f"with or without weights, as in 'binary+5*margin', or a dict of "
                         f'weights, as in dict(binary=1, margin=5), but got {form!r}')
    if not all(isinstance(weight, int | float) and 0 <= weight < math.inf
               for weight in weights.values()) or not any(weights.values()):
        raise ValueError(f'`form` should have finite weights, none negative and not all 0, but got '
                         f'{weights}')
    if not (temperature > 0 and alpha > 0):
        raise ValueError(f'`temperature` and `alpha` should be positive, but got {temperature} '
                         f'and {alpha}')
    return {name: float(weight) for name, weight in weights.items()}
