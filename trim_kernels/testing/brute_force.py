"""The pruning order by its definition, in plain Python: slow and easy to trust."""

from __future__ import annotations

import ctypes
import math
from fractions import Fraction

from torch import Tensor


def pruning_order(
    weight: Tensor, *, column_scale: Tensor | None = None, score: Tensor | None = None
) -> list[list[int]]:
    """Columns of each row, sorted by (score, column)."""
    rows = row_scores(weight, column_scale=column_scale, score=score)
    return [sorted(range(len(row)), key=lambda column, row=row: (row[column], column)) for row in rows]  # type: ignore[misc]


def nm_kept(
    weight: Tensor, keep: int, of: int, *, column_scale: Tensor | None = None, score: Tensor | None = None
) -> list[list[bool]]:
    """Whether each weight is among the last ``keep`` of its group of ``of`` columns in pruning order."""
    return [
        [kept for first in range(0, len(row), of) for kept in _kept_of_group(row[first : first + of], keep, of)]
        for row in row_scores(weight, column_scale=column_scale, score=score)
    ]


def _kept_of_group(group: list[float], keep: int, of: int) -> list[bool]:
    order = sorted(range(len(group)), key=lambda column: (group[column], column))
    kept = order[len(group) - math.ceil(Fraction(keep * len(group), of)) :]
    return [column in kept for column in range(len(group))]


def row_scores(weight: Tensor, *, column_scale: Tensor | None = None, score: Tensor | None = None) -> list[list[float]]:
    """The score of every weight, as Python floats that are exact float32 values."""
    if score is not None:
        return [[abs(value) for value in row] for row in score.tolist()]
    scale = [1.0] * weight.shape[1] if column_scale is None else column_scale.tolist()
    # The product of two float32 is exact in float64, so c_float rounds once, as a float32 product does.
    return [[ctypes.c_float(abs(w) * abs(s)).value for w, s in zip(row, scale, strict=True)] for row in weight.tolist()]
