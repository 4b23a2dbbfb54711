# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The prepared training data of Seg-Zero, VisionReasoner and DPAD: tables with embedded images."""

from __future__ import annotations

from typing import Any

from mmdpad.prompts import parse_objects_solution
from mmdpad.registry import DATASETS

from .errors import DatasetError
from .table_dataset import TableDataset


@DATASETS.register_module()
class SegZeroDataset(TableDataset):
    """Images with a question, boxes and points: the copies for training.

    These are ``Ricky06662/refCOCOg_2k_840``, ``refCOCOg_9k_840`` and, with several objects per
    question, ``VisionReasoner_multi_object_7k_840``, in the formats of :class:`TableDataset`. A row
    has ``id``, ``problem`` (the question), ``solution`` (the targets,
    :func:`mmdpad.prompts.parse_objects_solution`) and ``image``. The published copies store images
    already resized to 840 x 840, and solutions in pixels of these; ``img_height`` and
    ``img_width``, the original size, are not needed. There are no masks.

    Every text is checked when the data set is built; ids may repeat. An item also has
    ``solution``, ``solution_shape`` (h, w) and ``num_targets``.

    Args:
        data_root: Folder of the copy.
        split: The split to read.
        solution_size: (width, height) of the frame that solutions are in, in pixels.
        **kwargs: See :class:`ReasoningDataset`; ``num_samples=3000`` is the published recipe,
            ``several_objects=True`` is for the multi-object copy.
    """

    columns = ('id', 'problem', 'solution')
    question_column = 'problem'

    def __init__(self, data_root: str, split: str = 'train',
                 solution_size: tuple[int, int] = (840, 840), **kwargs: Any) -> None:
        if len(solution_size) != 2 or min(solution_size) < 1:
            raise ValueError('`solution_size` should be (width, height), positive integers in '
                             f'pixels, but got {solution_size}')
        self.solution_size = tuple(solution_size)
        super().__init__(data_root, split, **kwargs)

    def read_row(self, row: dict[str, Any], where: str) -> dict:
        """The solution of a row, after checking every box and point."""
        solution, (width, height) = row['solution'].as_py(), self.solution_size
        try:
            objects = parse_objects_solution(str(solution))
        except ValueError as error:
            raise DatasetError(f'{where}: {error}; correct it, or remove the row',
                               'wrong solution') from error
        for (x1, y1, x2, y2), points in objects:
            all_inside = all(x <= width and y <= height for x, y in ((x2, y2), *points))
            if not (all_inside and x1 <= x2 and y1 <= y2):
                raise DatasetError(
                    f'`solution` of {where} should be x1 <= x2, y1 <= y2 and within '
                    f'`solution_size` {width} x {height}, but got {solution!r}; correct it, or '
                    'set `solution_size`', 'wrong solution')
        return dict(img_id=row['id'].as_py(), solution=solution, solution_shape=(height, width),
                    num_targets=len(objects))
