"""Bytes that each method takes for one linear [R, C] beside its weight and its statistics.

One function for each name of a registry; a name that is not here (a plug-in's) counts as two float32 copies of the
weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ..output_error import ROWS_AT_ONCE
from ..tiles import values_of_tile

FLOAT, DOUBLE = 4, 8


@dataclass(frozen=True)
class Matrix:
    """A linear [R, C] of values of ``element`` bytes, and N input vectors that a row search looks at."""

    rows: int
    columns: int
    element: int
    vectors: int
    device: torch.device

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.rows * self.columns

    @property
    def tile(self) -> int:
        """Weights of the rows that are looked at together, see ``tiles.row_tiles``."""
        return min(self.size, max(values_of_tile(self.device), self.columns))


Bytes = Callable[[Matrix], int]


def nothing(_: Matrix) -> int:
    """A vector or two, which do not count."""
    return 0


def two_copies(matrix: Matrix) -> int:
    """Two float32 copies of the weight."""
    return 2 * FLOAT * matrix.size


def ria(matrix: Matrix) -> int:
    """The float32 scores, and four float64 tiles."""
    return FLOAT * matrix.size + 4 * DOUBLE * matrix.tile


def trim(matrix: Matrix) -> int:
    """The order of each row (int32) and its sorted keys, running outputs [R, N], and the inputs in float32; twice."""
    return 2 * FLOAT * (matrix.size + (matrix.rows + matrix.columns) * matrix.vectors)


def optimal(matrix: Matrix) -> int:
    """The error curves, at most a quarter of the columns long by default, twice."""
    return 2 * FLOAT * matrix.size // 4


def whole(matrix: Matrix) -> int:
    """Scores, keys and comparisons of a tile."""
    return 4 * FLOAT * matrix.tile


def mask(matrix: Matrix) -> int:
    """The packed mask."""
    return matrix.size // 8


def sparsegpt(matrix: Matrix) -> int:
    """The weight and the errors of its columns in float32, the mask, and a copy of it as it is packed."""
    return 2 * FLOAT * matrix.size + 2 * matrix.size


def swaps(matrix: Matrix) -> int:
    """The correlations of the columns, the mask, and six float32 tiles."""
    return FLOAT * matrix.columns**2 + matrix.size + 6 * FLOAT * matrix.tile


def alps(matrix: Matrix) -> int:
    """Correlations, their factor and its inverse; eleven float32 copies of the weight, and two masks."""
    return 3 * FLOAT * matrix.columns**2 + 11 * FLOAT * matrix.size + 2 * matrix.size


SCORE: Mapping[str, Bytes] = {"magnitude": nothing, "wanda": nothing, "obs": nothing, "ria": ria}
ROWS: Mapping[str, Bytes] = {"uniform": nothing, "trim": trim, "optimal": optimal, "whole": whole}
SOLVER: Mapping[str, Bytes] = {"mask": mask, "sparsegpt": sparsegpt, "swaps": swaps, "alps": alps}


def factor(columns: int) -> int:
    """The damped Gram matrix of C columns while it is factored; the factor itself stays with the statistics."""
    return FLOAT * columns**2


def corrected(matrix: Matrix) -> int:
    """What ``correction`` changes, through three products in float32, and the sum with the weight."""
    return 3 * FLOAT * matrix.size + matrix.size * matrix.element


def check(matrix: Matrix) -> int:
    """The mask in bools once more, what of the weight is not zero, and the sum over rows in whole numbers."""
    return 3 * matrix.size


def measure(matrix: Matrix) -> int:
    """Of some rows, the weight before and after in float32, their difference, and its product with the inputs."""
    return 4 * FLOAT * min(matrix.rows, ROWS_AT_ONCE) * matrix.columns
