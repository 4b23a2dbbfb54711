# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Arranges the tokens of a forward pass in a grid."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Cells(NamedTuple):
    """The place of N tokens in a grid with one row for each sample or prompt.

    Attributes:
        rows: Number of rows.
        width: Cells in each row.
        tokens: (rows * width,) long, the token in each cell, an arbitrary one in an empty cell;
            None if all cells are full and the tokens in the grid's order.
        cells: (N,) long, the cell of each token; None as above.
    """

    rows: int
    width: int
    tokens: Tensor | None = None
    cells: Tensor | None = None

    @classmethod
    def of(cls, owners: Tensor, rows: int, device: torch.device) -> Cells:
        """Arrange N tokens by their row; ``owners`` is (N,), long, on the CPU."""
        counts = owners.bincount(minlength=rows)
        width = int(counts.max())
        if len(owners) == rows * width and bool((owners.diff() >= 0).all()):
            return cls(rows, width)
        order = owners.argsort(stable=True)
        full = (torch.arange(width) < counts[:, None]).flatten().nonzero()[:, 0]
        tokens, cells = order.new_zeros(rows * width), torch.empty_like(order)
        tokens[full], cells[order] = order, full
        return cls(rows, width, tokens.to(device), cells.to(device))

    def put(self, x: Tensor) -> Tensor:
        """(K, N, r, c) -> (K * rows, width * r, c)."""
        if self.tokens is not None:
            x = x.index_select(1, self.tokens)
        return x.view(x.shape[0] * self.rows, -1, x.shape[3])

    def take(self, x: Tensor, heads: int) -> Tensor:
        """(K * rows, width * r, c) -> (K, N, r, c)."""
        x = x.view(heads, self.rows * self.width, -1, x.shape[2])
        return x if self.cells is None else x.index_select(1, self.cells)


def moves(old: Cells, new: Cells) -> Tensor | None:
    """Which cell of the old grid each cell of a new one with the same tokens gets; None if the
    grids have the same order of cells."""
    if old.cells is None or new.tokens is None:
        return new.tokens if old.cells is None else old.cells
    return None if old is new else old.cells[new.tokens]


def regrid(x: Tensor, moves: Tensor | None, old: Cells, new: Cells) -> Tensor:
    """From one grid, ``old.put(...)``, to another."""
    if old is new:
        return x
    x = x.view(-1, old.rows * old.width, x.shape[1] // old.width, x.shape[2])
    if moves is not None:
        x = x.index_select(1, moves)
    return x.view(x.shape[0] * new.rows, -1, x.shape[3])
