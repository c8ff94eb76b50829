"""A matrix in parts, so that a pass over it takes little memory."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

TILE = 1 << 20


def row_tiles(matrix: Tensor) -> Iterator[slice]:
    """The rows of a matrix [R, C], some at a time: about a million values, at least one row."""
    step = max(1, TILE // matrix.shape[1])
    for first in range(0, len(matrix), step):
        yield slice(first, first + step)
