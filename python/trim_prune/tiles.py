"""A matrix in parts, so that a pass over it takes little memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

TILE = 1 << 20
TIMES_ON_GPU = 8
"""So many times as much on a GPU, where the launches for a small tile take longer than what they compute."""


def values_of_tile(device: torch.device) -> int:
    """About so many values of a matrix on this device are looked at together."""
    return TILE if device.type == "cpu" else TIMES_ON_GPU * TILE


def row_tiles(matrix: Tensor, device: torch.device | None = None) -> Iterator[slice]:
    """The rows of a matrix [R, C], some at a time: about as many values as a tile has, at least one row.

    ``device``: where they are looked at, if that is not where the matrix lies.
    """
    step = max(1, values_of_tile(device or matrix.device) // matrix.shape[1])
    for first in range(0, len(matrix), step):
        yield slice(first, first + step)
