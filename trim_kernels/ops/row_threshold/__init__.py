"""The threshold of every row: the first weight in pruning order that stays."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trim_kernels.checks import as_prune_count, check_scoring, check_weight


class RowThreshold(NamedTuple):
    """Where each row's pruning order is cut; weight (i, j) goes iff (its key, j) < (key[i], column[i])."""

    key: Tensor
    """int32 [R]: float32 bits of the score of the first weight that stays; 2^31 - 1 when none stays."""
    column: Tensor
    """int32 [R]: its column; C when none stays."""


def row_threshold(
    weight: Tensor,
    prune_count: int | Tensor,
    *,
    column_scale: Tensor | None = None,
    score: Tensor | None = None,
    check_values: bool = True,
    backend: str = "auto",
) -> RowThreshold:
    """Find, for each row, the (key, column) that separates its ``prune_count`` lowest scores from the rest.

    The score of weight (i, j) is ``abs(weight[i, j]) * column_scale[j]`` (one float32 product, never stored),
    or ``score[i, j]``, or ``abs(weight[i, j])``. Its key is the float32 bits of the score as an integer. Lowest scores
    go first, equal ones by lower column, as in a stable ascending sort.

    Args:
        weight: float32, bfloat16 or float16 [R, C], any strides.
        prune_count: how many weights of each row go: int, or int32 [R], from 0 to C.
        column_scale: float32 [C], finite, >= 0.
        score: float32 [R, C], finite, >= 0; not together with ``column_scale``.
        check_values: look for NaN, infinity, negative scores and counts out of range, and raise. On a GPU the host has
            to wait for that. With False the caller vouches for the values: a GPU backend then only enqueues kernels,
            so that the call may be captured in a CUDA graph; for bad values the result is unspecified. The CPU backend
            always looks.
        backend: "auto", "cuda", "triton", "cpu" (native) or "reference".

    Raises:
        ValueError: an argument has a wrong shape, dtype, device or value (NaN and infinity included), or the backend
            cannot run the call.
    """
    check_weight(weight)
    check_scoring(weight, column_scale, score)
    counts = as_prune_count(weight, prune_count)
    return RowThreshold(
        *torch.ops.trim_kernels.row_threshold(weight, counts, column_scale, score, check_values, backend)
    )
