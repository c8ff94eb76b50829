"""A matrix in parts, so that a pass over it takes little memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

TILE = 1 << 20
TIMES_ON_GPU = 8
"""So many times as much there, where it is not what is computed that takes the time of a small tile."""


def values_of_tile(device: torch.device) -> int:
    """About so many values of a matrix on this device are looked at together."""
    return TILE if device.type == "cpu" else TIMES_ON_GPU * TILE


def row_tiles(matrix: Tensor) -> Iterator[slice]:
    """The rows of a matrix [R, C], some at a time: about as many values as a tile has, at least one row."""
    step = max(1, values_of_tile(matrix.device) // matrix.shape[1])
    for first in range(0, len(matrix), step):
        yield slice(first, first + step)
