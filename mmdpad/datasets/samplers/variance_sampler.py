# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Ask questions more often that are neither too easy nor too hard."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import torch
from mmengine.dataset import InfiniteSampler

from mmdpad.datasets.difficulty import read_pass_rates
from mmdpad.registry import DATA_SAMPLERS
from mmdpad.utils.number_checks import check_number


@DATA_SAMPLERS.register_module()
class VarianceSampler(InfiniteSampler):
    """Draws questions by the variance of their outcome, with replacement and without end: the
    outcome variance p (1 - p) of variance-aware sampling (MMR1, arXiv 2509.21268).

    The probability of question i of N with the pass rate p_i is

        (1 - uniform) * p_i (1 - p_i) / sum_j p_j (1 - p_j) + uniform / N.

    Pass rates are those before the training, so the order depends on nothing but the seed, and a
    resumed run continues exactly.

    Args:
        dataset: The data set.
        file: Of ``mmdpad run estimate_difficulty``.
        uniform: The share of draws from all questions alike, in [0, 1].
        seed: As in mmengine.

    Raises:
        ValueError: ``uniform`` is no share, or all questions are always or never answered right.
        DatasetError: The file has no pass rate of a question.
    """

    def __init__(self, dataset: Sized, file: str, uniform: float = 0.5,
                 seed: int | None = None) -> None:
        check_number('uniform', uniform, 'in [0, 1]', lambda share: 0 <= share <= 1)
        super().__init__(dataset, shuffle=True, seed=seed)
        items = [dataset.get_data_info(number)  # type: ignore[attr-defined]
                 for number in range(len(dataset))]
        rates = torch.tensor(read_pass_rates(file, items), dtype=torch.float64)
        variance = rates * (1 - rates)
        if not variance.sum():
            raise ValueError(f'`file` should have questions that are answered right sometimes, but '
                             f'in {file!r} each is answered right always or never; estimate with '
                             f'more responses')
        self.probabilities = (1 - uniform) * variance / variance.sum() + uniform / len(items)

    def _infinite_indices(self) -> Iterator[int]:
        """Yield indices for all processes."""
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield from torch.multinomial(self.probabilities, self.size, replacement=True,
                                         generator=generator).tolist()
