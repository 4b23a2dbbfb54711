# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Group questions of similar length, so that batches need little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sized

from mmengine.dataset import DefaultSampler

from mmdpad.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class LengthSortedSampler(DefaultSampler):
    """mmengine's ``DefaultSampler`` without shuffling; each process takes the longest question of
    its share first.

    The first batch then needs the most memory, and the remaining time is overestimated rather than
    underestimated. Images are not loaded: the length is that of ``question`` in the data set's
    ``get_data_info``, in characters, since all model images have the same size. Equal lengths keep
    their order, and so does a data set without questions.

    Evaluators and metrics may identify results by position, so this sorts only for loops that
    restore the order of the data set: :class:`ReasonSegValLoop` and :class:`ReasonSegTestLoop`
    set ``longest_first``. In mmengine's own loops it acts as a ``DefaultSampler``.

    Attributes:
        longest_first: Whether to sort.

    Args:
        dataset: The data set.
        seed: Unused; mmengine passes it to every sampler.
        round_up: As in ``DefaultSampler``.
    """

    def __init__(self, dataset: Sized, seed: int | None = None, round_up: bool = True) -> None:
        super().__init__(dataset, shuffle=False, seed=0 if seed is None else seed,
                         round_up=round_up)
        self.longest_first = False
        self._lengths = _question_lengths(dataset)

    def __iter__(self) -> Iterator[int]:
        share = super().__iter__()
        return iter(sorted(share, key=lambda i: -self._lengths[i])) if self.longest_first else share


def _question_lengths(dataset: Sized) -> list[int]:
    """Characters in each item's question; all 0 if the data set does not say."""
    if not hasattr(dataset, 'get_data_info'):
        return [0] * len(dataset)
    questions = (dataset.get_data_info(i).get('question') for i in range(len(dataset)))
    return [len(question) if isinstance(question, str) else 0 for question in questions]
