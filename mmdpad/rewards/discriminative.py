# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""R_dpad: does the caption fit the region better than the whole image, or another contrast?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Each form maps (S1, S2, temperature, alpha) to a value that grows with the discrimination.
_Form = Callable[[Tensor, Tensor, float, float], Tensor]
_FORMS: dict[str, _Form] = {
    'binary': lambda s1, s2, t, a: (s1 > s2).to(s1.dtype),
    'margin': lambda s1, s2, t, a: (s1 - s2).clamp(min=0),
    'binary+margin': lambda s1, s2, t, a: (s1 > s2).to(s1.dtype) + (s1 - s2).clamp(min=0),
    'product': lambda s1, s2, t, a: s1.clamp(min=0) * (s1 - s2).clamp(min=0),
    'softmax': lambda s1, s2, t, a: torch.sigmoid((s1 - s2) / t),
    'roi': lambda s1, s2, t, a: s1.clamp(min=0),
    'sigmoid': lambda s1, s2, t, a: torch.sigmoid(a * (s1 - s2)),
}
DISCRIMINATIVE_FORMS = tuple(_FORMS)


def discriminative_reward(region: Tensor,
                          contrast: Tensor,
                          form: str = 'binary',
                          temperature: float = 0.1,
                          alpha: float = 10.0) -> Tensor:
    """Reward a caption for matching its region (S1) better than the contrast (S2).

    ============= ================================== ======= ===================================
    form          value                              range   source
    ============= ================================== ======= ===================================
    binary        1 if S1 > S2 else 0                {0, 1}  DPAD paper, its main result
    margin        max(0, S1 - S2)                    [0, 2]  DPAD paper, ablation
    binary+margin the sum of these two               [0, 3]  named as future work in the paper
    product       max(0, S1) * max(0, S1 - S2)       [0, 2]  DPAD's code (S1 not clamped there)
    softmax       exp(S1/t) / (exp(S1/t)+exp(S2/t))  (0, 1)  DPAD paper, ablation, t = 0.1
    roi           max(0, S1)                         [0, 1]  DPAD paper, ablation (S1 not clamped)
    sigmoid       1 / (1 + exp(-a * (S1 - S2)))      (0, 1)  named as future work in the paper
    ============= ================================== ======= ===================================

    The lowest value of every form is 0, and it is what a response gets that has no usable caption
    or whose similarity is not finite, as in the paper. To keep that true where a cosine is
    negative, 'product' and 'roi' count a negative S1 as 0; the sources do not, so a caption unlike
    its region could score below a missing one. Two-way softmax at t equals sigmoid at a = 1/t.

    Args:
        region: (B, G) float, S1 = cos(caption, region), in [-1, 1]; NaN without a usable caption.
        contrast: (B, G) float, S2 = cos(caption, contrast), in the paper the whole image.
        form: One of the names above.
        temperature: t of 'softmax', positive.
        alpha: a of 'sigmoid', positive.

    Returns:
        (B, G) tensor of the inputs' float type; always finite.

    Raises:
        ValueError: Unknown form, shapes that differ, or a temperature or alpha not positive.
    """
    check_form(form, temperature, alpha)
    if region.shape != contrast.shape:
        raise ValueError(f'`region` and `contrast` should have one shape, but got '
                         f'{tuple(region.shape)} and {tuple(contrast.shape)}')
    usable = region.isfinite() & contrast.isfinite()
    reward = _FORMS[form](region, contrast, temperature, alpha)
    return torch.where(usable, reward, torch.zeros_like(reward))


def check_form(form: str, temperature: float, alpha: float) -> None:
    """Raise the ValueError of :func:`discriminative_reward`, before there is anything to score."""
    if form not in _FORMS:
        raise ValueError(f'`form` should be one of {DISCRIMINATIVE_FORMS}, but got {form!r}')
    if not (temperature > 0 and alpha > 0):
        raise ValueError(f'`temperature` and `alpha` should be positive, but got {temperature} '
                         f'and {alpha}')
